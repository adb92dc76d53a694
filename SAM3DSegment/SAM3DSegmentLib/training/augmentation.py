"""Randomly changed views of a prepared case.

A view starts from the slices that inference sees. Noise is drawn on the volume's own pixels, then shrunk as they
were; rotation, scaling and shear act in mm, so that shapes are kept where voxels are not cubes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..card import UNKNOWN
from ..settings import AugmentationConfig
from .prepared import PreparedCase, plain_view

ISOTROPIC_RATIO = 1.5  # beyond it, slices lie too far apart to be rotated into each other


class _Draws:
    """Random numbers of one view."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def within(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def about_zero(self, half_width: float) -> float:
        return self.within(-half_width, half_width)

    def happens(self, probability: float) -> bool:
        return self.within(0, 1) < probability


def random_view(
    case: PreparedCase, start: int, stop: int, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Slices [start, stop), randomly changed: grey (M, n, *grid) float32 in 0..255, class indices (n, *grid) uint8.

    All channels move alike; each has its own contrast and noise, as scans have.
    """
    draw = _Draws(generator)
    flips = config.flip_left_right and draw.happens(0.5)
    if draw.happens(config.probability):
        through_plane = _is_isotropic(case) and draw.happens(config.through_plane_probability)
        # Slices around the window may be turned into it.
        margin = (stop - start) // 2 + 1 if through_plane else 0
        first, last = max(0, start - margin), min(case.depth, stop + margin)
        grey, classes = plain_view(case, first, last)
        to_window = _translation((start + stop - first - last) / 2, 0, 0)
        matrix = to_window @ _draw_motion(case, config, through_plane, draw)
        grey = _move(_change_grey(grey, case, config, draw), matrix, stop - start, "bilinear")
        moved = _move(classes[None].float() + 1, matrix, stop - start, "nearest")[0]
        beyond = UNKNOWN if case.is_partly_known else 0
        classes = torch.where(moved > 0, moved - 1, beyond).to(torch.uint8)
    else:
        grey, classes = plain_view(case, start, stop)
    if flips:
        grey, classes = grey.flip(1 + case.left_right_axis), classes.flip(case.left_right_axis)
    return grey, classes


def _is_isotropic(case: PreparedCase) -> bool:
    """Whether slices lie hardly farther apart than their own pixels."""
    fit, (d_mm, h_mm, w_mm) = case.fit, case.spacing_mm
    return d_mm < ISOTROPIC_RATIO * min(h_mm * fit.grid[0] / fit.height, w_mm * fit.grid[1] / fit.width)


def _draw_motion(case: PreparedCase, config: AugmentationConfig, through_plane: bool, draw: _Draws) -> np.ndarray:
    """The (4, 4) map from a view's pixels to the case's, both counted from their centres."""
    turn, tilt = math.radians(config.rotation_degrees), math.radians(config.rotation_degrees) * through_plane
    rotation = _rotation(draw.about_zero(turn), draw.about_zero(tilt), draw.about_zero(tilt))
    shear = _in_plane_shear(draw.about_zero(config.shear), draw.about_zero(config.shear))
    across = config.scaling * through_plane
    scale = _scaling(*(1 + draw.about_zero(width) for width in (across, config.scaling, config.scaling)))
    fit = case.fit
    shift = [config.translation * fit.size * cells / inner for cells, inner in zip(fit.grid, fit.inner)]
    translation = _translation(0, draw.about_zero(shift[0]), draw.about_zero(shift[1]))
    mm = _scaling(*case.spacing_mm)
    return translation @ np.linalg.inv(mm) @ rotation @ shear @ scale @ mm


def _translation(*shift: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def _scaling(*factors: float) -> np.ndarray:
    return np.diag((*factors, 1.0))


def _rotation(*radians: float) -> np.ndarray:
    """About the axes d, h and w, each as the turns before it have left it."""
    matrix = np.eye(4)
    for (one, other), angle in zip(((1, 2), (2, 0), (0, 1)), radians):
        turn = np.eye(4)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _in_plane_shear(along_h: float, along_w: float) -> np.ndarray:
    """First along h, then along w, so that the volume stays the same."""
    first, second = np.eye(4), np.eye(4)
    first[1, 2], second[2, 1] = along_h, along_w
    return second @ first


def _move(volume: Tensor, matrix: np.ndarray, depth: int, mode: str) -> Tensor:
    """What `matrix` maps `depth` slices to, read from a volume (M, D, H, W); 0 outside of it."""
    channels, slices, *size = volume.shape
    unmoved = np.eye(4)[0]
    if depth == slices and np.allclose(matrix[0], unmoved) and np.allclose(matrix[:, 0], unmoved):
        # In all slices alike, which takes a seventh of the time.
        moved = _read_at(volume.flatten(0, 1), matrix[1:, 1:], size, mode)
    else:
        moved = _read_at(volume, matrix, [depth, *size], mode)
    return moved.reshape(channels, depth, *size)


def _read_at(volume: Tensor, matrix: np.ndarray, size: list[int], mode: str) -> Tensor:
    """(C, *n) -> (C, *size): the values where a homogeneous matrix maps pixels to, all counted from their centres."""
    centred = [torch.linspace(-(n - 1) / 2, (n - 1) / 2, n) for n in size]
    pixels = torch.stack([*torch.meshgrid(*centred, indexing="ij"), torch.ones(size)])
    places = torch.tensor(matrix, dtype=torch.float32) @ pixels.flatten(1)
    rows = [2 / max(2, n) * row for n, row in zip(volume.shape[1:], places)]  # of the volume's -1..1
    grid = torch.stack(rows[::-1], dim=-1).view(1, *size, len(size))
    return F.grid_sample(volume[None], grid, mode, "zeros", align_corners=False)[0]


def _change_grey(grey: Tensor, case: PreparedCase, config: AugmentationConfig, draw: _Draws) -> Tensor:
    """Gamma, contrast, brightness and noise on the values (M, n, *grid) of each channel, in 0..255."""
    return torch.stack([_change_channel(channel, case, config, draw) for channel in grey])


def _change_channel(grey: Tensor, case: PreparedCase, config: AugmentationConfig, draw: _Draws) -> Tensor:
    values = (grey / 255) ** math.exp(draw.about_zero(config.gamma))
    values = values * (1 + draw.about_zero(config.contrast)) + draw.about_zero(config.contrast) / 2
    deviation = draw.about_zero(config.noise)  # half of the views stay without noise
    if deviation > 0:
        own_pixels = (len(grey), 1, case.fit.height, case.fit.width)
        noise = torch.randn(own_pixels, generator=draw.generator)
        values = values + case.fit.shrink(deviation * noise)[:, 0]
    return values.clamp(0, 1) * 255
