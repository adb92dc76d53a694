"""Work outside of the main thread: the command line in a child process, and file access in a thread.

Slicer stays responsive, and running out of memory costs the child only. All callbacks are called on the main thread.

Slicer's Python is started by a launcher, a process of its own that passes on streams but no signals. So the child is
asked to stop by closing its standard input, and reports its process id, by which it can be killed as a last resort.

In Slicer a connected method keeps its object alive for as long as the sender lives, and no garbage collection sees
that. So each object here releases everything at its end, and has its Qt objects deleted once their slots have returned.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from ..base import stop
from ..base.errors import InputError
from .problems import explain

logger = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int, float | None], None]  # stage, steps done, steps in all, seconds to go
PATIENCE_MS = 2000  # how long a cancelled child may take to stop by itself; it ends itself earlier, see stop.py
KEPT_LINES = 40  # of the child's log, for an error message
POLLING_MS = 20
LAUNCHER_CRASH = "exit abnormally"  # in the log of a launcher whose process was killed or crashed; it exits with 1

_threads = ThreadPoolExecutor(1, "SAM3DSegment")  # a single thread, so that calls run one after the other
_readers = ThreadPoolExecutor(1, "SAM3DSegment reader")
_running: set[BackgroundCall | CommandProcess] = set()  # kept alive until their end


def pythonExecutable() -> str:
    """Slicer's own Python, which sees the packages that Slicer installed."""
    bundled = Path(slicer.app.slicerHome) / "bin" / "PythonSlicer"
    for candidate in (bundled, bundled.with_suffix(".exe")):
        if candidate.is_file():
            return str(candidate)
    return shutil.which("PythonSlicer") or "PythonSlicer"


def ignore(*_arguments: Any) -> None:
    """Replaces a callback that must not be called any more, and must not keep its object alive."""


def progressReader(onProgress: OnProgress, onEvent: Callable[[dict[str, Any]], None] = ignore) -> Callable[[str], None]:
    """For CommandProcess: turns the lines of `--progress json` into onProgress(stage, done, total, seconds to go).

    onEvent gets the object of a line that names an event; its exceptions are logged, and the work goes on.
    """

    def read(line: str) -> None:
        try:
            report = json.loads(line)
            isEvent = isinstance(report, dict) and "event" in report
            values = () if isEvent else (report["stage"], report["done"], report["total"], report["eta_s"])
        except (ValueError, KeyError, TypeError):
            logger.info("%s", line)  # printed by a library
            return
        if not isEvent:
            onProgress(*values)
            return
        try:
            onEvent(report)
        except Exception:
            logger.exception("a report of the computing process could not be shown: %s", line)

    return read


def lastObject(lines: list[str]) -> dict[str, Any]:
    """The last line that is a JSON object; libraries may print lines of their own after it."""
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    raise InputError(_("the check gave no findings; see the application log."))


def removeFolder(folder: Path) -> None:
    """Remove a folder once no BackgroundCall writes into it any more."""
    _threads.submit(shutil.rmtree, folder, ignore_errors=True).result()


