"""Another computer, on which the volumes of `batch` are segmented instead of on this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .sources import Outputs, Target

# Takes the records of a mask, one or one of each frame, and where it lies now, just before it appears.
Note = Callable[[list[dict[str, Any]], Path], None]


@runtime_checkable
class Elsewhere(Protocol):
    def open(self) -> object:
        """Once or more, before the first volume. Raises InputError if no volume can be segmented there."""
        ...

    def segment(self, target: Target, outputs: Outputs, note: Note) -> None:
        """One volume, or the frames of one, into its files."""
        ...
