"""Compare a folder of predictions with a folder of references, case by case and label by label; distances by MONAI."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from .errors import InputError
from .geometry import spacing_and_directions
from .metrics import dice
from .volume_io import list_volumes, read_volume, volume_name

logger = logging.getLogger(__name__)

GRID_TOLERANCE_MM = 1e-2


@dataclass(frozen=True)
class LabelMetrics:
    """Agreement on one label of one case. NaN where it is not defined: HD95 when either mask is empty."""

    dice: float
    hd95_mm: float
    surface_dice: float
    volume_ml: float
    reference_ml: float


METRICS = tuple(field.name for field in dataclasses.fields(LabelMetrics))


@dataclass(frozen=True)
class Row:
    """One label of one case, or of the mean over cases (case "mean")."""

    case: str
    label: int
    metrics: LabelMetrics


def evaluate_folders(predictions: Path, labels: Path, tolerance_mm: float = 1.0) -> list[Row]:
    """Rows of all cases that both folders hold, by name; then, per label, the mean over cases (NaN left out).

    tolerance_mm is that of the surface Dice. Raises InputError if it is negative, a folder is missing, no names agree,
    or two label maps lie on different grids.
    """
    if not tolerance_mm >= 0:
        raise InputError(f"tolerance {tolerance_mm} mm is negative; 1 mm is a good start.")
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    references = {volume_name(path): path for path in list_volumes(labels)}
    predicted = {volume_name(path): path for path in list_volumes(predictions)}
    names = sorted(set(references) & set(predicted))
    if not names:
        raise InputError(
            f"no file of {str(predictions)!r} is named as one in {str(labels)!r}; names must agree up to the ending."
        )
    if missing := sorted(set(references) - set(predicted)):
        logger.warning("%d references have no prediction: %s", len(missing), ", ".join(missing[:5]))
    rows = [row for name in names for row in _evaluate_case(name, predicted[name], references[name], tolerance_mm)]
    return rows + [_mean([row for row in rows if row.label == value]) for value in sorted({row.label for row in rows})]


def _evaluate_case(name: str, prediction: Path, reference: Path, tolerance_mm: float) -> list[Row]:
    ours, theirs = read_volume(prediction), read_volume(reference)
    if ours.array_kji.shape != theirs.array_kji.shape or not np.allclose(
        ours.ijk_to_ras, theirs.ijk_to_ras, atol=GRID_TOLERANCE_MM
    ):
        raise InputError(f"{str(prediction)!r} is not on the grid of {str(reference)!r}; resample it first.")
    i, j, k = spacing_and_directions(theirs.ijk_to_ras)[0]
    values = sorted((set(np.unique(ours.array_kji).tolist()) | set(np.unique(theirs.array_kji).tolist())) - {0})
    return [
        Row(
            name,
            int(value),
            compare_label(
                ours.array_kji == value, theirs.array_kji == value, (float(k), float(j), float(i)), tolerance_mm
            ),
        )
        for value in values
    ]


def _mean(rows: list[Row]) -> Row:
    def average(metric: str) -> float:
        values = [getattr(row.metrics, metric) for row in rows]
        finite = [value for value in values if np.isfinite(value)]
        return float(np.mean(finite)) if finite else float("nan")

    return Row("mean", rows[0].label, LabelMetrics(**{metric: average(metric) for metric in METRICS}))


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """For JSON, where an undefined metric is null."""
    return [
        {
            "case": row.case,
            "label": row.label,
            **{m: value if np.isfinite(value := getattr(row.metrics, m)) else None for m in METRICS},
        }
        for row in rows
    ]


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["case", "label", *METRICS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_dicts(rows))
    return text.getvalue()


def as_table(rows: list[Row]) -> str:
    """For people, in columns."""
    lines = [f"{'case':<24} {'label':>5} {'Dice':>7} {'HD95 mm':>8} {'surface':>8} {'mL':>9} {'ref. mL':>9}"]
    for row in rows:
        m = row.metrics
        lines.append(
            f"{row.case:<24} {row.label:>5} {m.dice:>7.4f} {m.hd95_mm:>8.2f} {m.surface_dice:>8.4f} "
            f"{m.volume_ml:>9.3f} {m.reference_ml:>9.3f}"
        )
    return "\n".join(lines)


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
