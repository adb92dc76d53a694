"""Places on a coarse grid, and the boxes of voxels around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from ..geometry import Crop, spacing_and_directions
from .blocks import Blocks

SURE, POSSIBLE = 0.5, 0.05  # probability that a place has somewhere, and to which it reaches
REACH = 2  # blocks beyond what is sure, so that a network that is sure of nothing finds no place as large as the volume


@dataclass(frozen=True)
class Place:
    """Connected blocks, from `low_kji` to `high_kji` (exclusive); weight: the sum of what they are given."""

    low_kji: np.ndarray
    high_kji: np.ndarray
    weight: float


def find_places(probability_kji: np.ndarray, most: int) -> list[Place]:
    """At most so many places, the heaviest first, on a map of probabilities (0..1) of blocks."""
    near = dilated(probability_kji >= SURE, REACH)
    numbers, count = _components(near & (probability_kji >= POSSIBLE))
    places = []
    for number in range(1, count + 1):
        mask = numbers == number
        if probability_kji[mask].max() >= SURE:
            places.append(_place(mask, float(probability_kji[mask].sum())))
    return sorted(places, key=lambda place: -place.weight)[:most]


def places_of(mask_kji: np.ndarray) -> list[Place]:
    """The connected parts of a mask of blocks, the largest first."""
    numbers, count = _components(mask_kji)
    places = [_place(numbers == number, float((numbers == number).sum())) for number in range(1, count + 1)]
    return sorted(places, key=lambda place: -place.weight)


def boxes_around(places: list[Place], blocks: Blocks, margin_mm: float, ijk_to_ras: np.ndarray) -> tuple[Crop, ...]:
    """Boxes of voxels around places with a margin on each side; those that overlap become one."""
    margin = margin_mm / (spacing_and_directions(ijk_to_ras)[0][::-1] * blocks.size_kji)
    return join_overlapping([blocks.voxels(place.low_kji - margin, place.high_kji + margin) for place in places])


def join_overlapping(boxes: list[Crop]) -> tuple[Crop, ...]:
    """Boxes of one volume of which no two share a voxel, with all voxels of the given."""
    joined: list[Crop] = []
    for box in boxes:
        while touched := [other for other in joined if other.overlaps(box)]:
            joined = [other for other in joined if other not in touched]
            box = hull([box, *touched])
        joined.append(box)
    return tuple(joined)


def dilated(mask_kji: np.ndarray, count: int) -> np.ndarray:
    """A mask with so many blocks more in all directions."""
    return sitk.GetArrayFromImage(sitk.BinaryDilate(_as_image(mask_kji), (count,) * 3, sitk.sitkBox)) > 0


def hull(boxes: Sequence[Crop]) -> Crop:
    """The smallest box that holds all of these, of one volume."""
    low = np.min([box.low_ijk for box in boxes], axis=0).tolist()
    high = np.max([box.high_ijk for box in boxes], axis=0).tolist()
    return Crop(tuple(low), tuple(high), boxes[0].shape_kji)


def _components(mask_kji: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers from 1 of the parts connected by faces, edges or corners, and how many there are."""
    numbers = sitk.GetArrayFromImage(sitk.ConnectedComponent(_as_image(mask_kji), True))
    return numbers, int(numbers.max(initial=0))


def _as_image(mask_kji: np.ndarray) -> sitk.Image:
    return sitk.GetImageFromArray(np.ascontiguousarray(mask_kji).view(np.uint8))


def _place(mask_kji: np.ndarray, weight: float) -> Place:
    where = np.argwhere(mask_kji)
    return Place(where.min(0), where.max(0) + 1, weight)
