"""What is measured of one mask that is there already, on its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InputError
from ..card import Label
from ..formats.label_maps import LabelMap, read_label_map
from ..formats.segments import IGNORE, NO_STRUCTURES, name_key
from ..formats.volumes import Volume
from ..geometry import grid_offset, voxel_ml
from ..results import date_now, measure_segment

Color = tuple[int, int, int]  # RGB, 0..255

# Of plain label maps, by value: Okabe and Ito's, which people with any kind of colour vision can tell apart.
_COLORS: tuple[Color, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
)


@dataclass(frozen=True)
class Structure:
    """Where one structure is: `value` in `layer`; and what it looks like."""

    name: str
    value: int
    layer: int
    color: Color


@dataclass(frozen=True)
class Masks:
    """Structures of one case: layers (L, K, J, I), which lie at `place` (three slices) on the grid of its image."""

    layers: np.ndarray
    place: tuple[slice, ...]
    structures: tuple[Structure, ...]

    @property
    def colors(self) -> dict[str, Color]:
        """By name."""
        return {structure.name: structure.color for structure in self.structures}

    @classmethod
    def of_labels(cls, labels_kji: np.ndarray, labels: Sequence[Label]) -> Masks:
        """labels_kji: on the image's grid."""
        structures = tuple(Structure(label.name, label.value, 0, label.color) for label in labels)
        return cls(labels_kji[None], tuple(slice(0, size) for size in labels_kji.shape), structures)


def read_masks(
    mask: Path,
    image: Volume,
    names: Mapping[int, str],
    colors: Mapping[int, Color] | None = None,
    frame: int | None = None,
) -> Masks:
    """What a mask shows, on the grid of its image; empty structures of a segmentation too.

    names, colors: of the values of a plain label map; one that has no name is called by its number. frame: which one of
    a mask over time. Raises InputError if the mask is not on the grid of the image, of which a segmentation may be
    cropped.
    """
    label_map = read_label_map(mask, frame, lambda: image.grid).along(image.ijk_to_ras)
    structures = tuple(_structures(label_map, names, colors or {}))
    return Masks(label_map.layers, _place(label_map, image), structures)


def measure_masks(masks: Masks, image: Volume) -> dict[str, Any]:
    """`segments` and `date` as in the record of `results`, without the confidence."""
    ml = voxel_ml(image.ijk_to_ras)
    segments = []
    for structure in masks.structures:
        whole = np.zeros(image.array_kji.shape, bool)
        whole[masks.place] = masks.layers[structure.layer] == structure.value
        measured = measure_segment(whole, image.array_kji, ml, channels=image.named_channels)
        segments.append({"name": structure.name, "value": structure.value} | measured)
    return {"segments": segments, "date": date_now()}


def read_result(mask: Path, image: Volume, labels: Sequence[Label], frame: int | None = None) -> Masks:
    """As `read_masks`, of a mask that a model made, with its names and colours."""
    colors = {label.value: label.color for label in labels}
    return read_masks(mask, image, {label.value: label.name for label in labels}, colors, frame)


def measure_result(masks: Masks, image: Volume, labels: Sequence[Label]) -> dict[str, Any]:
    """As `measure_masks`, of a mask that a model made: all of its labels, with its values.

    A DICOM segmentation counts its segments anew, and like a plain label map it has none that is empty. A mask that
    shows anything else, because another model or a person made it, is measured as it is.
    """
    record = measure_masks(masks, image)
    found = {segment["name"]: segment for segment in record["segments"]}
    if found.keys() - {label.name for label in labels}:
        return record
    nothing, ml = np.zeros(image.array_kji.shape, bool), voxel_ml(image.ijk_to_ras)
    empty = measure_segment(nothing, image.array_kji, ml, channels=image.named_channels)
    segments = [{**found.get(label.name, empty), "name": label.name, "value": label.value} for label in labels]
    return {**record, "segments": segments}


def _structures(label_map: LabelMap, names: Mapping[int, str], colors: Mapping[int, Color]) -> Iterator[Structure]:
    if label_map.segments is not None:
        for segment in label_map.segments:
            if segment.key not in NO_STRUCTURES:
                yield Structure(segment.name, segment.value, segment.layer, segment.color)
        return
    for value in sorted(label_map.values()):
        name = names.get(value, str(value))
        if name_key(name) != IGNORE:
            yield Structure(name, value, 0, colors.get(value, _COLORS[(value - 1) % len(_COLORS)]))


def _place(label_map: LabelMap, volume: Volume) -> tuple[slice, ...]:
    """Of the mask's voxels in the volume."""
    shape, other = label_map.layers.shape[1:], volume.array_kji.shape
    offset = grid_offset(volume.ijk_to_ras, shape, label_map.ijk_to_ras)
    inside = offset is not None and all(o >= 0 and o + n <= m for o, n, m in zip(offset, shape, other))
    if offset is None or not inside or (label_map.segments is None and shape != other):
        raise InputError(f"{str(label_map.path)!r} is not on the grid of {str(volume.path)!r}; resample it first.")
    return tuple(slice(o, o + n) for o, n in zip(offset, shape))
