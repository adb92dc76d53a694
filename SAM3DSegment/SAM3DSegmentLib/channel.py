"""The channels of a volume: what a model calls each, and how its voxel values become grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .base.errors import require

MOST_CHANNELS = 16  # of a volume: each may need a pass of the encoder, and makes the decoder's first layer wider


@dataclass(frozen=True)
class IntensityRule:
    """How voxel values become the 0..255 grey values that SAM expects.

    kind "window": [low, high] in the volume's own units (HU for CT); "percentiles": [low, high] are percentiles of the
    finite voxels; "zscore": [low, high] are numbers of standard deviations from the mean.
    """

    kind: str = "percentiles"
    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        require(
            self.kind in ("window", "percentiles", "zscore"),
            f"intensity kind {self.kind!r} is unknown; use 'window', 'percentiles' or 'zscore'.",
        )
        require(
            math.isfinite(self.low) and math.isfinite(self.high),
            f"intensity range [{self.low}, {self.high}] is not finite; give two numbers.",
        )
        require(
            self.low < self.high,
            f"intensity range [{self.low}, {self.high}] is empty; the first number must be smaller.",
        )
        require(
            self.kind != "percentiles" or (self.low >= 0 and self.high <= 100),
            f"percentiles [{self.low}, {self.high}] are outside 0..100.",
        )


@dataclass(frozen=True)
class Channel:
    """One of several volumes of a case on one grid, such as T1 and FLAIR, or CT and PET.

    name: "" for the only one; intensity: None for the rule that holds for all; modality: "" likewise.
    """

    name: str
    intensity: IntensityRule | None = None
    modality: str = ""


def require_channels(channels: Sequence[Channel]) -> None:
    """Raises InputError unless these can be the channels of a volume."""
    names = [channel.name for channel in channels]
    for name in names:
        require(
            bool(name.strip()) and "=" not in name,
            f"{name!r} cannot name a channel; use a name such as T1, without the sign =.",
        )
    require(
        len({name.casefold() for name in names}) == len(names),
        f"channel names {', '.join(names)} are not all different; rename them.",
    )
    require(len(names) <= MOST_CHANNELS, f"{len(names)} channels are too many; a model reads up to {MOST_CHANNELS}.")
