"""How a command shows what it is doing: a bar for people, JSON lines for programs, or nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

logger = logging.getLogger(__name__)


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


class Part(Silent):
    """Shows a part of a stage as what it is of the whole: from `low` to `high` of `total`."""

    def __init__(self, whole: Display, stage: str, low: int, high: int, total: int) -> None:
        self._whole = whole
        self._stage = stage
        self._low, self._high, self._total = low, high, total

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage == self._stage:
            done, total = self._low + (self._high - self._low) * done // total, self._total
        self._whole.progress(stage, done, total)

    def event(self, name: str, **values: Any) -> None:
        self._whole.event(name, **values)


class _Clock:
    """How long a stage will still take, by its pace so far."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = 0.0
        self._offset = 0

    def seconds_left(self, stage: str, done: int, total: int) -> float | None:
        """None while nothing is known."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._offset = stage, now, done
        advanced = done - self._offset
        return (now - self._began) / advanced * (total - done) if advanced > 0 else None


class JsonLines(Silent):
    """One JSON object a line: {"stage": ..., "done": n, "total": m, "eta_s": s or null}, or {"event": ..., ...}."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._clock = _Clock()

    def progress(self, stage: str, done: int, total: int) -> None:
        left = self._clock.seconds_left(stage, done, total)
        eta = None if left is None else round(left, 1)
        self._write({"stage": stage, "done": done, "total": total, "eta_s": eta})

    def event(self, name: str, **values: Any) -> None:
        self._write({"event": name, **values})

    def _write(self, line: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # who does not listen shall not end the work
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()


class Bar(Silent):
    """A bar on a terminal, with the time to go."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def progress(self, stage: str, done: int, total: int) -> None:
        # Without tqdm, in a fresh Slicer, or without anybody who looks, the work goes on without a bar.
        with contextlib.suppress(ImportError, OSError):
            self._draw(stage, done, total)

    def _draw(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None or self._stage != stage or self._bar.total != total or done < self._bar.n:
            self.close()
            self._stage = stage
            self._bar = tqdm(total=total, desc=stage, file=sys.stderr, leave=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            with contextlib.suppress(OSError):
                bar.close()


class LogLines(Silent):
    """A line every few seconds, for a log, where a bar would be one long line."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._said = time.monotonic()
        self._clock = _Clock()

    def progress(self, stage: str, done: int, total: int) -> None:
        left = self._clock.seconds_left(stage, done, total)
        if time.monotonic() - self._said < self._every_s:
            return
        self._said = time.monotonic()
        to_go = "" if left is None else f", {left:.0f} s to go"
        logger.info("%s: %d of %d%s", stage, done, total, to_go)


def bar_or_lines() -> Silent:
    return Bar() if sys.stderr.isatty() else LogLines()


DISPLAYS: dict[str, Callable[[], Silent]] = {"bar": bar_or_lines, "json": JsonLines, "none": Silent}
