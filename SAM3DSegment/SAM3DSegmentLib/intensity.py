"""Voxel values -> 0..255 grey -> what an encoder was trained on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .base.errors import InputError
from .card import COLOURS, EACH, NORMALISATIONS
from .channel import IntensityRule

logger = logging.getLogger(__name__)

# segment_anything/build_sam.py: pixel_mean and pixel_std of an RGB image in 0..255.
SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)
_LEAST_RANGE = 1e-8  # by which MedSAM divides a slice of one value

SAMPLE = 1e6  # voxels, among which padding is looked for
PADDING = 0.005  # share of the voxels that are one value
FAR = 3  # times the range of the other values
LEVELS = 2**16  # steps of float32 that a volume's range should have


@dataclass(frozen=True)
class GreyScale:
    """The linear map of one volume: `low` becomes 0, `high` becomes 255, what lies outside is clipped.

    base: taken off each value before, in the volume's own type, where float32 could not tell the values apart.
    """

    low: float
    high: float
    base: float = 0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values of any scalar type -> float32 in 0..255; NaN and -Inf become 0, +Inf becomes 255."""
        values = _as_float32(values, self.base)
        values = np.nan_to_num(values, nan=self.low, posinf=self.high, neginf=self.low)
        return (np.clip(values, self.low, self.high) - self.low) * (255.0 / (self.high - self.low))


def measure_grey_scale(array: np.ndarray, rule: IntensityRule) -> GreyScale:
    """The grey scale of a whole 3-D volume under `rule`; voxels that are not finite are left out, and reported.

    A constant volume has no contrast to scale: it becomes uniformly black.
    """
    count = sum(len(values) for values in _finite(array))
    if not count:
        raise InputError(f"none of the {array.size} voxels is a finite number; export the volume again.")
    if count < array.size:
        logger.warning(
            "%d of %d voxels are NaN or Inf; they are taken as black or white.", array.size - count, array.size
        )
    base = _base(array)
    if rule.kind == "window":
        low, high = rule.low - base, rule.high - base
    elif rule.kind == "percentiles":
        low, high = _spread_percentiles(array, rule, base)
    else:
        mean = sum(values.sum(dtype=np.float64) for values in _finite(array, base)) / count
        squares = sum(np.square(values - mean, dtype=np.float64).sum() for values in _finite(array, base))
        deviation = float(np.sqrt(squares / count))
        low, high = mean + rule.low * deviation, mean + rule.high * deviation
    if rule.kind != "window":
        _warn_of_padding(array, base)
    return GreyScale(float(low), float(high if high > low else low + 1.0), base)


def _spread_percentiles(array: np.ndarray, rule: IntensityRule, base: float) -> list[float]:
    """The rule's percentiles; where they are one value, as in a volume that is empty but for some voxels, its range."""
    found = percentiles(array, (rule.low, rule.high), base)
    if found[0] < found[1]:
        return found
    low, high = percentiles(array, (0, 100), base)
    if low < high:
        logger.warning(
            "the percentiles %g and %g of the voxels are both %g; the contrast is that of all values, %g to %g.",
            rule.low, rule.high, found[0] + base, low + base, high + base,
        )  # fmt: skip
    return [low, high]


def percentiles(array: np.ndarray, wanted: Sequence[float], base: float = 0) -> list[float]:
    """As `np.percentile` of the finite voxels less `base` as float32, without a copy of the volume.

    The bits of a float32, turned so that they sort as the numbers do, are counted in two passes: the upper 16 bits
    find the bin of 65536 that holds a rank, the lower 16 its value.
    """
    upper = np.zeros(2**16, np.int64)
    for values in _finite(array, base):
        upper += np.bincount(_sortable(values) >> 16, minlength=2**16)
    last = int(upper.sum()) - 1
    places = [share / 100 * last for share in wanted]
    ranks = sorted({rank for place in places for rank in (int(np.floor(place)), int(np.ceil(place)))})
    starts = np.cumsum(upper) - upper
    bins = {rank: int(np.searchsorted(starts, rank, side="right")) - 1 for rank in ranks}
    lower = {number: np.zeros(2**16, np.int64) for number in bins.values()}
    for values in _finite(array, base):
        bits = _sortable(values)
        for number, counts in lower.items():
            counts += np.bincount(bits[bits >> 16 == number] & 0xFFFF, minlength=2**16)
    value = {}
    for rank, number in bins.items():
        low_bits = int(np.searchsorted(np.cumsum(lower[number]), rank - starts[number], side="right"))
        value[rank] = _unsorted(number << 16 | low_bits)
    return [
        value[int(np.floor(place))] * (1 - place % 1) + value[int(np.ceil(place))] * (place % 1) for place in places
    ]


