"""How much is computed for a volume, and how long that takes: three levels, and the choice of one by its time.

What each level costs in Dice and saves in seconds is in docs/benchmarks.md, with what was tried beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .base.errors import InputError
from .card import ModelCard
from .work import Work

if TYPE_CHECKING:  # it imports torch, and the names of the levels are wanted where there is none
    from .preparation import Prepared

PATIENCE_S = 60.0  # for which `choose_quality` takes the better of two levels


@dataclass(frozen=True)
class Quality:
    """What is spared of the work that a model's card asks for.

    mirror: decode the mirrored view too, where the card says so. overlap: share of the card's overlap of windows.
    gap_mm: not every slice is encoded, but some that are up to so far apart. What lies between is interpolated: the
    embeddings, so that the decoder sees all slices, or if not `decode_every_slice` its logits.
    """

    mirror: bool = True
    overlap: float = 1.0
    gap_mm: float = 0.0
    decode_every_slice: bool = True

    def work(self, card: ModelCard, prepared: Prepared) -> Work:
        """What is to be done for this volume with the model of this card."""
        spacing_mm = prepared.slicing.spacing_mm[0]
        return Work(
            depth=prepared.depth,
            window=replace(card.window, overlap=int(card.window.overlap * self.overlap)),
            mirror=prepared.slicing.left_right_axis if card.mirror and self.mirror else None,
            step=max(1, int(self.gap_mm / spacing_mm + 1e-3)),
            decode_every_slice=self.decode_every_slice,
        )


QUALITIES = {
    "best": Quality(),
    "balanced": Quality(mirror=False, overlap=0.5, gap_mm=2.0),
    "fast": Quality(mirror=False, overlap=0.5, gap_mm=2.0, decode_every_slice=False),
}
BEST, AUTO = "best", "auto"


def check_quality(name: str) -> str:
    """The name itself. Raises InputError for one that is neither a level's nor "auto"."""
    if name != AUTO and name not in QUALITIES:
        raise InputError(f"quality {name!r} is unknown; use {', '.join(QUALITIES)} or {AUTO}.")
    return name


@dataclass(frozen=True)
class QualityChoice:
    """A level that was chosen by its time: its name, and the seconds that each level was expected to take."""

    quality: str
    seconds: dict[str, float]

    def __str__(self) -> str:
        others = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items() if name != self.quality)
        return f"quality {self.quality}: about {self.seconds[self.quality]:.0f} s (instead: {others})"


def choose_quality(seconds: Mapping[str, float]) -> QualityChoice:
    """Of all levels and their seconds, the best that takes no more than PATIENCE_S; if none does, the fastest."""
    bearable = [name for name in QUALITIES if seconds[name] <= PATIENCE_S]
    return QualityChoice(bearable[0] if bearable else min(seconds, key=lambda name: seconds[name]), dict(seconds))
