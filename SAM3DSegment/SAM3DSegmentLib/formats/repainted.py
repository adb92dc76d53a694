"""Which slices of a delivered segmentation were repainted since, and what is known of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..base.errors import InputError, require
from ..geometry import plane_across
from .delivered import Drawn, hash_slices, read_description
from .painted import EMPTY, PaintedSlices

REACH = 8  # slices to each side of a repainted one that are looked at again
MOST = 0.8  # of the slices of all structures: if more are repainted, the whole was changed


@dataclass(frozen=True)
class Repainted:
    """The repainted slices `numbers`, in order from 0, of `total` along `axis` of (K, J, I).

    before: the slices that had been drawn for what was delivered; they are known, too.
    """

    axis: int
    numbers: tuple[int, ...]
    total: int
    before: Drawn = field(default_factory=dict)

    @property
    def drawn(self) -> Drawn:
        """All slices that a person has painted so far."""
        along = {*self.before.get(self.axis, ()), *self.numbers}
        return {**self.before, self.axis: tuple(sorted(along))}

    def describe(self, ijk_to_ras: np.ndarray) -> str:
        """Such as "3 of 42 sagittal slices were repainted"."""
        were = "was" if len(self.numbers) == 1 else "were"
        plane = plane_across(ijk_to_ras, self.axis)
        return f"{len(self.numbers)} of {self.total} {plane} slices {were} repainted"

    def known(self) -> PaintedSlices:
        """Those that were drawn, and all out of reach; so that nothing is cut off, the volume's ends as well."""
        away = np.abs(np.subtract.outer(np.arange(self.total), self.numbers)).min(1)
        is_known = away > REACH
        is_known[[0, -1, *self.drawn[self.axis]]] = True
        return PaintedSlices(self.axis, tuple(np.flatnonzero(is_known).tolist()), self.total)

    def keep(self, classes_kji: np.ndarray) -> np.ndarray:
        """Class indices (K, J, I) uint8, UNKNOWN on slices that are not known, but where slices across were drawn."""
        known = self.known().keep(classes_kji)
        for axis, numbers in self.before.items():
            drawn = list(numbers)
            np.moveaxis(known, axis, 0)[drawn] = np.moveaxis(classes_kji, axis, 0)[drawn]
        return known


def find_repainted(classes_kji: np.ndarray, delivered: Mapping[int, str], what: str) -> Repainted:
    """The slices that differ from what was delivered, or have EMPTY, along the axis on which the fewest do.

    classes_kji: class indices (K, J, I) uint8 and EMPTY on the image's grid; delivered: by class, what
    `delivered.describe_slices` said. Raises InputError for `what` if no slice differs, or nearly all do.
    """
    before: Drawn = {}
    changed, there = ([np.zeros(size, bool) for size in classes_kji.shape] for _ in range(2))
    for index, text in delivered.items():
        try:
            shape, hashes, drawn = read_description(text)
        except ValueError as error:
            raise InputError(f"{what} has damaged notes of what was delivered ({error}); segment again.") from error
        grids = " and ".join("x".join(map(str, grid)) for grid in (shape, classes_kji.shape))
        require(
            shape == classes_kji.shape,
            f"{what} was delivered for another image ({grids} voxels); give the image that it was made from.",
        )
        for axis, (then, now) in enumerate(zip(hashes, hash_slices(classes_kji == index))):
            changed[axis] |= then != now
            there[axis] |= (then > 0) | (now > 0)
        before = {**before, **drawn}
    for axis, marked in enumerate(hash_slices(classes_kji == EMPTY)):
        changed[axis] |= marked > 0
    axis = min(range(3), key=lambda one: np.count_nonzero(changed[one]))
    numbers = tuple(np.flatnonzero(changed[axis]).tolist())
    require(
        len(numbers) > 0,
        f"{what} is as it was delivered: no slice was changed since; repaint some of its slices whole, then complete.",
    )
    if len(numbers) > MOST * (total := np.count_nonzero(there[axis])):
        raise InputError(
            f"{what} was changed since it was delivered on {len(numbers)} of {total} slices, and along other axes on "
            "more, so there is nothing to correct the others by; repaint a few parallel slices of a delivered result."
        )
    return Repainted(axis, numbers, classes_kji.shape[axis], before)
