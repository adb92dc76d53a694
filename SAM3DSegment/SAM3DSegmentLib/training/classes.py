"""The labels of a file as a model's classes: matched by name where it has names, on the grid of an image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk

from ..base.errors import InputError
from ..card import Label, Terminology
from ..formats.label_maps import LabelMap
from ..formats.segments import BACKGROUND, Segment, name_key
from ..formats.volumes import Volume, image_on_grid
from ..geometry import grid_offset, is_same_grid


def class_indices(label_map: LabelMap, labels: tuple[Label, ...]) -> np.ndarray:
    """Indices 0..C-1 into (background, *labels), (K, J, I) uint8, on the label map's own grid.

    Raises InputError for a structure that `labels` do not have, and for segments that overlap.
    """
    if label_map.segments is None:
        return _indices_of_values(label_map, labels)
    index_of = {name_key(label.name): index + 1 for index, label in enumerate(labels)}
    indices = np.zeros(label_map.layers.shape[1:], np.uint8)
    names = ("", *(label.name for label in labels))
    for segment in label_map.present():
        if segment.key == BACKGROUND:
            continue
        if segment.key not in index_of:
            raise InputError(
                f"{str(label_map.path)!r} has the segment {segment.name!r}, which is none of "
                f"{', '.join(names[1:])}; rename or remove it, or add it to `labels`."
            )
        mask = label_map.layers[segment.layer] == segment.value
        taken = indices[mask]
        if taken.any():
            other = names[int(taken[taken > 0][0])]
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


def labels_of_segments(label_maps: Iterable[LabelMap]) -> tuple[Label, ...]:
    """The labels of all segments, in the order of their first appearance, numbered from 1; names decide which are one.

    Colour and codes are those of the first file that has the segment.
    """
    found: dict[str, Segment] = {}
    for label_map in label_maps:
        for segment in label_map.present():
            if segment.key != BACKGROUND:
                found.setdefault(segment.key, segment)
    tissue = Terminology("SCT", "85756007", "Tissue")
    return tuple(
        Label(index + 1, s.name, s.color, s.category or tissue, s.type or tissue, s.modifier)
        for index, s in enumerate(found.values())
    )


def _indices_of_values(label_map: LabelMap, labels: tuple[Label, ...]) -> np.ndarray:
    table = {0: 0, **{label.value: index + 1 for index, label in enumerate(labels)}}
    unknown = sorted(label_map.values() - set(table))
    if unknown:
        raise InputError(
            f"label map {str(label_map.path)!r} has the values {unknown[:5]} without a name; add them to `labels`."
        )
    lookup = np.zeros(256, np.uint8)
    for value, index in table.items():
        lookup[value] = index
    return lookup[label_map.layers[0]]
