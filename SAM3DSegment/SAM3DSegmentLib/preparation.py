"""A volume on a model's terms: grey slices on the encoder's square, and the exact way back to the volume's own grid.

Inference, training and validation all prepare here, so that a model is used on what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .base.errors import InputError
from .card import PATCH_SIZE, SlicingRule
from .channel import IntensityRule
from .geometry import Slicing, slicing_of
from .intensity import GreyScale, measure_grey_scale

Voxels = np.ndarray | Sequence[np.ndarray]  # (K, J, I), or of several channels (M, K, J, I), or one (K, J, I) for each


@dataclass(frozen=True)
class SquareFit:
    """Slices of height x width pixels on a square of `size` pixels: resized to `inner`, then padded to be centred.

    The longer side in mm fills the square and the aspect is kept in mm, so that anatomy keeps its shape. `grid` is the
    coarser of both: the slices' own pixels, or `inner` where the square has fewer. Pixels beyond it would carry no more
    information, so what does not need the square is computed on the grid.
    """

    height: int
    width: int
    size: int
    inner: tuple[int, int]

    @classmethod
    def of_slices(cls, height: int, width: int, spacing_hw_mm: tuple[float, float], size: int) -> SquareFit:
        extents = (height * spacing_hw_mm[0], width * spacing_hw_mm[1])
        inner = [max(1, round(size * extent / max(extents))) for extent in extents]
        return cls(height, width, size, (inner[0], inner[1]))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns."""
        return min(self.height, self.inner[0]), min(self.width, self.inner[1])

    @property
    def _offsets(self) -> tuple[int, int]:
        return (self.size - self.inner[0]) // 2, (self.size - self.inner[1]) // 2

    def shrink(self, slices: Tensor) -> Tensor:
        """(B, C, height, width) float -> (B, C, *grid), averaging where pixels become larger."""
        if self.grid == (self.height, self.width):
            return slices
        return F.interpolate(slices, self.grid, mode="bilinear", align_corners=False, antialias=True)

    def place(self, gridded: Tensor) -> Tensor:
        """(B, C, *grid) float -> (B, C, size, size), 0 around."""
        if self.grid != self.inner:
            gridded = F.interpolate(gridded, self.inner, mode="bilinear", align_corners=False)
        return self._pad(gridded)

    def shrink_labels(self, labels: Tensor) -> Tensor:
        """(B, height, width) integers -> (B, *grid), each pixel taking the nearest label."""
        return _resize_labels(labels, self.grid)

    def place_labels(self, gridded: Tensor) -> Tensor:
        """(B, *grid) integers -> (B, size, size), each pixel taking the nearest label, 0 around."""
        return self._pad(_resize_labels(gridded, self.inner))

    def to_grid(self, square: Tensor) -> Tensor:
        """(..., g, g) -> (..., *grid): bilinear at the centres of the grid's cells.

        g may be any number of cells that covers the square, such as that of a decoder's level.
        """
        return self._read(square, self.grid)

    def restore(self, square: Tensor) -> Tensor:
        """(..., g, g) -> (..., height, width), as `to_grid` for the slices' own pixels."""
        return self._read(square, (self.height, self.width))

    def enlarge(self, gridded: Tensor) -> Tensor:
        """(B, C, *grid) -> (B, C, height, width), the way back from `shrink`."""
        if self.grid == (self.height, self.width):
            return gridded
        return F.interpolate(gridded, (self.height, self.width), mode="bilinear", align_corners=False)

    def level(self) -> int:
        """The first level of a decoder, of 2 to 4, whose grid is at or above the slices' own; 4 if none is."""
        for level in (2, 3):
            cells = [inner * 2**level / PATCH_SIZE for inner in self.inner]
            if cells[0] >= self.height and cells[1] >= self.width:
                return level
        return 4

    def _read(self, square: Tensor, pixels: tuple[int, int]) -> Tensor:
        by_row = _sample_rows(square, self._cells(0, pixels[0], square.shape[-2]))
        # Whole rows are gathered ten times as fast as single pixels.
        columns = self._cells(1, pixels[1], square.shape[-1])
        return _sample_rows(by_row.transpose(-1, -2).contiguous(), columns).transpose(-1, -2)

    def _cells(self, axis: int, pixels: int, count: int) -> Tensor:
        """Where the centres of the pixels along an axis lie among `count` cells of the square, never beyond `inner`."""
        inner, offset = self.inner[axis], self._offsets[axis]
        centres = (torch.arange(pixels, dtype=torch.float64) + 0.5) * inner / pixels
        scale = count / self.size
        cells = (offset + centres) * scale - 0.5
        return cells.clamp(min(offset * scale, count - 1), max(offset * scale, (offset + inner) * scale - 1))

    def _pad(self, inner: Tensor) -> Tensor:
        """(..., *inner) -> (..., size, size)."""
        top, left = self._offsets
        square = inner.new_zeros((*inner.shape[:-2], self.size, self.size))
        square[..., top : top + self.inner[0], left : left + self.inner[1]] = inner
        return square


