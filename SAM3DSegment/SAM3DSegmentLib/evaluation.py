"""Compare a folder of predictions with a folder of references, case by case and label by label; distances by MONAI."""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from .base.devices import check_numpy
from .base.errors import InputError, Sam3dError
from .base.files import last_line
from .base.watch import UNWATCHED, Watch
from .formats.label_maps import LabelMap, read_label_map
from .formats.segments import BACKGROUND
from .formats.volumes import volumes_by_name
from .geometry import grid_offset, is_same_grid, spacing_and_directions
from .metrics import dice, mean_defined

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelMetrics:
    """Agreement on one label of one case.

    NaN where it is not defined: Dice and surface Dice when both masks are empty, HD95 when either is.
    """

    dice: float
    hd95_mm: float
    surface_dice: float
    volume_ml: float
    reference_ml: float


ABSENT = LabelMetrics(math.nan, math.nan, math.nan, 0.0, 0.0)  # in the prediction and in the reference
METRICS = tuple(field.name for field in dataclasses.fields(LabelMetrics))


@dataclass(frozen=True)
class Row:
    """One label of one case, or of the mean over cases (case "mean").

    cases: for each metric, of how many cases it is the mean; those in which it is not defined are left out.
    """

    case: str
    label: int
    metrics: LabelMetrics
    cases: dict[str, int]


@dataclass
class Evaluation:
    """Rows of all cases and the means; references without a prediction; what could not be compared, and why."""

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def evaluate_folders(
    predictions: Path, labels: Path, tolerance_mm: float = 1.0, watch: Watch = UNWATCHED
) -> Evaluation:
    """Rows of each label of each case that both folders hold, by name; then, per label, the mean over cases.

    A label that is in any case has a row in each. tolerance_mm is that of the surface Dice. A case that cannot be
    compared is noted as failed. Raises InputError if the tolerance is not a finite number of mm, a folder is missing,
    no names agree, or no case holds a label; Cancelled between two cases.
    """
    check_numpy()
    if not 0 <= tolerance_mm < math.inf:
        raise InputError(f"tolerance {tolerance_mm} mm is not a finite number of at least 0; 1 mm is a good start.")
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    references, predicted = volumes_by_name(labels), volumes_by_name(predictions)
    names = sorted(set(references) & set(predicted))
    if not names:
        raise InputError(
            f"no file in {str(predictions)!r} has the name of one in {str(labels)!r}; names must agree except for the "
            "ending."
        )
    if extra := sorted(set(predicted) - set(references)):
        logger.warning("%d predictions have no reference: %s.", len(extra), ", ".join(extra[:5]))
    result = Evaluation(missing=sorted(set(references) - set(predicted)))
    metrics: dict[str, dict[int, LabelMetrics]] = {}
    known: dict[str, int] = {}
    for name in names:
        watch.check()
        try:
            metrics[name] = _compare_case(predicted[name], references[name], tolerance_mm, known)
        except (Sam3dError, MemoryError, RuntimeError) as error:
            result.failed[name] = last_line(error)
            logger.error("%s", result.failed[name])
    if metrics and not any(metrics.values()):
        raise InputError(f"no label map in {str(predictions)!r} or {str(labels)!r} holds a label; check the folders.")
    found = sorted({label for case in metrics.values() for label in case})
    for name, case in metrics.items():
        result.rows.extend(_row(name, label, [case.get(label, ABSENT)]) for label in found)
    result.rows.extend(_row("mean", label, [case.get(label, ABSENT) for case in metrics.values()]) for label in found)
    return result


def _compare_case(
    prediction: Path, reference: Path, tolerance_mm: float, known: dict[str, int]
) -> dict[int, LabelMetrics]:
    """Metrics by label. `known`: the label of each segment name in the cases before."""
    theirs, ours = read_label_map(reference), read_label_map(prediction)
    grid = _common_grid(ours, theirs)
    i, j, k = spacing_and_directions(theirs.ijk_to_ras)[0].tolist()
    reference_parts, parts = _parts_by_label(theirs, known), _parts_by_label(ours, known)
    return {
        label: compare_label(
            _mask(ours, parts.get(label, []), grid[0]),
            _mask(theirs, reference_parts.get(label, []), grid[1]),
            (k, j, i),
            tolerance_mm,
        )
        for label in sorted({*reference_parts, *parts})
    }


