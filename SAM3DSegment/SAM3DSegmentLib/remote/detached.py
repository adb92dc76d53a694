"""Trainings that outlast their connection: each has a folder, and a process that looks after it until it is fetched.

In the folder are the files of the training, `messages` (what it says, one JSON object a line; the last has its exit
code), and, while they are asked for, `finish` and `cancel`.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.files import write_json
from ..base.folders import detached_folder
from .child import OWN_COMMAND, Child, Message, own_environment
from .ssh import SERVE

WATCHED = "--training"  # the option of our command that looks after one
MOST_AGE_S = 30 * 24 * 3600.0  # of one that has ended and that nobody fetches
_ID = re.compile(r"[0-9a-f]{16}")
_POLL_S = 0.2
_WORDS, _MESSAGES, _PROCESS, _FINISH, _CANCEL = "words.json", "messages", "process.json", "finish", "cancel"


class Training:
    """One training there, known by its folder's name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.messages = folder / _MESSAGES

    @classmethod
    def new(cls) -> Training:
        folder = detached_folder() / secrets.token_hex(8)
        folder.mkdir(parents=True, mode=0o700)
        return cls(folder)

    @classmethod
    def find(cls, name: Any) -> Training:
        """Raises InputError if it is not here (any more)."""
        found = isinstance(name, str) and _ID.fullmatch(name) and (detached_folder() / name)
        if not found or not (found / _WORDS).is_file():
            raise InputError("there is no such training any more; start it again with --overwrite.")
        return cls(found)

    def start(self, words: list[str]) -> None:
        """In a process of its own, which no end of a connection reaches."""
        import psutil

        write_json(self.folder / _WORDS, words)
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(
            [*OWN_COMMAND, SERVE, WATCHED, self.folder.name],
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            cwd=self.folder,
            env=own_environment(),
            start_new_session=True,
        )
        write_json(self.folder / _PROCESS, {"id": process.pid, "began": psutil.Process(process.pid).create_time()})

    def go_on(self) -> None:
        """Start it again if it was interrupted, as when this computer was restarted; from its last checkpoint."""
        if self.is_running or self._has_ended():
            return
        words = json.loads((self.folder / _WORDS).read_text(encoding="utf-8"))
        if list(self.folder.glob("@*/*.training/run.json")) and "--resume" not in words:
            words = [*(word for word in words if word != "--overwrite"), "--resume"]
        self.start(words)

    def said(self) -> Iterator[Message | None]:
        """All messages, from the first on; None while there is no new one. Ends after that of the exit code."""
        self.messages.touch(0o600)
        with open(self.messages, encoding="utf-8") as file:
            line = ""
            while not line.startswith('{"exit"'):
                line = file.readline()
                while not line.endswith("\n"):
                    is_running = self.is_running  # asked before the last look
                    more = file.readline()
                    line += more
                    if not more and not is_running:
                        yield {"exit": -9}
                        return
                    if not more:
                        yield None
                yield json.loads(line)

    def ask(self, finish: bool) -> None:
        """To end early with what it has reached, or at once."""
        (self.folder / (_FINISH if finish else _CANCEL)).touch()

    def remove(self) -> None:
        """End it, if it runs, and leave nothing."""
        while self.is_running:
            self.ask(finish=False)
            time.sleep(_POLL_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        import psutil

        try:
            noted = json.loads((self.folder / _PROCESS).read_text(encoding="utf-8"))
            process = psutil.Process(noted["id"])
            return process.create_time() == noted["began"] and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.Error):
            return False

    def watch(self) -> int:
        """In that process: run the training, and write down what it says. Returns its exit code."""
        words = json.loads((self.folder / _WORDS).read_text(encoding="utf-8"))
        ended, lock, code = threading.Event(), threading.Lock(), 1
        with open(self.messages, "a", encoding="utf-8") as file:

            def tell(message: Message) -> None:
                nonlocal code
                with lock:
                    file.write(json.dumps(message) + "\n")
                    file.flush()
                if "exit" in message:
                    code = message["exit"]
                    ended.set()

            child = Child(words, self.folder, tell)
            while not ended.wait(_POLL_S):
                if (self.folder / _FINISH).exists():
                    child.finish()
                    (self.folder / _FINISH).unlink()
                if (self.folder / _CANCEL).exists():
                    child.stop()
                    ended.wait()
        return code

    def _has_ended(self) -> bool:
        try:
            lines = self.messages.read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return bool(lines) and lines[-1].startswith('{"exit"')


def remove_forgotten() -> None:
    """Trainings that ended long ago, and that nobody has fetched."""
    with contextlib.suppress(OSError):
        for folder in detached_folder().iterdir():
            training = Training(folder)
            with contextlib.suppress(OSError):
                if time.time() - training.messages.stat().st_mtime > MOST_AGE_S and not training.is_running:
                    training.remove()
