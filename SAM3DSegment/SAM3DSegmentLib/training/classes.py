"""The structures of a label map as a model's classes: matched by name where it has names, on the grid of an image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..base.errors import InputError
from ..card import UNKNOWN, Label, Terminology
from ..formats.channels import read_channels
from ..formats.label_maps import LabelMap, read_label_map
from ..formats.painted import EMPTY, PaintedSlices, find_painted, painted_across
from ..formats.segments import EMPTY as EMPTY_NAME
from ..formats.segments import IGNORE, NO_STRUCTURES, Segment, name_key
from ..formats.volumes import Volume, image_on_grid
from ..geometry import grid_offset, is_same_grid, plane_across
from ..settings import TrainingConfig
from .case_files import CaseFiles, Dataset
from .description import DESCRIPTION

_TISSUE = Terminology("SCT", "85756007", "Tissue")
# Distinct colours for labels that come without one (Okabe & Ito's palette, safe for colour-blind readers).
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))

ON_ONE_SIDE = 0.8  # of `Look.sides`, the mean of all cases: a structure and its mirror image hardly overlap
_SIDE_NAMES = re.compile(
    r"(?<![^\W_\d])(l|r|lh|rh|lt|rt|left|right|link\w*|recht\w*|gauche|droite?|izquierd\w|derech\w|sinistr\w|destr\w)"
    r"(?![^\W_\d])|左|右",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LabelRules:
    """How the label maps of a data set are read.

    resample: whether one on another grid is brought to that of its image, and a channel to that of the first.
    only_painted: of every case only the painted slices are known, not only of those that say so themselves. ignore: the
    value in plain label maps of voxels of which nothing is known.
    """

    resample: bool = False
    only_painted: bool = False
    ignore: int | None = None

    @classmethod
    def of(cls, config: TrainingConfig, dataset: Dataset) -> LabelRules:
        return cls(config.resample, config.painted_slices, dataset.ignore)


@dataclass(frozen=True)
class Painting:
    """What painted slices show: of each structure, whether some between its own lack it (`skips`).

    is_open: whether the first or last of them, with more slices beyond, shows a structure, so that its end is unknown.
    """

    skips: tuple[bool, ...]
    is_open: bool


COMPLETE = LabelRules()  # unless they say otherwise


@dataclass(frozen=True)
class Look:
    """What one case's files say: the image's grid, and the structures as the label map names them.

    voxels: of each of `own` on the image's grid, and sides: the share of them on the right of the image's middle less
    that on the left; by_name: whether `own` are named. sha256: of the names and contents of the files, if it was asked
    for. problem: why it cannot be trained on, or "".

    painted, painting: the slices that are known, if not all are, and what they show. seems_painted: slices that were
    painted as it seems, though all are said to be known.
    """

    files: CaseFiles
    shape_kji: tuple[int, ...] = ()
    ijk_to_ras: np.ndarray = field(default_factory=lambda: np.eye(4))
    own: tuple[Label, ...] = ()
    by_name: bool = False
    voxels: tuple[int, ...] = ()
    sides: tuple[float, ...] = ()
    painted: PaintedSlices | None = None
    painting: Painting | None = None
    seems_painted: PaintedSlices | None = None
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class CaseFacts:
    """One case in the terms of all cases' labels; of each that it has, by name, `voxels`, `sides` and `skips`."""

    files: CaseFiles
    shape_kji: tuple[int, ...] = ()
    ijk_to_ras: np.ndarray = field(default_factory=lambda: np.eye(4))
    voxels: dict[str, int] = field(default_factory=dict)
    sides: dict[str, float] = field(default_factory=dict)
    skips: dict[str, bool] = field(default_factory=dict)
    painted: PaintedSlices | None = None
    painting: Painting | None = None
    seems_painted: PaintedSlices | None = None
    problem: str = ""


def own_labels(label_map: LabelMap, ignore: int | None = None) -> tuple[Label, ...]:
    """The structures of one label map as it names them: its segments, or of a plain one its values but `ignore`."""
    if label_map.segments is None:
        values = sorted(label_map.values() - {ignore})
        return tuple(_unnamed_label(index, value) for index, value in enumerate(values))
    found: dict[str, Segment] = {}
    for segment in label_map.present():
        if segment.key not in NO_STRUCTURES:
            found.setdefault(segment.key, segment)
    return tuple(
        Label(index + 1, s.name, s.color, s.category or _TISSUE, s.type or _TISSUE, s.modifier)
        for index, s in enumerate(found.values())
    )


def agree_on_labels(
    dataset: Dataset, looks: tuple[Look, ...], given: tuple[Label, ...] = ()
) -> tuple[tuple[Label, ...], tuple[CaseFacts, ...]]:
    """The labels that are `given`, or else those that the data have, and every case in terms of them.

    Raises InputError if no label map has a structure, or their names and values cannot be matched.
    """
    labels = given or _find_labels(dataset, looks)
    if len(labels) >= EMPTY:
        raise InputError(f"{len(labels)} labels are too many; train on at most {EMPTY - 1}.")
    return labels, tuple(_facts_of(look, labels) for look in looks)