def _common_grid(ours: LabelMap, theirs: LabelMap) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Voxels to be added before and after each axis (k, j, i) of both label maps, so that they lie on one grid.

    Only a segmentation may be cropped. Raises InputError if the grids differ in anything else.
    """
    shape, other = ours.layers.shape[1:], theirs.layers.shape[1:]
    if is_same_grid(shape, ours.ijk_to_ras, other, theirs.ijk_to_ras):
        return [(0, 0)] * 3, [(0, 0)] * 3
    offset = grid_offset(ours.ijk_to_ras, other, theirs.ijk_to_ras)
    if offset is None or (ours.segments is None and theirs.segments is None):
        raise InputError(f"{str(ours.path)!r} is not on the grid of {str(theirs.path)!r}; resample it first.")
    ends = [max(n, o + m) for o, n, m in zip(offset, shape, other)]
    return (
        [(max(0, -o), end - n) for o, n, end in zip(offset, shape, ends)],
        [(max(0, o), end - o - m) for o, m, end in zip(offset, other, ends)],
    )


def _mask(label_map: LabelMap, parts: list[tuple[int, int]], padding: list[tuple[int, int]]) -> np.ndarray:
    """Where any of the (layer, value) is, boolean (K, J, I), padded."""
    found = np.zeros(label_map.layers.shape[1:], bool)
    for layer, value in parts:
        found |= label_map.layers[layer] == value
    return np.pad(found, padding)


def _parts_by_label(label_map: LabelMap, known: dict[str, int]) -> dict[int, list[tuple[int, int]]]:
    """Where each label is, as (layer, value): of segments by their name, whatever their value in this file.

    A name that is not yet `known` is added with its value. Raises InputError if that is the one of another name.
    """
    if label_map.segments is None:
        return {value: [(0, value)] for value in label_map.values()}
    found: dict[int, list[tuple[int, int]]] = {}
    for segment in label_map.present():
        if segment.key == BACKGROUND:
            continue
        label = known.setdefault(segment.key, segment.value)
        others = [other for other, taken in known.items() if taken == label and other != segment.key]
        if others:
            raise InputError(
                f"{str(label_map.path)!r} names the label {label} {segment.name!r}, but another file names it "
                f"{others[0]!r}; use the same name for a structure in all files, or save them as plain label maps."
            )
        found.setdefault(label, []).append((segment.layer, segment.value))
    return found


def _row(case: str, label: int, metrics: list[LabelMetrics]) -> Row:
    values = {metric: [getattr(one, metric) for one in metrics] for metric in METRICS}
    means = LabelMetrics(**{metric: mean_defined(values[metric]) for metric in METRICS})
    return Row(case, label, means, {metric: int(np.isfinite(values[metric]).sum()) for metric in METRICS})


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """For JSON, where an undefined metric is null."""
    return [
        {
            "case": row.case,
            "label": row.label,
            **{m: value if np.isfinite(value := getattr(row.metrics, m)) else None for m in METRICS},
            **{f"{m}_cases": row.cases[m] for m in METRICS[:3]},
        }
        for row in rows
    ]


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["case", "label", *METRICS, *(f"{m}_cases" for m in METRICS[:3])], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(as_dicts(rows))
    return text.getvalue()


def as_table(rows: list[Row]) -> str:
    """For people, in columns; n is the number of cases that a mean is of."""
    header = f"{'case':<24} {'label':>5} {'Dice':>7} {'n':>4} {'HD95 mm':>8} {'n':>4} {'surface':>8}"
    lines = [f"{header} {'mL':>9} {'ref. mL':>9}"]
    for row in rows:
        m, n = row.metrics, row.cases
        lines.append(
            f"{row.case:<24} {row.label:>5} {m.dice:>7.4f} {n['dice']:>4} {m.hd95_mm:>8.2f} "
            f"{n['hd95_mm']:>4} {m.surface_dice:>8.4f} {m.volume_ml:>9.3f} {m.reference_ml:>9.3f}"
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
