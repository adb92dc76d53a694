"""Compare a folder of predictions with a folder of references, case by case and label by label; distances by MONAI."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from ..base.devices import check_numpy
from ..base.errors import InputError
from ..base.files import one_line
from ..base.watch import UNWATCHED, Watch
from ..formats.dicom_tree import DicomTrees
from ..formats.label_maps import LabelMap, read_label_map, segments_of
from ..formats.painted import known_voxels
from ..formats.segments import IGNORE, NO_STRUCTURES, name_key
from ..formats.volumes import volumes_by_name
from ..geometry import grid_offset, is_same_grid, spacing_and_directions, voxel_ml
from ..metrics import dice, mean_defined

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
Structure = str | int  # the name of a segment; the value of a plain label map that no file names


@dataclass(frozen=True)
class Row:
    """One label of one case, or of the mean over cases (case "mean").

    cases: for each metric, of how many cases it is the mean; those in which it is not defined are left out.
    """

    case: str
    label: Structure
    metrics: LabelMetrics
    cases: dict[str, int]


@dataclass
class Evaluation:
    """Rows of all cases and the means; references without a prediction; what could not be compared, and why."""

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Names:
    """How structures are called: by the names of segments, whatever their values, which may differ between files.

    of_value: for plain label maps, the names that a value has in dataset.json, else in any segmentation; spelling: the
    first of the names that differ only in case and spaces. ignore: the value in plain label maps of voxels of which
    nothing is known. regions: structures that are evaluated together, by the name of all, each by its name or value.
    """

    of_value: dict[int, set[str]] = field(default_factory=dict)
    spelling: dict[str, str] = field(default_factory=dict)
    ignore: int | None = None
    regions: Mapping[str, Sequence[Structure]] = field(default_factory=dict)

    @classmethod
    def of_files(
        cls, paths: Iterable[Path], described: Mapping[int, str], regions: Mapping[str, Sequence[Structure]]
    ) -> Names:
        """described: of dataset.json, which counts where any file is a segmentation. Files with errors are skipped."""
        ignored = (value for value, name in described.items() if name_key(name) == IGNORE)
        names = cls(ignore=next(ignored, None), regions=regions)
        for path in paths:
            try:
                segments = segments_of(path)
            except Exception:
                continue  # it is told when the file is compared
            for segment in segments:
                if segment.key not in NO_STRUCTURES:
                    names.of_value.setdefault(segment.value, set()).add(names.spelt(segment.name))
        if names.of_value:
            names.of_value.update({value: {names.spelt(name)} for value, name in described.items()})
        return names

    def spelt(self, name: str) -> str:
        return self.spelling.setdefault(name_key(name), " ".join(name.split()))

    def parts(self, label_map: LabelMap, beside_plain: bool) -> dict[Structure, list[tuple[int, int]]]:
        """Where each structure is, as (layer, value).

        beside_plain: whether it is compared with a plain label map, whose values need no names. Raises InputError for a
        value of a plain label map that may be several structures.
        """
        found: dict[Structure, list[tuple[int, int]]] = {}
        if label_map.segments is not None:
            for segment in label_map.present():
                if segment.key not in NO_STRUCTURES:
                    found.setdefault(self.spelt(segment.name), []).append((segment.layer, segment.value))
            return found
        for value in label_map.values() - {self.ignore}:
            names = sorted(self.of_value.get(value, ()))
            if len(names) > 1 and not beside_plain:
                raise InputError(
                    f"{str(label_map.path)!r} has the value {value}, which is {names[0]!r} in one segmentation and "
                    f"{names[1]!r} in another; say in dataset.json which it is, or save it as a segmentation."
                )
            found[names[0] if len(names) == 1 else value] = [(0, value)]
        return found

    def joined(self, parts: dict[Structure, list[tuple[int, int]]]) -> dict[Structure, list[tuple[int, int]]]:
        """The same with the regions, each where any of its structures is."""
        found = dict(parts)
        for region, members in self.regions.items():
            wanted = {self._called(member) for member in members}
            places = [place for structure, there in parts.items() if structure in wanted for place in there]
            if places:
                found[region] = places
        return found

    def _called(self, member: Structure) -> Structure:
        if isinstance(member, str):
            return self.spelt(member)
        names = self.of_value.get(member, set())
        return next(iter(names)) if len(names) == 1 else member


def evaluate_folders(
    predictions: Path,
    labels: Path,
    tolerance_mm: float = 1.0,
    watch: Watch = UNWATCHED,
    described: Mapping[int, str] | None = None,
    regions: Mapping[str, Sequence[Structure]] | None = None,
) -> Evaluation:
    """Rows of each label of each case that both folders hold, by name; then, per label, the mean over cases.

    A label that is in any case has a row in each. tolerance_mm is that of the surface Dice; described: names of the
    values of plain label maps, to compare them with segmentations; regions: see `Names`. A case that cannot be compared
    is noted as failed. Raises InputError if the tolerance is not a finite number of mm, a folder is missing, no names
    agree, no case holds a label, or no label is in both folders; Cancelled between two cases.
    """
    check_numpy()
    if not 0 <= tolerance_mm < math.inf:
        raise InputError(f"tolerance {tolerance_mm} mm is not a finite number of at least 0; 1 mm is a good start.")
    trees = DicomTrees((predictions, labels))
    references, predicted = _files(predictions, labels, trees)
    cases = sorted(set(references) & set(predicted))
    result = Evaluation(missing=sorted(set(references) - set(predicted)))
    metrics: dict[str, dict[Structure, LabelMetrics]] = {}
    files = [path for case in cases for path in (references[case], predicted[case])]
    names = Names.of_files(files, described or {}, regions or {})
    for case in cases:
        watch.check()
        try:
            metrics[case] = _compare_case(predicted[case], references[case], tolerance_mm, names, trees)
        except Exception as error:
            result.failed[case] = one_line(error, str(predicted[case]))
            logger.error("%s", result.failed[case])
            logger.debug("%s failed here:", case, exc_info=True)
    _check_labels(metrics, predictions, labels)
    found = sorted({label for case in metrics.values() for label in case}, key=_order)
    for name, of_case in metrics.items():
        result.rows.extend(_row(name, label, [of_case.get(label, ABSENT)]) for label in found)
    result.rows.extend(_row("mean", label, [case.get(label, ABSENT) for case in metrics.values()]) for label in found)
    return result


def _files(predictions: Path, labels: Path, trees: DicomTrees) -> tuple[dict[str, Path], dict[str, Path]]:
    """References and predictions by case: by names, else DICOM segmentations by the series that they name.

    Raises InputError if a folder is missing, or no case is in both.
    """
    for folder in (predictions, labels):
        if not folder.is_dir():
            raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    references, predicted = volumes_by_name(labels), volumes_by_name(predictions)
    if not set(references) & set(predicted):
        predicted, references = trees.match()
    if not set(references) & set(predicted):
        raise InputError(
            f"no file in {str(predictions)!r} has the name of one in {str(labels)!r}; names must agree except for the "
            "ending, or DICOM segmentations must be of the same series."
        )
    if extra := sorted(set(predicted) - set(references)):
        logger.warning("%d predictions have no reference: %s.", len(extra), ", ".join(extra[:5]))
    return references, predicted


def _check_labels(metrics: dict[str, dict[Structure, LabelMetrics]], predictions: Path, labels: Path) -> None:
    """Raises InputError if there is no label, or none is in both folders; warns of cases in which none is in both."""
    if metrics and not any(metrics.values()):
        raise InputError(f"no label map in {str(predictions)!r} or {str(labels)!r} holds a label; check the folders.")
    apart = {}
    for name, case in metrics.items():
        ours = {label for label, found in case.items() if found.volume_ml}
        theirs = {label for label, found in case.items() if found.reference_ml}
        apart[name] = (ours, theirs)
    all_ours, all_theirs = (set().union(*(pair[side] for pair in apart.values())) for side in (0, 1))
    if all_ours and all_theirs and not all_ours & all_theirs:
        raise InputError(
            f"no value is in both: the predictions have {_listed(all_ours)}, the references {_listed(all_theirs)}; "
            "give a structure the same value, or the same name, in both folders."
        )
    for name, (ours, theirs) in apart.items():
        if ours and theirs and not ours & theirs:
            message = "%s: no value is in both: the prediction has %s, the reference %s."
            logger.warning(message, name, _listed(ours), _listed(theirs))


def _order(structure: Structure) -> tuple[bool, Structure]:
    """For sorting: values, then names."""
    return isinstance(structure, str), structure


def _listed(structures: set[Structure]) -> str:
    some = sorted(map(str, structures))
    return ", ".join(some[:5]) + (", ..." if len(some) > 5 else "")


def _compare_case(
    prediction: Path, reference: Path, tolerance_mm: float, names: Names, trees: DicomTrees
) -> dict[Structure, LabelMetrics]:
    """Metrics by structure."""
    theirs = read_label_map(reference, grid=lambda: trees.grid_of(reference))
    ours = read_label_map(prediction, grid=lambda: trees.grid_of(prediction)).along(theirs.ijk_to_ras)
    theirs = theirs.along(ours.ijk_to_ras)
    grid = _common_grid(ours, theirs)
    reference_parts = names.joined(names.parts(theirs, beside_plain=ours.segments is None))
    parts = names.joined(names.parts(ours, beside_plain=theirs.segments is None))
    known = np.pad(known_voxels(theirs, names.ignore), grid[1], constant_values=True)
    return {
        structure: compare_label(
            np.pad(_mask(ours, parts.get(structure, [])), grid[0]) & known,
            np.pad(_mask(theirs, reference_parts.get(structure, [])), grid[1]) & known,
            theirs.ijk_to_ras,
            tolerance_mm,
        )
        for structure in {**reference_parts, **parts}
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


def _mask(label_map: LabelMap, parts: list[tuple[int, int]]) -> np.ndarray:
    """Where any of the (layer, value) is, boolean (K, J, I)."""
    found = np.zeros(label_map.layers.shape[1:], bool)
    for layer, value in parts:
        found |= label_map.layers[layer] == value
    return found


def _row(case: str, label: Structure, metrics: list[LabelMetrics]) -> Row:
    values = {metric: [getattr(one, metric) for one in metrics] for metric in METRICS}
    means = LabelMetrics(**{metric: mean_defined(values[metric]) for metric in METRICS})
    return Row(case, label, means, {metric: int(np.isfinite(values[metric]).sum()) for metric in METRICS})


def compare_label(mask: np.ndarray, reference: np.ndarray, ijk_to_ras: np.ndarray, tolerance_mm: float) -> LabelMetrics:
    """All metrics of two boolean masks (K, J, I) on the grid of a 4x4 matrix in mm.

    HD95 is the 95th percentile of surface distances in mm, symmetric; surface Dice the share of both surfaces that
    lies within `tolerance_mm` of the other (Nikolov et al. 2021, arXiv:1809.04430).
    """
    ml = voxel_ml(ijk_to_ras)
    hd95, surface = float("nan"), float("nan")
    if mask.any() and reference.any():
        ours, theirs = (torch.from_numpy(part)[None, None] for part in _crop(mask, reference))
        spacing = spacing_and_directions(ijk_to_ras)[0][::-1].tolist()
        hd95 = float(compute_hausdorff_distance(ours, theirs, include_background=True, percentile=95, spacing=spacing))
        surface = float(compute_surface_dice(ours, theirs, [tolerance_mm], include_background=True, spacing=spacing))
    elif mask.any() != reference.any():
        surface = 0.0
    return LabelMetrics(
        dice(mask, reference),
        hd95,
        surface,
        int(np.count_nonzero(mask)) * ml,
        int(np.count_nonzero(reference)) * ml,
    )


def _crop(*masks: np.ndarray) -> list[np.ndarray]:
    """Cut to the masks' common bounding box with a margin of one voxel of background, which distances need."""
    occupied = np.any(masks, axis=0)
    padded = [np.pad(mask, 1) for mask in masks]
    box = tuple(slice(int(i.min()), int(i.max()) + 3) for i in np.nonzero(occupied))
    return [np.ascontiguousarray(mask[box]) for mask in padded]
