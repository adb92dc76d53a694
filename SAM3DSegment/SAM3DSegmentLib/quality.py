"""How much is computed for a volume, and how long that takes: three levels, and the choice of one by its time.

What each level costs in Dice and saves in seconds is in docs/benchmarks.md, with what was tried beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .card import ModelCard, WindowRule
from .errors import InputError

if TYPE_CHECKING:  # it imports torch, and the names of the levels are wanted where there is none
    from .preparation import Prepared

PATIENCE_S = 60.0  # for which `choose_quality` takes the better of two levels


@dataclass(frozen=True)
class Quality:
    """What is spared of the work that a model's card asks for.

    mirror: decode the mirrored view too, where the card says so. overlap: share of the card's overlap of windows.
    gap_mm: not every slice is encoded, but some that are up to so far apart. What lies between is interpolated: the
    embeddings, so that the decoder sees all slices, or if not `decode_all` its logits.
    """

    mirror: bool = True
    overlap: float = 1.0
    gap_mm: float = 0.0
    decode_all: bool = True

    def plan(self, card: ModelCard, prepared: Prepared) -> Work:
        """What is to be done for this volume with the model of this card."""
        spacing_mm = prepared.slicing.spacing_mm[0]
        return Work(
            depth=prepared.depth,
            window=replace(card.window, overlap=int(card.window.overlap * self.overlap)),
            mirror=prepared.slicing.left_right_axis if card.mirror and self.mirror else None,
            step=max(1, int(self.gap_mm / spacing_mm + 1e-3)),
            decode_all=self.decode_all,
        )


QUALITIES = {
    "best": Quality(),
    "balanced": Quality(mirror=False, overlap=0.5, gap_mm=2.0),
    "fast": Quality(mirror=False, overlap=0.5, gap_mm=2.0, decode_all=False),
}
BEST, AUTO = "best", "auto"


def check_quality(name: str) -> str:
    """The name itself. Raises InputError for one that is neither a level's nor "auto"."""
    if name != AUTO and name not in QUALITIES:
        raise InputError(f"quality {name!r} is unknown; use {', '.join(QUALITIES)} or {AUTO}.")
    return name


@dataclass(frozen=True)
class Work:
    """What is done for one volume of `depth` slices; mirror: see `network.Network`.

    Of `step` slices one is encoded, and decoded too unless `decode_all`.
    """

    depth: int
    window: WindowRule
    mirror: int | None = None
    step: int = 1
    decode_all: bool = True

    @property
    def encoded(self) -> int:
        """Slices that are encoded."""
        return -(-self.depth // self.step)

    @property
    def windows(self) -> list[tuple[int, int]]:
        """[start, stop) of the decoder's windows, among all slices or, unless `decode_all`, the encoded ones."""
        return plan_windows(self.depth if self.decode_all else self.encoded, self.window)

    @property
    def detail_windows(self) -> list[tuple[int, int]]:
        """Those of a detail part, which reads all slices."""
        return plan_windows(self.depth, self.window)

    def seconds(self, speed: Speed) -> float:
        """How long it takes at this speed."""
        encoded_views = self.encoded * (2 if self.mirror else 1)  # across slices, the mirrored view is the same slices
        views = 1 if self.mirror is None else 2
        decoded_views = sum(stop - start for start, stop in self.windows) * views
        detail_views = sum(stop - start for start, stop in self.detail_windows) * views
        decoding_s = decoded_views * speed.decode_s + detail_views * speed.detail_s
        return encoded_views * speed.encode_s + decoding_s + self.depth * speed.finish_s


@dataclass(frozen=True)
class Speed:
    """Seconds that this computer takes with a model for one slice of a volume, of one view.

    encode_s: grey scale and embedding; decode_s: embedding to logits; detail_s: what a detail part adds to them;
    finish_s: logits to labels on the volume's grid.
    """

    encode_s: float
    decode_s: float
    detail_s: float
    finish_s: float


@dataclass(frozen=True)
class Choice:
    """A level that was chosen by its time: its name, and the seconds that each level was expected to take."""

    quality: str
    seconds: dict[str, float]

    def __str__(self) -> str:
        others = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items() if name != self.quality)
        return f"quality {self.quality}: about {self.seconds[self.quality]:.0f} s (instead: {others})"


def choose_quality(seconds: Mapping[str, float]) -> Choice:
    """Of all levels and their seconds, the best that takes no more than PATIENCE_S; if none does, the fastest."""
    bearable = [name for name in QUALITIES if seconds[name] <= PATIENCE_S]
    return Choice(bearable[0] if bearable else min(seconds, key=lambda name: seconds[name]), dict(seconds))


def plan_windows(depth: int, rule: WindowRule) -> list[tuple[int, int]]:
    """[start, stop) of the decoder's windows: of one length, evenly spread, the first at 0 and the last at the end."""
    length = min(rule.depth, depth)
    if depth == length:
        return [(0, depth)]
    steps = -(-(depth - length) // (rule.depth - rule.overlap))
    starts = [round(i * (depth - length) / steps) for i in range(steps + 1)]
    return [(start, start + length) for start in starts]
