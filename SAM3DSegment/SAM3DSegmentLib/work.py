"""What is computed for one volume, slice by slice and window by window, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass

from .card import WindowRule


@dataclass(frozen=True)
class Work:
    """What is done for one volume of `depth` slices; mirror: see `network.Network`.

    Of `step` slices one is encoded, and decoded too unless `decode_every_slice`.
    """

    depth: int
    window: WindowRule
    mirror: int | None = None
    step: int = 1
    decode_every_slice: bool = True

    @property
    def encoded(self) -> int:
        """Slices that are encoded."""
        return -(-self.depth // self.step)

    @property
    def windows(self) -> list[tuple[int, int]]:
        """[start, stop) of the decoder's windows, of all slices, or unless `decode_every_slice` of the encoded."""
        return window_bounds(self.depth if self.decode_every_slice else self.encoded, self.window)

    @property
    def detail_windows(self) -> list[tuple[int, int]]:
        """Those of a detail part, which reads all slices."""
        return window_bounds(self.depth, self.window)

    def seconds(self, speed: SecondsPerSlice) -> float:
        """How long it takes at this speed."""
        encoded_views = self.encoded * (2 if self.mirror else 1)  # across slices, the mirrored view is the same slices
        views = 1 if self.mirror is None else 2
        decoded_views = sum(stop - start for start, stop in self.windows) * views
        detail_views = sum(stop - start for start, stop in self.detail_windows) * views
        decoding_s = decoded_views * speed.decode_s + detail_views * speed.detail_s
        return encoded_views * speed.encode_s + decoding_s + self.depth * speed.finish_s


@dataclass(frozen=True)
class SecondsPerSlice:
    """Seconds that this computer takes with a model for one slice of a volume, of one view.

    encode_s: grey scale and embedding; decode_s: embedding to logits; detail_s: what a detail part adds to them;
    finish_s: logits to labels on the volume's grid.
    """

    encode_s: float
    decode_s: float
    detail_s: float
    finish_s: float


def window_bounds(depth: int, rule: WindowRule) -> list[tuple[int, int]]:
    """[start, stop) of the decoder's windows: of one length, evenly spread, the first at 0 and the last at the end."""
    length = min(rule.depth, depth)
    if depth == length:
        return [(0, depth)]
    steps = -(-(depth - length) // (rule.depth - rule.overlap))
    starts = [round(i * (depth - length) / steps) for i in range(steps + 1)]
    return [(start, start + length) for start in starts]