def _base(array: np.ndarray) -> float:
    """The least value, if the others are so near to it that float32 would make many of them one; else 0."""
    if np.can_cast(array.dtype, np.float32):
        return 0
    whole = array.dtype.kind in "iu"
    parts = (part if whole else part[np.isfinite(_as_float32(part))] for part in array)
    ends = [(part.min().item(), part.max().item()) for part in parts if part.size]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    largest = max(abs(low), abs(high))
    if whole and largest <= 2**24:  # float32 holds such numbers exactly
        return 0
    return low if 0 < high - low < LEVELS * float(np.spacing(np.float32(largest))) else 0


def _warn_of_padding(array: np.ndarray, base: float) -> None:
    """A value that fills what was not measured, far from all others, takes the contrast that the image needs."""
    step = max(1, round((array.size / SAMPLE) ** (1 / 3)))
    sample = np.concatenate(list(_finite(array[::step, ::step, ::step], base)))
    if not sample.size:
        return
    low, high = np.percentile(sample, (0.5, 99.5), method="nearest")
    for value, other, side, near_end in ((low, high, "below", 5), (high, low, "above", 95)):
        rest = sample[sample != value]
        share = 1 - rest.size / sample.size
        if share < PADDING or not rest.size:
            continue
        near = np.percentile(rest, near_end)
        if abs(near - value) > FAR * abs(other - near) > 0:
            logger.warning(
                "%.2g %% of the voxels are %g, far %s all others: the contrast is that of this padding; set it to the "
                "value of air, for example with 3D Slicer's Threshold Scalar Volume.",
                100 * share, value + base, side,
            )  # fmt: skip


def _finite(array: np.ndarray, base: float = 0) -> Iterator[np.ndarray]:
    """The finite voxels of each slice less `base` as float32, in which a number too large for it is infinite too."""
    for values in array:
        flat = np.ascontiguousarray(_as_float32(values, base)).ravel()
        finite = np.isfinite(flat)
        yield flat if finite.all() else flat[finite]


def _as_float32(values: np.ndarray, base: float = 0) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (values - values.dtype.type(base) if base else values).astype(np.float32, copy=False)


def _sortable(values: np.ndarray) -> np.ndarray:
    """The bits of float32 as uint32 of the same order: negative numbers inverted, the sign of others set."""
    bits = values.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | 0x80000000)


def _unsorted(bits: int) -> float:
    return float(np.uint32(bits & 0x7FFFFFFF if bits >> 31 else ~bits & 0xFFFFFFFF).view(np.float32))


def split_passes(grey: Tensor, channel_layout: str) -> list[Tensor]:
    """Slices of M channels (B, M, S, S) -> what goes through the encoder at once, in each of its passes.

    - "each": every channel alone, (B, 1, S, S);
    - "rgb": up to three channels as the colours of one pass, (B, 3, S, S); the last one fills those that are missing.
    """
    if channel_layout == EACH or grey.shape[1] == 1:
        return list(grey.split(1, dim=1))
    return [torch.cat([grey, grey[:, -1:].expand(-1, COLOURS - grey.shape[1], -1, -1)], dim=1)]


def normalise(grey: Tensor, normalisation: str) -> Tensor:
    """Slices (B, 1, S, S) or in colours (B, 3, S, S) float32 in 0..255 -> (B, 3, S, S), as the encoder's card says.

    - "sam": each colour less SAM's mean and divided by its deviation. Unlike segment_anything/modeling/sam.py
      `preprocess`, padding comes before this step, so that it is black like the air around a body, and not grey.
    - "unit": 0..1 by the slice's own range, three times the same (bowang-lab/MedSAM, MedSAM_Inference.py). Padding
      counts as black here too, which keeps it in 0..1; a slice of one value becomes 0.
    - "grey": 0..1 by the volume's grey scale, three times the same (hitachinsk/SAMed, preprocess_data.py, test.py).
    """
    if normalisation == "sam":
        mean, std = _sam_statistics(grey.device)
        return (grey - mean) / std
    if normalisation == "unit":
        low, high = grey.amin((1, 2, 3), keepdim=True), grey.amax((1, 2, 3), keepdim=True)
        return ((grey - low) / (high - low).clamp(min=_LEAST_RANGE)).expand(-1, 3, -1, -1)
    if normalisation == "grey":
        return (grey / 255).expand(-1, 3, -1, -1)
    raise InputError(f"normalisation {normalisation!r} is unknown; use one of {', '.join(NORMALISATIONS)}.")


@functools.cache
def _sam_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (1, 3, 1, 1), sent to a device once: sending waits for all that a GPU has to do before."""
    mean = torch.tensor(SAM_PIXEL_MEAN, device=device).view(1, 3, 1, 1)
    return mean, torch.tensor(SAM_PIXEL_STD, device=device).view(1, 3, 1, 1)