class BackgroundCall:
    """A function without Qt and MRML in a thread; then onDone(its result) or onFailed(its exception).

    With `onlyReads` a long call does not delay calls that write.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        onDone: Callable[[Any], None],
        onFailed: Callable[[BaseException], None],
        onlyReads: bool = False,
    ) -> None:
        self._onDone = onDone
        self._onFailed = onFailed
        self._future: Future | None = (_readers if onlyReads else _threads).submit(function)
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._poll)
        self._timer.start(POLLING_MS)
        _running.add(self)

    def abandon(self) -> None:
        """Forget the call; its callbacks are not called any more."""
        if self._future is None:
            return
        _running.discard(self)
        self._future.cancel()  # if it has not started
        self._future = None
        self._onDone = self._onFailed = ignore
        self._timer.stop()
        self._timer.deleteLater()

    def _poll(self) -> None:
        future, onDone, onFailed = self._future, self._onDone, self._onFailed
        if future is None or not future.done():
            return
        self.abandon()
        error = future.exception()
        if error is None:
            onDone(future.result())
        else:
            onFailed(error)


class CommandProcess:
    """One run of `sam3dsegment ARGUMENTS`; onLine(text) is called for each line of its standard output.

    Exactly one of onFinished(), onFailed(message) and onCancelled() is called at the end. With `folder` it runs in
    there, so that bare file names suffice: on Windows ITK cannot open a path with characters outside of the code page.
    """

    def __init__(
        self,
        arguments: list[str],
        onLine: Callable[[str], None],
        onFinished: Callable[[], None],
        onFailed: Callable[[str], None],
        onCancelled: Callable[[], None],
        folder: Path | None = None,
    ) -> None:
        self._onLine = onLine
        self._onFinished = onFinished
        self._onFailed = onFailed
        self._onCancelled = onCancelled
        self._arguments = arguments
        self._folder = folder
        self._cancelling = False
        self._ended = False
        self._failure = ""  # of our own code, when it read a line
        self._childId = 0
        self._childIsKilled = False
        self._partialLine = b""
        self._partialLog = b""
        self._log: list[str] = []
        self._process = qt.QProcess()
        self._process.connect("readyReadStandardOutput()", self._readOutput)
        self._process.connect("readyReadStandardError()", self._readLog)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._processFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._processFailed)
        self._killTimer = qt.QTimer()
        self._killTimer.setSingleShot(True)
        self._killTimer.connect("timeout()", self._kill)

    def start(self) -> None:
        environment = qt.QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
        environment.insert("PYTHONUNBUFFERED", "1")
        environment.insert("PYTHONUTF8", "1")  # on Windows the log would be in the code page
        environment.insert("PYTHONSAFEPATH", "1")  # else a torch.py in the current folder would be taken for torch
        environment.insert(stop.VARIABLE, "1")
        if self._folder is not None:
            environment.insert(stop.FOLDER_VARIABLE, str(self._folder))
            self._process.setWorkingDirectory(str(self._folder))
        self._process.setProcessEnvironment(environment)
        command = ["-m", "SAM3DSegmentLib", *self._arguments]
        logger.info("Running %s %s", pythonExecutable(), " ".join(command))
        _running.add(self)
        self._process.start(pythonExecutable(), command)

    def finish(self) -> None:
        """Ask the child, which trains, to end early with what it has reached; onFinished() is called then."""
        if self._isRunning():
            self._process.write(stop.FINISH)

    def cancel(self) -> None:
        """Ask the child to stop, and stop it if it does not."""
        self._cancelling = True
        if self._isRunning():
            self._process.closeWriteChannel()
            self._killTimer.start(PATIENCE_MS)

    def abandon(self) -> None:
        """Stop the child, without any callback, and return when it has ended; for when the module is closed."""
        if self._ended:
            return
        self._onLine = self._onFinished = self._onFailed = self._onCancelled = ignore
        if self._isRunning():
            for stopIt in (self._process.closeWriteChannel, self._kill, self._kill):
                stopIt()
                if self._process.waitForFinished(PATIENCE_MS):
                    break
        self._end()

    def childId(self) -> int:
        """Process id of the real Python, which the launcher has started; 0 before it is known."""
        return self._childId

    def _isRunning(self) -> bool:
        return not self._ended and self._process.state() != qt.QProcess.NotRunning

    def _kill(self) -> None:
        """Kill the child, with which its launcher ends; the launcher itself if that is unknown or was of no effect."""
        if self._childId and not self._childIsKilled:
            self._childIsKilled = True
            with contextlib.suppress(OSError):  # it has just ended
                os.kill(self._childId, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has only SIGTERM
            self._killTimer.start(PATIENCE_MS)
        else:
            self._process.kill()

    def _readOutput(self) -> None:
        self._partialLine += self._process.readAllStandardOutput().data()
        *lines, self._partialLine = self._partialLine.split(b"\n")
        for line in lines:
            self._readLine(line.decode("utf-8", "replace"))

    def _readLine(self, line: str) -> None:
        if not self._childId and line.startswith('{"process_id": '):
            self._childId = json.loads(line)["process_id"]
            return
        try:
            self._onLine(line)
        except Exception as error:  # Slicer would only print it, and the panel would wait for ever
            self._failure = explain(error)
            self._onLine = ignore
            self.cancel()

    def _readLog(self) -> None:
        self._partialLog += self._process.readAllStandardError().data()
        *lines, self._partialLog = self._partialLog.split(b"\n")
        self._log = (self._log + [line.decode("utf-8", "replace").rstrip() for line in lines])[-KEPT_LINES:]

    def _processFinished(self, exitCode: int, exitStatus: int) -> None:
        if self._ended:
            return
        self._readOutput()
        self._readLog()
        if self._partialLog:
            self._log.append(self._partialLog.decode("utf-8", "replace"))
        onFinished, onFailed, onCancelled = self._onFinished, self._onFailed, self._onCancelled
        self._end()
        if self._failure:
            onFailed(self._failure)
        elif self._cancelling or exitCode == stop.CANCELLED:
            onCancelled()
        elif exitStatus == qt.QProcess.CrashExit or (exitCode and LAUNCHER_CRASH in "".join(self._log[-2:])):
            onFailed(
                "the computing process was stopped from outside, often because memory ran out; close other programs, "
                "or choose an ROI."
            )
        elif exitCode:
            onFailed(self._reason())
        else:
            onFinished()

    def _processFailed(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart and not self._ended:
            onFailed = self._onFailed
            self._end()
            onFailed(f"{pythonExecutable()!r} could not be started; reinstall Slicer, or check its permissions.")

    def _end(self) -> None:
        if self._ended:
            return
        _running.discard(self)
        self._ended = True
        self._onLine = self._onFinished = self._onFailed = self._onCancelled = ignore
        self._killTimer.stop()
        self._killTimer.deleteLater()
        self._process.deleteLater()

    def _reason(self) -> str:
        """The last error message of the command, else the end of its log."""
        errors = [line.partition("ERROR: ")[2] for line in self._log if line.startswith("ERROR: ")]
        return errors[-1] if errors else "\n".join(self._log[-10:]) or "the computing process gave no reason."
