"""How work reports its progress, and learns whether to stop: one `Watch`, handed inwards from the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .errors import Cancelled
from .progress import SILENT, Display, Part

T = TypeVar("T")
NOTHING_WRITTEN = "nothing was written."


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Watch:
    """display: shows progress; cancelled: whether to end at once; finishing: whether to end early with a result.

    Loops over cases, files or slices call `check` in each turn.
    """

    display: Display = SILENT
    cancelled: Callable[[], bool] = _never
    finishing: Callable[[], bool] = _never

    def progress(self, stage: str, done: int, total: int) -> None:
        """How far a stage of the work is; cases, slices, bytes, steps or seconds."""
        self.display.progress(stage, done, total)

    def event(self, name: str, **values: Any) -> None:
        """Something that happened, apart from the stages' progress; the values are plain JSON."""
        self.display.event(name, **values)

    def check(self, consequence: str = NOTHING_WRITTEN) -> None:
        """Raises Cancelled, with the consequence for the work, if the user has cancelled."""
        if self.cancelled():
            raise Cancelled(f"cancelled; {consequence}")

    def each(self, stage: str, items: Sequence[T], consequence: str = NOTHING_WRITTEN) -> Iterator[T]:
        """The items one by one: `check` before each, and `progress` of the stage after it."""
        for number, item in enumerate(items):
            self.check(consequence)
            yield item
            self.progress(stage, number + 1, len(items))

    def part(self, stage: str, low: int, high: int, total: int) -> Watch:
        """For a part of a stage, whose own progress is told as from `low` to `high` of `total`."""
        return replace(self, display=Part(self.display, stage, low, high, total))

    def silent(self) -> Watch:
        """For a part of the work whose own progress would say nothing to the user."""
        return replace(self, display=SILENT)

    def unfinished(self) -> Watch:
        """For work of which no early end makes a result."""
        return replace(self, finishing=_never)


UNWATCHED = Watch()
