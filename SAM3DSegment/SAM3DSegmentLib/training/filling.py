"""Painted slices of one volume, and the spans between them, filled span by span and structure by structure.

Axes are (D, H, W), D across the painted slices. In memory there are, beside image and classes, three arrays of a span
and what the work on one structure in its box needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..card import UNKNOWN

LEAST_MARGIN, MOST_MARGIN = 8, 32  # pixels around a structure's painted areas, in which it may lie between them

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Span:
    """Slices from `first` to `last`, whose unknown voxels depend on its `painted` slices alone."""

    first: int
    last: int
    painted: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """One structure in the box of one span: slices `box`, of which `painted`, counted in the box, are known."""

    label: int
    box: Box
    painted: tuple[int, ...]
    mask: np.ndarray  # boolean (D, H, W) of the box: the structure where it is painted
    known: np.ndarray  # the same shape

    @property
    def wanted(self) -> list[int]:
        """Slices with unknown voxels, counted in the box."""
        return [number for number, known in enumerate(self.known) if not known.all()]


def extend_painted(classes_dhw: np.ndarray, painted: Iterable[int]) -> tuple[int, ...]:
    """Take structures to end, beyond the outermost painted slices, as far from these as their neighbours are.

    The slices there become background in `classes_dhw`, and are returned with the painted ones. Where the volume ends
    before, its end is open.
    """
    numbers = sorted(painted)
    ends = (2 * numbers[0] - numbers[1], 2 * numbers[-1] - numbers[-2])
    inside = [end for end in ends if 0 <= end < len(classes_dhw)]
    classes_dhw[inside] = 0
    return tuple(sorted((*numbers, *inside)))


def find_spans(classes_dhw: np.ndarray, painted: Iterable[int], to_ends: bool = False) -> list[Span]:
    """The parts that have something to fill, cut at slices that are known to the last voxel.

    to_ends: whether what lies before the first and behind the last painted slice is to be filled too.
    """
    numbers = sorted(painted)
    has_unknown = (classes_dhw == UNKNOWN).any((1, 2))
    cuts = [numbers[0], *(number for number in numbers[1:-1] if not has_unknown[number]), numbers[-1]]
    pairs = list(zip(cuts, cuts[1:]))
    if to_ends:
        pairs = [(0, cuts[0]), *pairs, (cuts[-1], len(classes_dhw) - 1)]
    return [
        Span(first, last, tuple(number for number in numbers if first <= number <= last))
        for first, last in pairs
        if has_unknown[first : last + 1].any()
    ]


class Filling:
    """What is known of the slices of a volume, filled as it becomes known.

    painted_dhw: class indices, and UNKNOWN, which is never changed. spacing_mm: of D, H and W.
    """

    def __init__(self, painted_dhw: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
        self.painted_dhw = painted_dhw
        self.result_dhw = np.where(painted_dhw == UNKNOWN, 0, painted_dhw).astype(np.uint8)
        self.spacing_mm = spacing_mm

    def fill(self, span: Span, find: Callable[[Piece], np.ndarray]) -> None:
        """Give each unknown voxel of a span its most probable class; the background has what the structures leave.

        find: gives the probability of a piece's structure, (D, H, W) float32 of its box.
        """
        part = self.painted_dhw[span.first : span.last + 1]
        best, total = np.zeros(part.shape, np.float32), np.zeros(part.shape, np.float32)
        classes = np.zeros(part.shape, np.uint8)
        for label in self.labels(span):
            piece = self.piece(span, label)
            probability = find(piece)
            place = (slice(None), *piece.box[1:])
            total[place] += probability
            better = probability > best[place]
            best[place][better] = probability[better]
            classes[place][better] = label
        classes[best <= 1 - total] = 0
        unknown = part == UNKNOWN
        self.result_dhw[span.first : span.last + 1][unknown] = classes[unknown]

    def labels(self, span: Span) -> list[int]:
        """The structures that the painted slices of a span have."""
        found = np.unique(self.painted_dhw[list(span.painted)])
        return [int(label) for label in found if label not in (0, UNKNOWN)]

    def piece(self, span: Span, label: int) -> Piece:
        box = self.box(span, label)
        part = self.painted_dhw[box]
        painted = tuple(number - span.first for number in span.painted)
        return Piece(label, box, painted, part == label, part != UNKNOWN)

    def box(self, span: Span, label: int) -> Box:
        """Around a structure in the painted slices of a span, with a margin that grows with their distance."""
        shown = (self.painted_dhw[list(span.painted)] == label).any(0)
        gap_mm = max(np.diff((span.first, *span.painted, span.last))) * self.spacing_mm[0]
        sides = []
        for axis in (0, 1):
            there = np.flatnonzero(shown.any(1 - axis))
            margin = int(np.clip(gap_mm / self.spacing_mm[1 + axis], LEAST_MARGIN, MOST_MARGIN))
            sides.append(slice(max(0, int(there[0]) - margin), min(int(there[-1]) + 1 + margin, shown.shape[axis])))
        return slice(span.first, span.last + 1), sides[0], sides[1]

    def boxes(self, spans: list[Span]) -> dict[int, Box]:
        """For each structure, one box that holds those of all spans."""
        found: dict[int, Box] = {}
        for span in spans:
            for label in self.labels(span):
                box = self.box(span, label)
                found[label] = _around(found[label], box) if label in found else box
        return found


def _around(one: Box, other: Box) -> Box:
    ends = [slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other)]
    return ends[0], ends[1], ends[2]
