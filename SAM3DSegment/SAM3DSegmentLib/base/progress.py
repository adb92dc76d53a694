"""How a command shows what it is doing: a bar for people, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol, TextIO


class Display(Protocol):
    """Shows how far work is; closed at its end."""

    def progress(self, stage: str, done: int, total: int) -> None: ...

    def event(self, name: str, **values: Any) -> None: ...

    def close(self) -> None: ...


class Silent:
    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def event(self, name: str, **values: Any) -> None:
        pass

    def close(self) -> None:
        pass


SILENT = Silent()


class JsonLines(Silent):
    """One JSON object a line: {"stage": ..., "done": n, "total": m, "eta_s": s or null}, or {"event": ..., ...}."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._stage = ""
        self._began = 0.0
        self._offset = 0

    def progress(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._offset = stage, now, done
        advanced = done - self._offset
        eta = round((now - self._began) / advanced * (total - done), 1) if advanced > 0 else None
        self._write({"stage": stage, "done": done, "total": total, "eta_s": eta})

    def event(self, name: str, **values: Any) -> None:
        self._write({"event": name, **values})

    def _write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


class Bar(Silent):
    """A bar on standard error, with the time to go."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def progress(self, stage: str, done: int, total: int) -> None:
        try:
            from tqdm import tqdm
        except ImportError:  # in a fresh Slicer; the work goes on without a bar
            return
        if self._bar is None or self._stage != stage or self._bar.total != total or done < self._bar.n:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=stage, file=sys.stderr, leave=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


DISPLAYS: dict[str, type[Silent]] = {"bar": Bar, "json": JsonLines, "none": Silent}
