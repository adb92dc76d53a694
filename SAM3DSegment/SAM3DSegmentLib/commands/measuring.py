"""What is measured of one mask that is there already, on its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InputError
from ..formats.label_maps import LabelMap, read_label_map
from ..formats.segments import IGNORE, NO_STRUCTURES, name_key
from ..formats.volumes import Volume, read_volume
from ..geometry import grid_offset, voxel_ml
from ..results import date_now, measure_segment


def measure_mask(mask: Path, image: Path | Volume, names: Mapping[int, str]) -> dict[str, Any]:
    """`segments` and `date` as in the record of `results`, without the confidence; empty ones of a segmentation too.

    names: of the values of a plain label map; one that has no name is called by its number. Raises InputError if the
    mask is not on the grid of the image, of which a segmentation may be cropped.
    """
    volume = image if isinstance(image, Volume) else read_volume(image)
    label_map = read_label_map(mask)
    place = _place(label_map, volume)
    ml = voxel_ml(volume.ijk_to_ras)
    segments = []
    for name, layer, value in _structures(label_map, names):
        whole = np.zeros(volume.array_kji.shape, bool)
        whole[place] = label_map.layers[layer] == value
        segments.append({"name": name, "value": value} | measure_segment(whole, volume.array_kji, ml))
    return {"segments": segments, "date": date_now()}


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
