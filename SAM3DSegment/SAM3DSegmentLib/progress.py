"""How a command tells what it is doing: a bar for people, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from typing import TextIO

_BAR_WIDTH = 30


class NoProgress:
    """Says nothing. Also the interface: call it with (stage, done, total), and close it at the end."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Pace:
    """How long a stage still takes, at the pace since it began."""

    def __init__(self) -> None:
        self._stage, self._began, self._offset = "", 0.0, 0

    def seconds_to_go(self, stage: str, done: int, total: int) -> float | None:
        now = time.monotonic()
        if stage != self._stage or done < self._offset:
            self._stage, self._began, self._offset = stage, now, done
        advanced = done - self._offset
        return round((now - self._began) / advanced * (total - done), 1) if advanced > 0 else None


class JsonProgress(NoProgress):
    """One JSON object a line: {"stage": ..., "done": n, "total": m, "eta_s": seconds or null}."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._pace = _Pace()

    def __call__(self, stage: str, done: int, total: int) -> None:
        line = {"stage": stage, "done": done, "total": total, "eta_s": self._pace.seconds_to_go(stage, done, total)}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


class BarProgress(NoProgress):
    """A bar on standard error, with the time to go; it vanishes at the end."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._pace = _Pace()
        self._shown = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        seconds = self._pace.seconds_to_go(stage, done, total)
        share = done / total
        text = f"{stage} [{'#' * round(_BAR_WIDTH * share):<{_BAR_WIDTH}}] {share:.0%}"
        self._show(text if seconds is None else f"{text}, {seconds:.0f} s to go")

    def close(self) -> None:
        self._show("")
        self._stream.write("\r")

    def _show(self, text: str) -> None:
        if text != self._shown:
            self._stream.write(f"\r{text:<{len(self._shown)}}")
            self._stream.flush()
            self._shown = text


PROGRESS = {"bar": BarProgress, "json": JsonProgress, "none": NoProgress}