def read_case(case: CaseFiles, labels: tuple[Label, ...], rules: LabelRules = COMPLETE) -> tuple[Volume, np.ndarray]:
    """The image, and class indices (K, J, I) uint8 on its grid. Raises InputError where they do not fit."""
    image = read_channels(case.channels, rules.resample, case.frame)
    label_map = read_label_map(case.label_map, case.frame, lambda: image.grid)
    return image, classes_on(image, label_map, labels, rules)[0]


def classes_on(
    image: Volume, label_map: LabelMap, labels: tuple[Label, ...], rules: LabelRules
) -> tuple[np.ndarray, PaintedSlices | None]:
    """Indices 0..C-1 into (background, *labels) or UNKNOWN, (K, J, I) uint8, on the grid of `image`.

    With them the painted slices, if nothing is known of the others. Raises InputError where the two do not fit, or
    nothing is known.
    """
    label_map = label_map.along(image.ijk_to_ras)
    indices = on_grid_of(image, class_indices(label_map, labels, rules.ignore), label_map, rules.resample)
    painted = None
    if rules.only_painted or any(segment.only_painted for segment in label_map.segments or ()):
        painted = _painted_slices(indices, image.ijk_to_ras, label_map.path)
        indices = painted.keep(indices)
    indices = np.where(indices == EMPTY, 0, indices).astype(np.uint8)
    if (indices == UNKNOWN).all():
        raise InputError(f"{str(label_map.path)!r} leaves every voxel unknown ({IGNORE!r}); paint some slices whole.")
    return indices, painted


def _painted_slices(indices: np.ndarray, ijk_to_ras: np.ndarray, path: Path) -> PaintedSlices:
    if crossing := painted_across(indices):
        planes = " and ".join(plane_across(ijk_to_ras, axis) for axis in crossing)
        raise InputError(
            f"{str(path)!r} is painted on {planes} slices, and which of them are complete cannot be told; keep the "
            "slices of one direction."
        )
    painted = find_painted(indices)
    if painted is None:
        raise InputError(
            f"{str(path)!r} has no painted slice, and only painted slices are known; paint some, or take the case out."
        )
    return painted


def class_indices(label_map: LabelMap, labels: tuple[Label, ...], ignore: int | None = None) -> np.ndarray:
    """Indices 0..C-1 into (background, *labels), EMPTY or UNKNOWN, (K, J, I) uint8, on the label map's own grid.

    Raises InputError for a structure that `labels` do not have, and for segments that overlap.
    """
    own = own_labels(label_map, ignore)
    matched = _match_labels(label_map.path, own, labels, by_name=label_map.segments is not None)
    if label_map.segments is None:
        lookup = np.zeros(256, np.uint8)
        if ignore is not None:
            lookup[ignore] = UNKNOWN
        for number, label in enumerate(own):
            lookup[label.value] = matched[number] + 1
        return lookup[label_map.layers[0]]
    index_of = {name_key(label.name): matched[number] + 1 for number, label in enumerate(own)}
    indices = np.zeros(label_map.layers.shape[1:], np.uint8)
    present = label_map.present()
    for segment in present:
        if segment.key in NO_STRUCTURES:
            continue
        mask = label_map.layers[segment.layer] == segment.value
        taken = indices[mask]
        if taken.any():
            other = labels[int(taken[taken > 0][0]) - 1].name
            raise InputError(
                f"{str(label_map.path)!r}: the segments {other!r} and {segment.name!r} overlap in "
                f"{int(np.count_nonzero(taken))} voxels, and a voxel can have one label only; remove the overlap "
                "(Segment Editor: Logical operators, Subtract)."
            )
        indices[mask] = index_of[segment.key]
    for segment in present:
        mask = label_map.layers[segment.layer] == segment.value
        if segment.key == EMPTY_NAME:
            indices[mask & (indices == 0)] = EMPTY
        elif segment.key == IGNORE:
            indices[mask] = UNKNOWN
    return indices


def on_grid_of(image: Volume, indices: np.ndarray, label_map: LabelMap, resample: bool) -> np.ndarray:
    """Class indices as `class_indices` gives them, on the grid of `image`, (K, J, I) uint8.

    What lies on the same grid, or on a box of it (a cropped segmentation), is placed as it is; anything else is
    resampled by nearest neighbour if `resample`, else refused with InputError.
    """
    shape = image.array_kji.shape
    if is_same_grid(shape, image.ijk_to_ras, indices.shape, label_map.ijk_to_ras):
        return indices
    box = grid_offset(image.ijk_to_ras, indices.shape, label_map.ijk_to_ras)
    if box is not None and label_map.segments is not None:
        whole = np.zeros(shape, np.uint8)
        target = tuple(slice(max(0, o), max(0, min(n, o + m))) for o, n, m in zip(box, shape, indices.shape))
        source = tuple(slice(max(0, -o), max(0, min(n - o, m))) for o, n, m in zip(box, shape, indices.shape))
        whole[target] = indices[source]
        return whole
    if not resample:
        raise InputError(
            f"label map {str(label_map.path)!r} is not on the grid of its image {str(image.path)!r}; export it with "
            "the image as reference, or add --resample."
        )
    moving = image_on_grid(indices, label_map.ijk_to_ras)
    fixed = image_on_grid(np.zeros(shape, np.uint8), image.ijk_to_ras)
    return sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0))


