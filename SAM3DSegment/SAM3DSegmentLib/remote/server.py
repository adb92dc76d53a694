"""The far end of a connection: receives files, runs the command that was asked for, and sends back what it has made.

All happens in one private folder, which is removed at the end, also when the connection is lost: no byte for a minute
counts as lost. A training that is to outlast its connection runs in `detached`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..base.errors import InputError, Sam3dError
from ..base.files import last_line
from ..base.stop import FOLDER_PREFIX
from .child import Child, Message
from .detached import Training, remove_forgotten
from .protocol import (
    GREETING,
    SILENCE_S,
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
from .store import Store, link

logger = logging.getLogger(__name__)

COMMANDS = ("segment", "complete", "train", "doctor")
_SPARE_BYTES = 2**28  # of disk that is left free, and for results


def serve() -> int:
    """Answer on standard input and output until the input ends; the exit code."""
    source, target = _take_streams()
    target.write(GREETING)
    with contextlib.suppress(Lost):
        Session(source, target).run()
    return 0


def _take_streams() -> tuple[Any, Any]:
    """Standard input and output for the frames alone; what a library prints goes to standard error."""
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        for number in (source, target):
            msvcrt.setmode(number, os.O_BINARY)
    return os.fdopen(source, "rb", buffering=0), os.fdopen(target, "wb", buffering=0)


class _Heard:
    """A stream, and when something was read from it last."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.at = time.monotonic()

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self.at = time.monotonic()
        return data


class Session:
    """One connection: any number of pieces of work, one after the other."""

    def __init__(self, source: Any, target: Any) -> None:
        self._heard = _Heard(source)
        self._inbox: queue.Queue[Frame | None] = queue.Queue(8)
        self._lost, self._finish, self._cancel = threading.Event(), threading.Event(), threading.Event()
        self._outbox = Outbox(target, self._check)
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()

    def run(self) -> None:
        """Until the connection ends: raises Lost."""
        remove_forgotten()
        self._outbox.send(hello())
        try:
            while True:
                frame = self._receive()
                self._finish.clear()
                self._cancel.clear()
                try:
                    self._answer(frame if isinstance(frame, dict) else {})
                except (KeyError, TypeError) as error:
                    raise Lost("what was received makes no sense.") from error
                except Lost:
                    raise
                except (Sam3dError, OSError) as error:
                    self._outbox.send({"error": _explain(error)})
        finally:
            self._outbox.close(0.5)

    def _answer(self, frame: dict[str, Any]) -> None:
        if "attach" in frame:
            training = Training.find(frame["attach"])
            training.go_on()
            self._attend(training, frame["folders"])
        elif "forget" in frame:
            Training.find(frame["forget"]).remove()
        elif frame["detach"]:
            self._detach(frame)
        else:
            with private_folder() as folder:
                self._work(frame, folder)
        self._outbox.send({"done": True})  # and nothing is left here

    def _work(self, frame: dict[str, Any], folder: Path) -> None:
        words = self._prepare(frame, folder)
        messages: queue.Queue[Message] = queue.Queue(1000)
        child = Child(words, folder, messages.put)
        code = None
        try:
            while code is None:
                self._check()
                if _taken(self._finish):
                    child.finish()
                with contextlib.suppress(queue.Empty):
                    message = messages.get(timeout=0.05)
                    self._outbox.send(message)
                    code = message.get("exit")
        finally:
            child.stop()
        if code == 0:
            self._send_results(folder, frame["folders"])

    def _detach(self, frame: dict[str, Any]) -> None:
        training = Training.new()
        try:
            words = self._prepare(frame, training.folder)
            training.start(words)
        except BaseException:
            training.remove()
            raise
        self._outbox.send({"training": training.folder.name})
        self._attend(training, frame["folders"])

    def _attend(self, training: Training, folders: list[str]) -> None:
        """Pass on what a training says, and to it what is asked of it. It is removed when it has failed or arrived."""
        try:
            for message in training.said():
                self._check()
                if _taken(self._finish):
                    training.ask(finish=True)
                if self._cancel.is_set():
                    training.ask(finish=False)
                if message is None:
                    time.sleep(0.1)
                else:
                    self._outbox.send(message)
            if message == {"exit": 0}:
                self._send_results(training.folder, folders)
        except Lost:
            if self._cancel.is_set():
                training.remove()
            raise
        training.remove()

    def _prepare(self, frame: dict[str, Any], folder: Path) -> list[str]:
        """The words of the command, when its files are here."""
        words = _checked_words(frame["words"])
        self._receive_files(frame["files"], folder)
        for name in frame["folders"]:
            place_in(folder, name).mkdir(parents=True, exist_ok=True)
        return words

    def _send_results(self, folder: Path, names: list[str]) -> None:
        for path in _files_in([place_in(folder, name) for name in names]):
            send_file(self._outbox, path, path.relative_to(folder).as_posix())
        self._outbox.send({"sent": True})
        if "received" not in self._receive_object():
            raise Lost("nobody wants the results.")

    def _receive_files(self, files: list[dict[str, Any]], folder: Path) -> None:
        """Each file to its place: from the store, from another place with the same hash, or over the connection."""
        store = Store()
        store.tidy()
        missing: list[dict[str, Any]] = []
        first: dict[str, Path] = {}  # by hash
        copies: list[tuple[Path, Path]] = []
        for file in files:
            path, sha256 = place_in(folder, file["name"]), file.get("sha256", "")
            path.parent.mkdir(parents=True, exist_ok=True)
            if sha256 and store.take(sha256, path):
                continue
            if sha256 and first.setdefault(sha256, path) != path:
                copies.append((first[sha256], path))
            else:
                missing.append(file)
        _check_space(folder, sum(file["size"] for file in missing))
        self._outbox.send({"need": [file["name"] for file in missing]})
        for file in missing:
            path = place_in(folder, file["name"])
            if self._receive_object().get("file") != file["name"]:
                raise Lost("another file was sent than was asked for.")
            sha256 = receive_file(self._receive, path)
            if file.get("sha256") == sha256:
                store.keep(sha256, path)
        for source, path in copies:
            link(source, path)

    def _receive_object(self) -> dict[str, Any]:
        frame = self._receive()
        if not isinstance(frame, dict):
            raise Lost("what was received makes no sense.")
        return frame

    def _receive(self) -> Frame:
        """The next frame. Raises Lost."""
        while True:
            self._check()
            with contextlib.suppress(queue.Empty):
                frame = self._inbox.get(timeout=0.1)
                if frame is None:
                    raise Lost("the connection has ended.")
                return frame

    def _check(self) -> None:
        """Raises Lost if the other end has gone."""
        if self._lost.is_set() or time.monotonic() - self._heard.at > SILENCE_S:
            raise Lost("the connection has ended.")

    def _listen(self) -> None:
        try:
            while (frame := read_frame(self._heard)) is not None:
                if isinstance(frame, dict) and "finish" in frame:
                    self._finish.set()
                elif isinstance(frame, dict) and "cancel" in frame:
                    self._cancel.set()
                elif not is_sign_of_life(frame):
                    self._inbox.put(frame)
        except (Lost, OSError):
            pass
        self._lost.set()
        with contextlib.suppress(queue.Full):
            self._inbox.put(None, timeout=1.0)


