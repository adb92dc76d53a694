"""How well a label map agrees with a reference: Dice, HD95, surface Dice and volumes; distances by MONAI."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice


@dataclass(frozen=True)
class LabelMetrics:
    """Agreement on one label of one case. NaN where it is not defined: HD95 when either mask is empty."""

    dice: float
    hd95_mm: float
    surface_dice: float
    volume_ml: float
    reference_ml: float


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean masks; 1 if both are empty."""
    total = int(np.count_nonzero(mask)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(mask & reference)) / total if total else 1.0


def label_dice(labels: np.ndarray, reference: np.ndarray, values: list[int]) -> list[float]:
    """Dice of each label value."""
    return [dice(labels == value, reference == value) for value in values]


def compare_label(
    mask: np.ndarray, reference: np.ndarray, spacing_kji_mm: tuple[float, float, float], tolerance_mm: float
) -> LabelMetrics:
    """All metrics of two boolean masks (K, J, I) on a grid of `spacing_kji_mm`.

    HD95 is the 95th percentile of surface distances in mm, symmetric; surface Dice the share of both surfaces that
    lies within `tolerance_mm` of the other (Nikolov et al. 2021, arXiv:1809.04430).
    """
    voxel_ml = float(np.prod(spacing_kji_mm)) / 1000
    hd95, surface = float("nan"), float("nan")
    if mask.any() and reference.any():
        ours, theirs = (torch.from_numpy(part)[None, None] for part in _crop(mask, reference))
        spacing = list(spacing_kji_mm)
        hd95 = float(compute_hausdorff_distance(ours, theirs, include_background=True, percentile=95, spacing=spacing))
        surface = float(compute_surface_dice(ours, theirs, [tolerance_mm], include_background=True, spacing=spacing))
    elif mask.any() != reference.any():
        surface = 0.0
    return LabelMetrics(
        dice(mask, reference),
        hd95,
        surface,
        int(np.count_nonzero(mask)) * voxel_ml,
        int(np.count_nonzero(reference)) * voxel_ml,
    )


def _crop(*masks: np.ndarray) -> list[np.ndarray]:
    """Cut to the masks' common bounding box with a margin of one voxel of background, which distances need."""
    occupied = np.any(masks, axis=0)
    padded = [np.pad(mask, 1) for mask in masks]
    box = tuple(slice(int(i.min()), int(i.max()) + 3) for i in np.nonzero(occupied))
    return [np.ascontiguousarray(mask[box]) for mask in padded]