def _find_labels(dataset: Dataset, looks: tuple[Look, ...]) -> tuple[Label, ...]:
    """The labels that the data have: by dataset.json, by the names of segments, else by their values.

    Colours and codes are those of the segments. Raises InputError if no label map has a structure.
    """
    named = [look for look in looks if look.own and look.by_name]
    unnamed = [look for look in looks if look.own and not look.by_name]
    if not named and not unnamed:
        if problem := next((look.problem for look in looks if look.problem), ""):
            raise InputError(problem)
        files = ", ".join(look.files.label_map.name for look in looks)
        raise InputError(f"no label map has a structure: {files}; draw one, or give other files.")
    of_segments = _join_labels(look.own for look in named)
    if dataset.names:
        by_name = {name_key(label.name): label for label in of_segments}
        return tuple(
            Label(value, name, label.color, label.category, label.type, label.modifier)
            if (label := by_name.get(name_key(name)))
            else _unnamed_label(index, value, name)
            for index, (value, name) in enumerate(sorted(dataset.names.items()))
        )
    if named and unnamed:
        raise InputError(
            f"{named[0].files.label_map.name} names its structures and {unnamed[0].files.label_map.name} does not, so "
            f"they cannot be matched; save all as .seg.nrrd, or name the values in {DESCRIPTION}."
        )
    if named:
        return of_segments
    values = sorted({label.value for look in unnamed for label in look.own})
    return tuple(_unnamed_label(index, value) for index, value in enumerate(values))


def _facts_of(look: Look, labels: tuple[Label, ...]) -> CaseFacts:
    """The case in terms of `labels`; a structure that these do not have is its problem."""
    if look.problem:
        return CaseFacts(look.files, problem=look.problem)
    try:
        matched = _match_labels(look.files.label_map, look.own, labels, look.by_name)
    except InputError as error:
        return CaseFacts(look.files, problem=str(error))
    number_of = {labels[index].name: number for number, index in matched.items() if look.voxels[number]}
    names = [label.name for label in labels if label.name in number_of]
    return CaseFacts(
        look.files,
        look.shape_kji,
        look.ijk_to_ras,
        {name: look.voxels[number_of[name]] for name in names},
        {name: look.sides[number_of[name]] for name in names},
        {name: look.painting.skips[number_of[name]] for name in names} if look.painting else {},
        look.painted,
        look.painting,
        look.seems_painted,
    )


def has_sides(facts: Sequence[CaseFacts], labels: tuple[Label, ...]) -> bool:
    """Whether a label is, by its name or its place, of one side, so that a mirrored volume would teach it wrong."""
    for label in labels:
        sides = [case.sides[label.name] for case in facts if label.name in case.sides]
        if _SIDE_NAMES.search(label.name) or (sides and abs(np.mean(sides)) > ON_ONE_SIDE):
            return True
    return False


def _unnamed_label(index: int, value: int, name: str = "") -> Label:
    """A label that nothing but its value is known of, the `index`th of its kind; or its name, too."""
    return Label(value, name or f"Label {value}", _COLORS[index % len(_COLORS)])


def _join_labels(label_sets: Iterable[tuple[Label, ...]]) -> tuple[Label, ...]:
    """All of them, in the order of their first appearance, numbered from 1; names decide which are one.

    Colour and codes are those of the first set that has the label.
    """
    found: dict[str, Label] = {}
    for label in (label for labels in label_sets for label in labels):
        found.setdefault(name_key(label.name), label)
    return tuple(replace(label, value=index + 1) for index, label in enumerate(found.values()))


def _match_labels(path: Path, own: tuple[Label, ...], labels: tuple[Label, ...], by_name: bool) -> dict[int, int]:
    """Which of `labels`, from 0, each of a label map's own is, from 0. Raises InputError for one that is none."""
    if by_name:
        index_of = {name_key(label.name): index for index, label in enumerate(labels)}
        for label in own:
            if name_key(label.name) not in index_of:
                raise InputError(
                    f"{str(path)!r} has the segment {label.name!r}, which is none of "
                    f"{', '.join(label.name for label in labels)}; rename or remove it, or add it to `labels`."
                )
        return {number: index_of[name_key(label.name)] for number, label in enumerate(own)}
    index_of_value = {label.value: index for index, label in enumerate(labels)}
    if unknown := [label.value for label in own if label.value not in index_of_value]:
        raise InputError(f"label map {str(path)!r} has the values {unknown[:5]} without a name; add them to `labels`.")
    return {number: index_of_value[label.value] for number, label in enumerate(own)}
