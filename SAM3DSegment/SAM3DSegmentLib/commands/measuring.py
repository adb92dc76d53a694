"""What is measured of one mask that is there already, on its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def measure_mask(mask: Path, image: Volume, names: Mapping[int, str], frame: int | None = None) -> dict[str, Any]:
    """`segments` and `date` as in the record of `results`, without the confidence; empty ones of a segmentation too.

    names: of the values of a plain label map; one that has no name is called by its number. frame: which one of a mask
    over time. Raises InputError if the mask is not on the grid of the image, of which a segmentation may be cropped.
    """
    label_map = read_label_map(mask, frame).along(image.ijk_to_ras)
    place = _place(label_map, image)
    ml = voxel_ml(image.ijk_to_ras)
    segments = []
    for name, layer, value in _structures(label_map, names):
        whole = np.zeros(image.array_kji.shape, bool)
        whole[place] = label_map.layers[layer] == value
        segments.append({"name": name, "value": value} | measure_segment(whole, image.array_kji, ml))
    return {"segments": segments, "date": date_now()}


def measure_result(mask: Path, image: Volume, labels: Sequence[Label]) -> dict[str, Any]:
    """As `measure_mask`, of a mask that a model made: all of its labels, with its values.

    A DICOM segmentation counts its segments anew, and like a plain label map it has none that is empty. A mask that
    shows anything else, because another model or a person made it, is measured as it is.
    """
    record = measure_mask(mask, image, {label.value: label.name for label in labels})
    found = {segment["name"]: segment for segment in record["segments"]}
    if found.keys() - {label.name for label in labels}:
        return record
    empty = measure_segment(np.zeros(image.array_kji.shape, bool), image.array_kji, voxel_ml(image.ijk_to_ras))
    segments = [{**found.get(label.name, empty), "name": label.name, "value": label.value} for label in labels]
    return {**record, "segments": segments}


def _structures(label_map: LabelMap, names: Mapping[int, str]) -> Iterator[tuple[str, int, int]]:
    """Name, layer and value of each."""
    if label_map.segments is not None:
        for segment in label_map.segments:
            if segment.key not in NO_STRUCTURES:
                yield segment.name, segment.layer, segment.value
        return
    for value in sorted(label_map.values()):
        name = names.get(value, str(value))
        if name_key(name) != IGNORE:
            yield name, 0, value


def _place(label_map: LabelMap, volume: Volume) -> tuple[slice, ...]:
    """Of the mask's voxels in the volume."""
    shape, other = label_map.layers.shape[1:], volume.array_kji.shape
    offset = grid_offset(volume.ijk_to_ras, shape, label_map.ijk_to_ras)
    inside = offset is not None and all(o >= 0 and o + n <= m for o, n, m in zip(offset, shape, other))
    if offset is None or not inside or (label_map.segments is None and shape != other):
        raise InputError(f"{str(label_map.path)!r} is not on the grid of {str(volume.path)!r}; resample it first.")
    return tuple(slice(o, o + n) for o, n in zip(offset, shape))
