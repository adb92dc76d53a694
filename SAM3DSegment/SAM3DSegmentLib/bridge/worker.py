"""Work beside the main thread: the command line in a child process, and file access in a thread.

Slicer stays responsive, and running out of memory costs the child only. All callbacks come on the main thread.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import slicer

import qt

logger = logging.getLogger(__name__)

PATIENCE_MS = 2000  # how long a cancelled child may take to stop by itself
CANCELLED_EXIT_CODE = 130  # see cli.py
KEPT_LINES = 40  # of the child's log, for an error message
POLLING_MS = 20

_threads = ThreadPoolExecutor(1, "SAM3DSegment")


def pythonExecutable() -> str:
    """Slicer's own Python, which sees the packages that Slicer installed."""
    bundled = Path(slicer.app.slicerHome) / "bin" / "PythonSlicer"
    for candidate in (bundled, bundled.with_suffix(".exe")):
        if candidate.is_file():
            return str(candidate)
    return shutil.which("PythonSlicer") or "PythonSlicer"


def progressReader(onProgress: Callable[[str, int, int, float | None], None]) -> Callable[[str], None]:
    """For CommandProcess: turns the lines of `--progress json` into onProgress(stage, done, total, seconds to go)."""

    def read(line: str) -> None:
        try:
            progress = json.loads(line)
            values = progress["stage"], progress["done"], progress["total"], progress["eta_s"]
        except (ValueError, KeyError, TypeError):
            logger.info("%s", line)  # a library's own words
            return
        onProgress(*values)

    return read


class BackgroundCall:
    """A function without Qt and MRML in a thread; then onDone(its result) or onFailed(its exception)."""

    def __init__(
        self, function: Callable[[], Any], onDone: Callable[[Any], None], onFailed: Callable[[Exception], None]
    ) -> None:
        self._onDone = onDone
        self._onFailed = onFailed
        self._future: Future = _threads.submit(function)
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._poll)
        self._timer.start(POLLING_MS)

    def _poll(self) -> None:
        if not self._future.done():
            return
        self._timer.stop()
        error = self._future.exception()
        if error is None:
            self._onDone(self._future.result())
        elif isinstance(error, Exception):
            self._onFailed(error)


class CommandProcess:
    """One run of `sam3dsegment ARGUMENTS`; onLine(text) is called for each line of its standard output.

    Exactly one of onFinished(), onFailed(message) and onCancelled() is called at the end.
    """

    def __init__(
        self,
        arguments: list[str],
        onLine: Callable[[str], None],
        onFinished: Callable[[], None],
        onFailed: Callable[[str], None],
        onCancelled: Callable[[], None],
    ) -> None:
        self._onLine = onLine
        self._onFinished = onFinished
        self._onFailed = onFailed
        self._onCancelled = onCancelled
        self._arguments = arguments
        self._cancelling = False
        self._ended = False
        self._partialLine = b""
        self._log: list[str] = []
        self._process = qt.QProcess()
        self._process.connect("readyReadStandardOutput()", self._readOutput)
        self._process.connect("readyReadStandardError()", self._readLog)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._processFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._processFailed)
        self._killTimer = qt.QTimer()
        self._killTimer.setSingleShot(True)
        self._killTimer.connect("timeout()", self._process.kill)

    def start(self) -> None:
        environment = qt.QProcessEnvironment.systemEnvironment()
        moduleFolder = str(Path(__file__).resolve().parents[2])
        environment.insert("PYTHONPATH", moduleFolder)
        environment.insert("PYTHONUNBUFFERED", "1")
        self._process.setProcessEnvironment(environment)
        command = ["-m", "SAM3DSegmentLib", *self._arguments]
        logger.info("Running %s %s", pythonExecutable(), " ".join(command))
        self._process.start(pythonExecutable(), command)

    def cancel(self) -> None:
        """Ask the child to stop, and stop it if it does not."""
        self._cancelling = True
        if self._process.state() != qt.QProcess.NotRunning:
            self._process.terminate()
            self._killTimer.start(PATIENCE_MS)

    def abandon(self) -> None:
        """Stop the child at once, without any callback; for when the module is closed."""
        self._ended = True
        self._killTimer.stop()
        self._process.kill()
        self._process.waitForFinished(PATIENCE_MS)

    def processId(self) -> int:
        return int(self._process.processId())

    def _readOutput(self) -> None:
        self._partialLine += self._process.readAllStandardOutput().data()
        *lines, self._partialLine = self._partialLine.split(b"\n")
        for line in lines:
            self._onLine(line.decode("utf-8", "replace"))

    def _readLog(self) -> None:
        text = self._process.readAllStandardError().data().decode("utf-8", "replace")
        self._log = (self._log + text.splitlines())[-KEPT_LINES:]

    def _processFinished(self, exitCode: int, exitStatus: int) -> None:
        if self._ended:
            return
        self._readOutput()
        self._readLog()
        self._end()
        if self._cancelling or exitCode == CANCELLED_EXIT_CODE:
            self._onCancelled()
        elif exitStatus == qt.QProcess.CrashExit:
            self._onFailed(
                "the computing process was stopped from outside, often because memory ran out; close other programs, "
                "or choose an ROI."
            )
        elif exitCode:
            self._onFailed(self._reason())
        else:
            self._onFinished()

    def _processFailed(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart and not self._ended:
            self._end()
            self._onFailed(
                f"{pythonExecutable()!r} could not be started; reinstall Slicer, or check its folder's rights."
            )

    def _end(self) -> None:
        self._ended = True
        self._killTimer.stop()

    def _reason(self) -> str:
        """The line in which the command says what is wrong, else the end of what it said."""
        errors = [line.partition("ERROR: ")[2] for line in self._log if line.startswith("ERROR: ")]
        return errors[-1] if errors else "\n".join(self._log[-10:]) or "the computing process gave no reason."
