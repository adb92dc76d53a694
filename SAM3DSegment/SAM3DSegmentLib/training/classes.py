"""The structures of a label map as a model's classes: matched by name where it has names, on the grid of an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..base.errors import InputError
from ..card import Label, Terminology
from ..formats.label_maps import LabelMap
from ..formats.segments import BACKGROUND, Segment, name_key
from ..formats.volumes import Volume, image_on_grid
from ..geometry import grid_offset, is_same_grid

_TISSUE = Terminology("SCT", "85756007", "Tissue")
# Distinct colours for labels that come without one (Okabe & Ito's palette, safe for colour-blind readers).
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def own_labels(label_map: LabelMap) -> tuple[Label, ...]:
    """The structures of one label map as it names them: its segments, or of a plain one its values."""
    if label_map.segments is None:
        return tuple(unnamed_label(index, value) for index, value in enumerate(sorted(label_map.values())))
    found: dict[str, Segment] = {}
    for segment in label_map.present():
        if segment.key != BACKGROUND:
            found.setdefault(segment.key, segment)
    return tuple(
        Label(index + 1, s.name, s.color, s.category or _TISSUE, s.type or _TISSUE, s.modifier)
        for index, s in enumerate(found.values())
    )


def unnamed_label(index: int, value: int, name: str = "") -> Label:
    """A label that nothing but its value is known of, the `index`th of its kind; or its name, too."""
    return Label(value, name or f"Label {value}", _COLORS[index % len(_COLORS)])


def join_labels(label_sets: Iterable[tuple[Label, ...]]) -> tuple[Label, ...]:
    """All of them, in the order of their first appearance, numbered from 1; names decide which are one.

    Colour and codes are those of the first set that has the label.
    """
    found: dict[str, Label] = {}
    for label in (label for labels in label_sets for label in labels):
        found.setdefault(name_key(label.name), label)
    return tuple(replace(label, value=index + 1) for index, label in enumerate(found.values()))


def match_labels(path: Path, own: tuple[Label, ...], labels: tuple[Label, ...], by_name: bool) -> dict[int, int]:
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


def class_indices(label_map: LabelMap, labels: tuple[Label, ...]) -> np.ndarray:
    """Indices 0..C-1 into (background, *labels), (K, J, I) uint8, on the label map's own grid.

    Raises InputError for a structure that `labels` do not have, and for segments that overlap.
    """
    own = own_labels(label_map)
    matched = match_labels(label_map.path, own, labels, by_name=label_map.segments is not None)
    if label_map.segments is None:
        lookup = np.zeros(256, np.uint8)
        for number, label in enumerate(own):
            lookup[label.value] = matched[number] + 1
        return lookup[label_map.layers[0]]
    index_of = {name_key(label.name): matched[number] + 1 for number, label in enumerate(own)}
    indices = np.zeros(label_map.layers.shape[1:], np.uint8)
    for segment in label_map.present():
        if segment.key == BACKGROUND:
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
    return indices


def on_grid_of(image: Volume, indices: np.ndarray, label_map: LabelMap, resample: bool) -> np.ndarray:
    """Class indices on the grid of `image`, (K, J, I) uint8.

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