def hello() -> dict[str, Any]:
    """The first frame: which protocol and program answer, and what they have to compute with."""
    import psutil

    return {
        "protocol": VERSION,
        "program": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": _gpus() or f"{platform.machine()}, {os.cpu_count()} cores",
        "free_memory": psutil.virtual_memory().available,
        "free_disk": shutil.disk_usage(tempfile.gettempdir()).free,
    }


def _gpus() -> str:
    """The names of NVIDIA's GPUs with their free memory; empty without any. Importing torch would take seconds."""
    query = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return "; ".join(f"{line} free" for line in lines)


def _taken(event: threading.Event) -> bool:
    """Whether it was set; then it is not any more."""
    was_set = event.is_set()
    event.clear()
    return was_set


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder of this user alone, removed at the end with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _files_in(folders: list[Path]) -> list[Path]:
    """All of them but hidden ones, which are of nobody else's concern."""
    found = (path for folder in folders for path in sorted(folder.rglob("*")))
    return [path for path in found if path.is_file() and not path.name.startswith(".")]


def _check_space(folder: Path, size: int) -> None:
    needed, free = size + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"its disk is full: {str(folder.parent)!r} has {free / 1e6:.0f} MB left, and {needed / 1e6:.0f} MB are "
            "needed; free some, or set TMPDIR there to another disk."
        )


def _checked_words(words: Any) -> list[str]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or words[0] not in COMMANDS:
        raise InputError("the other computer asks for a command that is not known here; update SAM3DSegment.")
    return words


def _explain(error: Exception) -> str:
    if isinstance(error, Sam3dError):
        return str(error)
    return f"its disk or memory gave an error ({last_line(error)}); look there."
