"""Cases of which only some parallel slices are painted: which these are, and what they say of the volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..card import UNKNOWN
from ..geometry import plane_across
from .segments import BACKGROUND, IGNORE

if TYPE_CHECKING:  # it imports SimpleITK, and the panel counts repainted slices on the main thread
    from .label_maps import LabelMap

EMPTY = 254  # in place of a class index: the background, marked by hand on a slice that shows no structure

IN_SLICES = 0.9  # of what is painted: the least that lies on slices of one direction
CROSSING = 0.1  # the share on slices of another direction that is no accident


@dataclass(frozen=True)
class PaintedSlices:
    """The painted slices `numbers`, in order from 0, of `total` along `axis` of (K, J, I)."""

    axis: int
    numbers: tuple[int, ...]
    total: int

    @property
    def has_gaps(self) -> bool:
        return len(self.numbers) <= self.numbers[-1] - self.numbers[0]

    def describe(self, ijk_to_ras: np.ndarray) -> str:
        """Such as "9 of 35 sagittal slices are painted"."""
        plane = plane_across(ijk_to_ras, self.axis)
        are = "is" if len(self.numbers) == 1 else "are"
        return f"{len(self.numbers)} of {self.total} {plane} slices {are} painted"

    def keep(self, classes_kji: np.ndarray) -> np.ndarray:
        """Class indices (K, J, I) uint8 with all other slices UNKNOWN."""
        known = np.moveaxis(np.full_like(classes_kji, UNKNOWN), self.axis, 0)
        numbers = list(self.numbers)
        known[numbers] = np.moveaxis(classes_kji, self.axis, 0)[numbers]
        return np.moveaxis(known, 0, self.axis)


@dataclass(frozen=True)
class _Along:
    """What is painted, seen as slices along one axis: their numbers, and the share of it that fills areas of them.

    A plane that crosses a slice leaves a line there; a slice that was painted itself has areas.
    """

    axis: int
    numbers: tuple[int, ...]
    share: float

    @property
    def density(self) -> float:
        """The share that is painted of the slices from the first to the last."""
        return len(self.numbers) / (self.numbers[-1] - self.numbers[0] + 1)


def find_painted(classes_kji: np.ndarray) -> PaintedSlices | None:
    """The slices that have a class or EMPTY, along the axis on which they were painted; None if there are none.

    classes_kji: class indices (K, J, I) uint8, EMPTY and UNKNOWN. The axis is the one on whose slices the painting
    fills areas; of several, as where neighbours were painted, the one that leaves the most slices out.
    """
    directions = _look_along(classes_kji)
    if not directions:
        return None
    most = max(one.share for one in directions)
    whole = [one for one in directions if one.share >= min(most, IN_SLICES)]
    found = min(whole, key=lambda one: (round(one.density, 2), len(one.numbers)))
    return PaintedSlices(found.axis, found.numbers, classes_kji.shape[found.axis])


def painted_across(classes_kji: np.ndarray) -> tuple[int, int] | None:
    """The two axes along which slices were painted where these cross each other, else None."""
    directions = sorted(_look_along(classes_kji), key=lambda one: -one.share)
    if directions and directions[0].share < IN_SLICES and directions[1].share > CROSSING:
        return directions[0].axis, directions[1].axis
    return None


def looks_painted(classes_kji: np.ndarray) -> PaintedSlices | None:
    """Slices with gaps between them as a complete case would not have them, else None.

    They are single or in pairs, and fewer than the slices between; of two structures apart there are many in a row.
    """
    found = find_painted(classes_kji)
    if found is None or len(found.numbers) < 2:
        return None
    in_a_row = [len(run) for run in np.split(found.numbers, np.flatnonzero(np.diff(found.numbers) > 1) + 1)]
    others = [one.density for one in _look_along(classes_kji) if one.axis != found.axis]
    density = len(found.numbers) / (found.numbers[-1] - found.numbers[0] + 1)
    return found if np.median(in_a_row) <= 2 and density <= 0.5 < min(others) else None


def known_voxels(label_map: LabelMap, ignore: int | None = None) -> np.ndarray:
    """Boolean (K, J, I): where a label map says what is there; ignore: the value of a plain one that says nothing."""
    if label_map.segments is None:
        return np.ones(label_map.layers.shape[1:], bool) if ignore is None else label_map.layers[0] != ignore
    classes = np.zeros(label_map.layers.shape[1:], np.uint8)
    for segment in label_map.present():
        if segment.key not in (BACKGROUND, IGNORE):
            classes[label_map.layers[segment.layer] == segment.value] = 1
    for segment in label_map.present():
        if segment.key == IGNORE:
            classes[label_map.layers[segment.layer] == segment.value] = UNKNOWN
    if any(segment.only_painted for segment in label_map.segments):
        painted = find_painted(classes)
        classes = painted.keep(classes) if painted else np.full_like(classes, UNKNOWN)
    return classes != UNKNOWN


def _look_along(classes_kji: np.ndarray) -> list[_Along]:
    """For each axis; empty if nothing is painted."""
    box = _box_of((classes_kji > 0) & (classes_kji != UNKNOWN))
    if box is None:
        return []
    inside = classes_kji[box]
    painted = (inside > 0) & (inside != UNKNOWN)
    return [_Along(axis, *_slices_along(painted, axis, box[axis].start)) for axis in range(3)]


def _slices_along(painted: np.ndarray, axis: int, first: int) -> tuple[tuple[int, ...], float]:
    slices = np.moveaxis(painted, axis, 0)
    voxels = slices.sum((1, 2))
    squares = slices[:, :-1, :-1] & slices[:, 1:, :-1] & slices[:, :-1, 1:] & slices[:, 1:, 1:]
    share = voxels[squares.any((1, 2))].sum() / voxels.sum()
    return tuple((np.flatnonzero(voxels) + first).tolist()), float(share)


def _box_of(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The bounding box of what is true; None if nothing is."""
    box = []
    for axis in range(mask.ndim):
        there = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(there):
            return None
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)