@dataclass(frozen=True)
class Prepared:
    """One volume, prepared: `channels_dhw` are views of its channels' voxels; slices are computed on request."""

    channels_dhw: tuple[np.ndarray, ...]
    slicing: Slicing
    grey_scales: tuple[GreyScale, ...]  # of each channel
    fit: SquareFit

    @property
    def depth(self) -> int:
        return len(self.channels_dhw[0])

    @property
    def channels(self) -> int:
        return len(self.channels_dhw)

    def grey(self, start: int, stop: int, step: int = 1) -> Tensor:
        """Slices [start, stop), or each `step`th of them, of M channels: (n, M, *fit.grid) float32 in 0..255."""
        grey = []
        for volume, scale in zip(self.channels_dhw, self.grey_scales):
            # A copy in one layout: what follows is then the same to the bit for every storage order.
            values = np.ascontiguousarray(volume[start:stop:step])
            grey.append(self.fit.shrink(torch.from_numpy(scale.apply(values))[:, None]))
        return torch.cat(grey, dim=1)

    def squares(self, start: int, stop: int, step: int = 1) -> Tensor:
        """The same slices on the square: (n, M, S, S), black around."""
        return self.fit.place(self.grey(start, stop, step))

    def classes(self, classes_kji: np.ndarray, start: int, stop: int) -> Tensor:
        """Class indices (K, J, I) of the volume's grid -> those of slices [start, stop), (n, *fit.grid)."""
        values = np.ascontiguousarray(self.slicing.to_dhw(classes_kji)[start:stop])
        return self.fit.shrink_labels(torch.from_numpy(values))


@dataclass(frozen=True)
class Preparation:
    """The rules of a model's card by which its volumes are prepared."""

    slicing: SlicingRule
    intensities: tuple[IntensityRule, ...]  # of each channel
    image_size: int

    def prepare(self, voxels: Voxels, ijk_to_ras: np.ndarray) -> Prepared:
        """Voxels, as many channels as there are rules, and their 4x4 matrix in mm. Raises InputError, GeometryError."""
        slicing = slicing_of(ijk_to_ras, self.slicing)
        volumes = tuple(map(slicing.to_dhw, as_channels(voxels)))
        grey_scales = tuple(measure_grey_scale(*pair) for pair in zip(volumes, self.intensities, strict=True))
        _, height, width = volumes[0].shape
        fit = SquareFit.of_slices(height, width, slicing.spacing_mm[1:], self.image_size)
        return Prepared(volumes, slicing, grey_scales, fit)


def as_channels(voxels: Voxels) -> tuple[np.ndarray, ...]:
    """The channels (K, J, I), at least one, each of its own real type. Raises InputError for what is no volume."""
    is_one = isinstance(voxels, np.ndarray) and voxels.ndim != 4
    channels: tuple[np.ndarray, ...] = (voxels,) if is_one else tuple(voxels)  # type: ignore[assignment]
    for channel in channels:
        check_volume(channel)
        if channel.shape != channels[0].shape:
            raise InputError(
                f"channels of shapes {channels[0].shape} and {channel.shape} do not lie on one grid; resample them."
            )
    if not channels:
        raise InputError("a volume without channels cannot be segmented; give at least one.")
    return channels


def check_volume(array: np.ndarray) -> None:
    """Raises InputError unless `array` is a non-empty 3-D array of real numbers."""
    if array.ndim != 3 or array.size == 0:
        raise InputError(
            f"an array of shape {array.shape} is not a volume; give a 3-D array, such as one frame of a 4-D one."
        )
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise InputError(f"voxels of type {array.dtype} cannot be segmented; use integers or real numbers.")


def _resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) integers -> (B, *size), the nearest label each."""
    if labels.shape[1:] == size:
        return labels
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].to(labels.dtype)


def _sample_rows(tensor: Tensor, cells: Tensor) -> Tensor:
    """(..., rows, columns) -> (..., len(cells), columns): linear interpolation at fractional indices of rows."""
    rows = tensor.shape[-2]
    below = cells.floor().long().clamp(0, rows - 1)
    above = (below + 1).clamp(max=rows - 1)
    share = (cells - below).to(tensor.dtype)[:, None].to(tensor.device)
    below, above = below.to(tensor.device), above.to(tensor.device)
    return torch.lerp(tensor.index_select(-2, below), tensor.index_select(-2, above), share)
