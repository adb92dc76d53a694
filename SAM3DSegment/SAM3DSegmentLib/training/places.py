"""Small structures in large volumes: whether they are looked for first, on which grid, what boxes are trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..card import LARGEST_PLACES, SlicingRule
from ..geometry import Crop, slicing_of, spacing_and_directions
from ..places.blocks import MOST_BLOCKS, longest_mm
from .classes import CaseFacts

SHARE = 0.4  # of the minutes of a training, for what finds places
SMALL = 1 / 3  # of a volume's length, in each direction that counts
MOST_PLACES = 16  # of a case; more, as of lesions, are everywhere
COUNTS_FROM = 64  # voxels of a direction; where there are fewer, little is gained by cutting them
BLOCKS_ACROSS = 4  # of the coarse grid, across the shortest side of a structure's box
MOST_OFF = 8  # blocks between the end of a box that was found and that of the structure
GUESSED_MARGIN = 2  # blocks, before the coarse look has shown its own
Boxes = dict[str, tuple[Crop, ...]]  # by case


@dataclass(frozen=True)
class CoarseGrid:
    """Blocks of about `spacing_mm`, `most_blocks` along the longest side, on which at most so many `places` are."""

    spacing_mm: float
    places: int
    most_blocks: int


def choose_grid(facts: Sequence[CaseFacts], look_twice: bool | None) -> CoarseGrid | None:
    """None if the volumes of these cases are looked at whole.

    That is so unless all of their voxels are known, and the boxes of their structures are few, and small in each
    direction that counts; or as look_twice says.
    """
    with_places = [case for case in facts if case.places]
    if look_twice is False or not with_places or any(case.is_partly_known for case in facts):
        return None
    most = max(len(case.places) for case in with_places)
    if look_twice is None and (most > MOST_PLACES or not _are_small(with_places)):
        return None
    shortest = np.median([_size_mm(box, case).min() for case in with_places for box in case.places])
    longest = np.median([longest_mm(case.shape_kji, case.ijk_to_ras) for case in with_places])
    spacing = max(float(shortest) / BLOCKS_ACROSS, float(longest) / MOST_BLOCKS)
    return grid_of(float(f"{spacing:.3g}"), min(most, LARGEST_PLACES), with_places)


def grid_of(spacing_mm: float, places: int, facts: Sequence[CaseFacts]) -> CoarseGrid:
    """Of this spacing, for volumes as large as those of the cases."""
    longest = np.median([longest_mm(case.shape_kji, case.ijk_to_ras) for case in facts])
    return CoarseGrid(spacing_mm, places, math.ceil(round(float(longest) / spacing_mm, 3)))


def _are_small(cases: Sequence[CaseFacts]) -> bool:
    """By the largest box of each case: the median of its share of each direction that counts."""
    shares = [np.max([box.size_kji for box in case.places], axis=0) / np.array(case.shape_kji) for case in cases]
    counting = np.median([case.shape_kji for case in cases], axis=0) >= COUNTS_FROM
    return bool(counting.any()) and bool((np.median(shares, axis=0)[counting] < SMALL).all())


def guess_boxes(facts: Sequence[CaseFacts], grid: CoarseGrid) -> Boxes:
    """About what will be looked at closely of each case."""
    margin = np.full(3, GUESSED_MARGIN * grid.spacing_mm)
    return _boxes(facts, lambda case, place: place.grown(margin, margin, case.ijk_to_ras), copies=1)


@dataclass(frozen=True)
class Misses:
    """How far boxes that were found reach beyond those of the structures, at each end: (N, 2, 3) mm, along d, h and w.

    wanted: how many places there are, of which N were found, not too far off at any end.
    """

    beyond_mm: np.ndarray
    wanted: int

    @property
    def found(self) -> int:
        return len(self.beyond_mm)

    @property
    def worst_mm(self) -> float:
        """How far a structure reaches beyond its box, at most; below 0 if none does."""
        return -float(self.beyond_mm.min()) if self.found else 0.0


def find_misses(
    found: Sequence[tuple[CaseFacts, Sequence[Crop]]], rule: SlicingRule, most_mm: float = math.inf
) -> Misses:
    """found: of each held-out case what was found in it, without a margin. Of several boxes the one that fits best.

    most_mm: what is farther off at an end was not found.
    """
    beyond = []
    for case, boxes in found:
        voxel_mm = spacing_and_directions(case.ijk_to_ras)[0]
        for place in case.places:
            ends = [
                np.array([np.subtract(place.low_ijk, box.low_ijk), np.subtract(box.high_ijk, place.high_ijk)])
                for box in boxes
                if box.overlaps(place)
            ]
            off_mm = [end * voxel_mm for end in ends if np.abs(end * voxel_mm).max() <= most_mm]
            if off_mm:
                beyond.append(_turned(max(off_mm, key=lambda end: float(end.min())), case, rule))
    return Misses(np.array(beyond).reshape(-1, 2, 3), sum(len(case.places) for case, _ in found))


def jitter_boxes(
    facts: Sequence[CaseFacts], misses: Misses, margin_mm: float, copies: int, rule: SlicingRule, seed: int
) -> Boxes:
    """Boxes as the coarse look finds them, so many around each place, each with one of the misses at random."""
    rng = np.random.default_rng(seed)

    def draw(case: CaseFacts, place: Crop) -> Crop:
        beyond = misses.beyond_mm[int(rng.integers(misses.found))] if misses.found else np.zeros((2, 3))
        low, high = _turned(beyond, case, rule, back=True) + margin_mm
        return place.grown(low, high, case.ijk_to_ras)

    return _boxes(facts, draw, copies)


def median_extent_mm(facts: Sequence[CaseFacts], boxes: Boxes, rule: SlicingRule) -> tuple[float, float, float]:
    """Of the boxes, along d, h and w; of a case that has none, of the volume."""
    extents = []
    for case in facts:
        slicing = slicing_of(case.ijk_to_ras, rule)
        sizes: list[tuple[int, ...]] = [box.size_kji for box in boxes.get(case.files.name, ())]
        for size_kji in sizes or [case.shape_kji]:
            extents.append([size_kji[axis] * mm for axis, mm in zip(slicing.kji_axes, slicing.spacing_mm)])
    d, h, w = np.median(extents, axis=0).tolist()
    return d, h, w


def _boxes(facts: Sequence[CaseFacts], box_of: Callable[[CaseFacts, Crop], Crop], copies: int) -> Boxes:
    """Of a case without a structure the middle, as large as the others' boxes are."""
    found = {case.files.name: tuple(box_of(case, place) for place in case.places * copies) for case in facts}
    sizes_mm = [_size_mm(box, case) for case in facts for box in found[case.files.name]]
    typical_mm = np.median(sizes_mm, axis=0)
    for case in facts:
        if not case.places:
            middle = Crop.middle(case.shape_kji)
            found[case.files.name] = (middle.grown(typical_mm / 2, typical_mm / 2, case.ijk_to_ras),)
    return found


def _turned(ends_ijk: np.ndarray, case: CaseFacts, rule: SlicingRule, back: bool = False) -> np.ndarray:
    """(2, 3): what is at the low and the high end along i, j and k, as along d, h and w, or if `back` the reverse."""
    slicing = slicing_of(case.ijk_to_ras, rule)
    turned = np.empty_like(ends_ijk)
    for place, (axis, flip) in enumerate(zip(slicing.kji_axes, slicing.flips)):
        here, there = (place, 2 - axis) if not back else (2 - axis, place)
        turned[:, here] = ends_ijk[::-1, there] if flip else ends_ijk[:, there]
    return turned


def _size_mm(box: Crop, case: CaseFacts) -> np.ndarray:
    """(3,), along i, j and k."""
    return np.array(box.size_kji[::-1]) * spacing_and_directions(case.ijk_to_ras)[0]
