"""What is computed for one volume, slice by slice and window by window, how long that takes, and how much is done."""

from __future__ import annotations

from dataclasses import dataclass

from .base.watch import Watch
from .card import WindowRule

PARTS = 1000  # of a volume's work, as its progress is told
# Multiplications in bfloat16 that take as long as what is done for each pixel of a slice before and after the network:
# measured on a CPU, where encoder, decoder and detail part make nearly the same number of them in a second.
BEFORE, AFTER = 2200, 4700


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

    @property
    def encoded_views(self) -> int:
        """Of a slice; across slices, the mirrored view is the same slices."""
        return 2 if self.mirror else 1

    @property
    def decoded_views(self) -> int:
        """Of a window."""
        return 1 if self.mirror is None else 2

    def seconds(self, speed: SecondsPerSlice) -> float:
        """How long it takes at this speed."""
        encoded_views = self.encoded * self.encoded_views
        decoded_views = sum(stop - start for start, stop in self.windows) * self.decoded_views
        detail_views = sum(stop - start for start, stop in self.detail_windows) * self.decoded_views
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


@dataclass(frozen=True)
class Cost:
    """Multiplications that a volume takes: for a slice, and what decoder and detail part do in all."""

    of_encoded: float  # by the encoder
    of_prepared: float
    decoding: float
    of_finished: float


class Tally:
    """How much of a volume's work is done, counted in multiplications and told to a watch in PARTS, never fewer.

    Of slices that are known already, or black, nothing is computed: the encoding that is left is expected to take what
    the slices so far took in the mean.
    """

    def __init__(self, work: Work, cost: Cost, watch: Watch) -> None:
        self._work, self._cost, self._watch = work, cost, watch
        self._encoded = self._finished = 0  # slices
        self._encoding = self._decoding = 0.0  # multiplications
        self._told = -1

    def encoded(self, slices: int, multiplications: float) -> None:
        self._encoded += slices
        self._encoding += multiplications + slices * self._cost.of_prepared
        self._tell()

    def decoded(self, multiplications: float) -> None:
        """By the decoder or the detail part."""
        self._decoding += multiplications
        self._tell()

    def finished(self) -> None:
        """A slice of the mask."""
        self._finished += 1
        self._tell()

    def _tell(self) -> None:
        self._watch.check()
        done = self._encoding + self._decoding + self._finished * self._cost.of_finished
        of_encoded = self._encoding / self._encoded if self._encoded else self._cost.of_encoded + self._cost.of_prepared
        left = (
            (self._work.encoded - self._encoded) * of_encoded
            + max(0.0, self._cost.decoding - self._decoding)
            + (self._work.depth - self._finished) * self._cost.of_finished
        )
        parts = min(PARTS - 1, int(PARTS * done / (done + left)))  # the last is done when the mask is complete
        if parts > self._told:
            self._told = parts
            self._watch.progress("segment", parts, PARTS)


def window_bounds(depth: int, rule: WindowRule) -> list[tuple[int, int]]:
    """[start, stop) of the decoder's windows: of one length, evenly spread, the first at 0 and the last at the end."""
    length = min(rule.depth, depth)
    if depth == length:
        return [(0, depth)]
    steps = -(-(depth - length) // (rule.depth - rule.overlap))
    starts = [round(i * (depth - length) / steps) for i in range(steps + 1)]
    return [(start, start + length) for start in starts]
