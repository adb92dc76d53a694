"""One run of our command line on the far side: a process of its own, of which all that it says becomes messages."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..base import stop

Message = dict[str, Any]  # {"out": line}, {"log": line}, or at the end {"exit": code}

OWN_COMMAND = (sys.executable, "-m", __package__.split(".")[0])
_FOLDERS = (stop.FOLDER_VARIABLE, "TMPDIR", "TEMP", "TMP")  # what libraries leave lying about is removed with the rest
_PATIENCE_S = 1.7  # it ends itself before, see `base.stop`
_LONGEST_LINE = 2**16


class Child:
    """Runs in `folder`, which names in `words` are relative to; ends with this process, however that ends.

    If this process is killed, the child removes a folder that is private to the connection, see `base.stop`.
    """

    def __init__(self, words: list[str], folder: Path, tell: Callable[[Message], None]) -> None:
        """tell: called from threads with each message; `{"exit": code}` is the last."""
        self._folder = folder
        self._tell = tell
        self._process = subprocess.Popen(
            [*OWN_COMMAND, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**own_environment(), stop.VARIABLE: "1", **dict.fromkeys(_FOLDERS, str(folder))},
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kind), name=kind, daemon=True)
            for stream, kind in ((self._process.stdout, "out"), (self._process.stderr, "log"))
        ]
        for thread in self._readers:
            thread.start()
        threading.Thread(target=self._wait, name="exit", daemon=True).start()

    def finish(self) -> None:
        """Ask it to end early with what it has reached, see `base.stop`."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(stop.FINISH)
            self._process.stdin.flush()

    def close_input(self) -> None:
        """Ask it to stop at once."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def stop(self) -> None:
        """End it, and return when it has ended."""
        self.close_input()
        end = time.monotonic() + _PATIENCE_S
        while self._process.poll() is None:
            if time.monotonic() > end:
                self._process.kill()
            time.sleep(0.02)

    def _read(self, stream: IO[bytes], kind: str) -> None:
        here = f"{self._folder}{os.sep}"
        for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
            text = line.decode("utf-8", "replace").rstrip("\r\n").replace(here, "")
            if not text.startswith('{"process_id": '):
                self._tell({kind: text})

    def _wait(self) -> None:
        for thread in self._readers:
            thread.join()
        self._tell({"exit": self._process.wait()})


def own_environment() -> dict[str, str]:
    """In which a child finds our package where this process has found it."""
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "PYTHONSAFEPATH": "1"}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **ours}
