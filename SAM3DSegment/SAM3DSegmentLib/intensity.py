"""Voxel values -> 0..255 grey -> SAM's own normalisation."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .card import IntensityRule
from .errors import InputError

logger = logging.getLogger(__name__)

# segment_anything/build_sam.py: pixel_mean and pixel_std of an RGB image in 0..255.
SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class GreyScale:
    """The linear map of one volume: `low` becomes 0, `high` becomes 255, what lies outside is clipped."""

    low: float
    high: float

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values of any scalar type -> float32 in 0..255; NaN and -Inf become 0, +Inf becomes 255."""
        values = np.nan_to_num(values.astype(np.float32), nan=self.low, posinf=self.high, neginf=self.low)
        return (np.clip(values, self.low, self.high) - self.low) * (255.0 / (self.high - self.low))


def measure_grey_scale(array: np.ndarray, rule: IntensityRule) -> GreyScale:
    """The grey scale of a whole volume under `rule`; voxels that are not finite are left out, and reported.

    A constant volume has no contrast to scale: it becomes uniformly black.
    """
    values = array
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array)
        missing = array.size - int(np.count_nonzero(finite))
        if missing == array.size:
            raise InputError(f"none of the {array.size} voxels is a finite number; export the volume again.")
        if missing:
            logger.warning("%d of %d voxels are NaN or Inf; they are taken as black or white.", missing, array.size)
            values = array[finite]
    if rule.kind == "window":
        low, high = rule.low, rule.high
    elif rule.kind == "percentiles":
        low, high = (float(v) for v in np.percentile(values, (rule.low, rule.high)))
    else:
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        low, high = mean + rule.low * std, mean + rule.high * std
    return GreyScale(low, high if high > low else low + 1.0)


def sam_normalise(grey: Tensor) -> Tensor:
    """(B, 1, S, S) float32 in 0..255 -> (B, 3, S, S), each channel less SAM's mean and divided by its deviation.

    Unlike segment_anything/modeling/sam.py `preprocess`, padding comes before this step, so that it is black like the
    air around a body, and not grey.
    """
    mean = torch.tensor(SAM_PIXEL_MEAN, device=grey.device).view(1, 3, 1, 1)
    std = torch.tensor(SAM_PIXEL_STD, device=grey.device).view(1, 3, 1, 1)
    return (grey - mean) / std
