"""The near end of a connection: starts ssh, sends what a command needs, and receives what it says and makes."""

from __future__ import annotations

import contextlib
import logging
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base.errors import Cancelled, InputError
from ..base.stop import CANCELLED
from ..base.watch import UNWATCHED, Watch
from . import ssh
from .parcel import Parcel
from .protocol import (
    GREETING,
    VERSION,
    Frame,
    Lost,
    Outbox,
    is_sign_of_life,
    place_in,
    read_frame,
    receive_file,
    send_file,
)

logger = logging.getLogger(__name__)

NOTHING_LEFT = "nothing is left there; run the command again."
_MOST_CHATTER = 2**16  # bytes that the shell there may say before our program does
_PATIENCE_S = 5.0  # for ssh to end when its connection has
_HANDING_OVER_S = 0.3  # for ssh to send the last words; a cancelled process ends itself 1.5 s after it was asked
_LEVELS = {"ERROR: ": logging.ERROR, "WARNING: ": logging.WARNING, "INFO: ": logging.INFO, "DEBUG: ": logging.DEBUG}


class FailedThereError(InputError):
    """The command has failed on the other computer, where nothing of it is left; the connection can be used again."""


class Connection:
    """A context: our program on `host`, which does one piece of work after the other. At its end nothing is left there.

    hello: what it said of itself, see `server.hello`.
    """

    def __init__(self, host: str, watch: Watch = UNWATCHED) -> None:
        """Raises InputError, one line, if it cannot be had or is another version; Cancelled."""
        self.host = host
        self._watch = watch
        self._inbox: queue.Queue[Frame | None] = queue.Queue(8)
        self._said = b""
        self._has_begun = False
        self._consequence = NOTHING_LEFT  # of losing the connection
        self._process = ssh.start(host)
        assert self._process.stdin is not None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._read_errors)]
        for thread in self._threads:
            thread.start()
        self._outbox = Outbox(self._process.stdin, self._watch.check)
        try:
            self.hello = self._greeted()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Without ssh the other end reads the end of its input, and stops."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if not self._end_threads():
            return
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _end_threads(self) -> bool:
        """Whether they have ended, now that ssh has.

        A stream that one of them is about to read is not to be closed: the next connection may get its descriptor, and
        would lose to this thread what it waits for.
        """
        until = time.monotonic() + _PATIENCE_S
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                self._inbox.get(timeout=0.01)  # one may wait for room
        return self._outbox.close(0.1) and not any(thread.is_alive() for thread in self._threads)

    def run(self, words: list[str], parcel: Parcel, tell: Callable[[str], None]) -> None:
        """A command that makes no files; tell: called with each line of its standard output, in the paths of here.

        Raises InputError with the command's last error if it fails there, else what `Watch` raises.
        """
        with self.results(words, parcel, tell, Path()):
            pass

    @contextmanager
    def results(self, words: list[str], parcel: Parcel, tell: Callable[[str], None], beside: Path) -> Iterator[Path]:
        """As `run`; what it has made lies in a folder beside `beside` for the length of the block, named as there."""
        self._begin(words, parcel, detach=False)
        with self._arrived(parcel, tell, beside) as folder:
            yield folder

    def begin_training(self, words: list[str], parcel: Parcel) -> str:
        """A training that goes on there when this connection ends; the name by which it is found again."""
        self._begin(words, parcel, detach=True)
        return self._receive_object()["training"]

    @contextmanager
    def training(
        self, name: str, parcel: Parcel, tell: Callable[[str], None], beside: Path, is_new: bool
    ) -> Iterator[Path]:
        """As `results`, of a training that has been begun, over this connection if it `is_new`. Cancelled, it ends."""
        self._consequence = "the training goes on there; fetch it with --resume."
        if not is_new:
            self._outbox.send({"attach": name, "folders": parcel.description()["folders"]})
        try:
            with self._arrived(parcel, tell, beside) as folder:
                yield folder
        except Cancelled:
            self._outbox.send({"cancel": True})
            self._hand_over()
            raise

    def _hand_over(self) -> None:
        """Let ssh send what it has been given: it drops that when it is ended."""
        self._outbox.close(_HANDING_OVER_S)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait(_HANDING_OVER_S)

    def forget(self, name: str) -> None:
        """End a training that was begun there."""
        self._outbox.send({"forget": name})
        self._receive_object()

    def _begin(self, words: list[str], parcel: Parcel, detach: bool) -> None:
        self._outbox.send({"words": words, "detach": detach, **parcel.description()})
        self._send_files(parcel)

    @contextmanager
    def _arrived(self, parcel: Parcel, tell: Callable[[str], None], beside: Path) -> Iterator[Path]:
        failure = self._follow(parcel, tell)
        if failure is not None:
            self._receive_object()  # all was removed there
            raise failure
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=beside.absolute().parent) as folder:
            while "sent" not in (frame := self._receive_object()):
                path = place_in(Path(folder), frame.get("file"))
                path.parent.mkdir(parents=True, exist_ok=True)
                self._receive_file(path)
            yield Path(folder)
        self._outbox.send({"received": True})
        self._receive_object()

    def _send_files(self, parcel: Parcel) -> None:
        needed = self._receive_object()["need"]
        sizes = {name: parcel.sent[name].stat().st_size for name in needed}
        total, done = sum(sizes.values()), 0

        def tell(size: int) -> None:
            nonlocal done
            done += size
            self._watch.progress("send", min(done, total), total)

        for name in needed:
            send_file(self._outbox, parcel.sent[name], name, tell)

    def _follow(self, parcel: Parcel, tell: Callable[[str], None]) -> FailedThereError | None:
        """Until the command has ended there; then why it has failed."""
        errors: list[str] = []
        while "exit" not in (frame := self._receive_object()):
            if "out" in frame:
                tell(parcel.as_here(frame["out"]))
            elif "log" in frame:
                _log(parcel.as_here(frame["log"]), errors)
        code = frame["exit"]
        for error in errors[: -1 if code else None]:
            logger.error("%s", error)
        if code < 0 or code == CANCELLED:
            return FailedThereError(
                f"the computing process on {self.host!r} was stopped from outside, often because memory ran out there; "
                "look there, and run the command again."
            )
        if code:
            reason = errors[-1] if errors else "the command has failed; see what it said."
            return FailedThereError(f"on {self.host!r}: {reason}")
        return None

    def _greeted(self) -> dict[str, Any]:
        hello = self._receive_object()
        self._has_begun = True
        if hello.get("protocol") != VERSION:
            raise InputError(
                f"SAM3DSegment {hello.get('program')} on {self.host!r} speaks version {hello.get('protocol')} of the "
                f"protocol, and this program version {VERSION}; update the older one."
            )
        return hello

    def _receive_object(self) -> dict[str, Any]:
        """Raises InputError for an error of the other end."""
        frame = self._receive()
        if not isinstance(frame, dict):
            raise self._why_lost()
        if "error" in frame:
            raise InputError(f"on {self.host!r}: {frame['error']}")
        return frame

    def _receive(self) -> Frame:
        asked = False
        while True:
            self._watch.check()
            if not asked and self._has_begun and self._watch.finishing():
                asked = True
                self._outbox.send({"finish": True})
            with contextlib.suppress(queue.Empty):
                frame = self._inbox.get(timeout=0.1)
                if frame is None:
                    raise self._why_lost()
                return frame

    def _receive_file(self, path: Path) -> None:
        try:
            receive_file(self._receive, path)
        except Lost as error:
            raise InputError(f"from {self.host!r} {error} {self._consequence}") from error

    def _why_lost(self) -> InputError:
        self._watch.check()
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_PATIENCE_S)
        self._threads[1].join(_PATIENCE_S)
        said = self._said.decode("utf-8", "replace")
        if self._has_begun:
            return ssh.why_lost(self.host, said, self._consequence)
        return ssh.why_not_begun(self.host, code, said)

    def _listen(self) -> None:
        """In a thread: whatever the shell there says first is skipped."""
        stream = self._process.stdout
        assert stream is not None
        try:
            heard = b""
            while GREETING not in heard:
                byte = stream.read(1)
                heard += byte
                if not byte or len(heard) > _MOST_CHATTER:
                    self._said += heard
                    raise Lost("no greeting")
            while (frame := read_frame(stream)) is not None:
                if not is_sign_of_life(frame):
                    self._inbox.put(frame)
        except (Lost, OSError, ValueError):
            pass
        self._inbox.put(None)

    def _read_errors(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with contextlib.suppress(OSError, ValueError):
            while block := stream.read(2**12):
                self._said = (self._said + block)[-_MOST_CHATTER:]


def describe(hello: dict[str, Any]) -> str:
    """What a handshake found, in one line."""
    memory, disk = (float(hello.get(key, 0)) / 2**30 for key in ("free_memory", "free_disk"))
    return (
        f"SAM3DSegment {hello.get('program')}, Python {hello.get('python')}, {hello.get('device')}, {memory:.1f} GiB "
        f"of memory and {disk:.1f} GiB of disk free"
    )


def _log(line: str, errors: list[str]) -> None:
    """A line of the log there goes into the log here; errors are collected."""
    for prefix, level in _LEVELS.items():
        if line.startswith(prefix):
            if level == logging.ERROR:
                errors.append(line.removeprefix(prefix))
            else:
                logger.log(level, "%s", line.removeprefix(prefix))
            return
    if line:
        logger.info("%s", line)
