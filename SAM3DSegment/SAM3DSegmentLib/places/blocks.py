"""A coarse grid: blocks of whole voxels, so that each box of blocks is a box of voxels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..geometry import Crop, spacing_and_directions

MOST_BLOCKS = 96  # along the longest side of a volume
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Blocks:
    """A volume of shape_kji voxels in blocks of `size_kji` voxels; the last along an axis may have fewer."""

    shape_kji: Triple
    size_kji: Triple

    @classmethod
    def of_about(cls, spacing_mm: float, shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray) -> Blocks:
        """Blocks whose edges are as near to so many mm as whole voxels can be; at least one voxel."""
        voxel_mm = spacing_and_directions(ijk_to_ras)[0][::-1]
        k, j, i = (max(1, min(round(spacing_mm / mm), length)) for mm, length in zip(voxel_mm, shape_kji))
        return cls(_triple(shape_kji), (k, j, i))

    @classmethod
    def of_at_most(cls, count: int, shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray) -> Blocks:
        """About so many along the longest side in mm, as long on the others."""
        return cls.of_about(longest_mm(shape_kji, ijk_to_ras) / count, shape_kji, ijk_to_ras)

    @property
    def counts_kji(self) -> Triple:
        """Of the blocks along each axis."""
        k, j, i = (-(-length // size) for length, size in zip(self.shape_kji, self.size_kji))
        return k, j, i

    def move(self, ijk_to_ras: np.ndarray) -> np.ndarray:
        """ijk_to_ras (4, 4) of the blocks, as voxels, from that of the volume."""
        moved = ijk_to_ras.copy()
        sizes = np.array(self.size_kji[::-1])
        moved[:3, :3] = ijk_to_ras[:3, :3] * sizes
        moved[:3, 3] += ijk_to_ras[:3, :3] @ ((sizes - 1) / 2)
        return moved

    def average(self, array_kji: np.ndarray) -> np.ndarray:
        """The mean of each block, float32 of counts_kji. What is not finite stays so."""
        means = np.empty(self.counts_kji, np.float32)
        counts = _lengths(self.shape_kji[1], self.size_kji[1])[:, None] * _lengths(self.shape_kji[2], self.size_kji[2])
        for number, slab in enumerate(self._slabs(array_kji)):
            in_plane = slab.sum(0, dtype=np.float32) if len(slab) > 1 else slab[0].astype(np.float32)
            means[number] = _reduce(np.add, in_plane, self.size_kji[1:]) / (counts * len(slab))
        return means

    def any(self, mask_kji: np.ndarray) -> np.ndarray:
        """Which blocks have a voxel of a boolean mask."""
        found = np.empty(self.counts_kji, bool)
        for number, slab in enumerate(self._slabs(mask_kji)):
            found[number] = _reduce(np.logical_or, np.asarray(slab.any(0)), self.size_kji[1:])
        return found

    def voxels(self, low_kji: np.ndarray, high_kji: np.ndarray) -> Crop:
        """The box of the blocks from `low` to `high` (exclusive), of which fractions count, cut at the volume."""
        size, shape = np.array(self.size_kji), np.array(self.shape_kji)
        low = np.clip(np.floor(low_kji * size + 1e-6), 0, shape - 1).astype(int)
        high = np.clip(np.ceil(high_kji * size - 1e-6), low + 1, shape).astype(int)
        return Crop(_triple(low[::-1]), _triple(high[::-1]), self.shape_kji)

    def _slabs(self, array_kji: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, self.shape_kji[0], self.size_kji[0]):
            yield array_kji[start : start + self.size_kji[0]]


def longest_mm(shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray) -> float:
    """Length of a volume's longest side."""
    return float((np.array(shape_kji[::-1]) * spacing_and_directions(ijk_to_ras)[0]).max())


def _reduce(operation: np.ufunc, plane: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    rows, columns = (np.arange(0, length, step) for length, step in zip(plane.shape, size))
    return operation.reduceat(operation.reduceat(plane, rows, axis=0), columns, axis=1)


def _lengths(length: int, size: int) -> np.ndarray:
    """Voxels along an axis of each block."""
    return np.minimum(size, length - np.arange(0, length, size))


def _triple(values: np.ndarray | tuple[int, ...]) -> Triple:
    k, j, i = (int(value) for value in values)
    return k, j, i
