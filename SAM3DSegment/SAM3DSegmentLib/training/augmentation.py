"""Randomly changed views of a prepared case; transforms from MONAI.

A view starts from the slices that inference sees. Noise is drawn on the volume's own pixels, then shrunk as they
were; rotation, scaling and shear act in mm, so that shapes are kept where voxels are not cubes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.transforms import Affine
from monai.transforms.utils import create_rotate, create_scale, create_shear, create_translate
from torch import Tensor

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
    """Slices [start, stop), randomly changed: grey (n, *grid) float32 in 0..255, class indices (n, *grid) uint8."""
    draw = _Draws(generator)
    flips = config.flip_left_right and draw.happens(0.5)
    if draw.happens(config.probability):
        through_plane = _is_isotropic(case) and draw.happens(config.through_plane_probability)
        # Slices around the window may be turned into it.
        margin = (stop - start) // 2 + 1 if through_plane else 0
        first, last = max(0, start - margin), min(case.depth, stop + margin)
        grey, classes = plain_view(case, first, last)
        to_window = create_translate(3, ((start + stop - first - last) / 2, 0, 0))
        matrix = to_window @ _draw_motion(case, config, through_plane, draw)
        grey = _move(_change_grey(grey, case, config, draw), matrix, stop - start, "bilinear")
        classes = _move(classes.float(), matrix, stop - start, "nearest").to(torch.uint8)
    else:
        grey, classes = plain_view(case, start, stop)
    if flips:
        grey, classes = grey.flip(case.left_right_axis), classes.flip(case.left_right_axis)
    return grey, classes


def _is_isotropic(case: PreparedCase) -> bool:
    """Whether slices lie hardly farther apart than their own pixels."""
    fit, (d_mm, h_mm, w_mm) = case.fit, case.spacing_mm
    return d_mm < ISOTROPIC_RATIO * min(h_mm * fit.grid[0] / fit.height, w_mm * fit.grid[1] / fit.width)


def _draw_motion(case: PreparedCase, config: AugmentationConfig, through_plane: bool, draw: _Draws) -> np.ndarray:
    """The (4, 4) map from a view's pixels to the case's, both counted from their centres."""
    turn, tilt = math.radians(config.rotation_degrees), math.radians(config.rotation_degrees) * through_plane
    rotation = create_rotate(3, (draw.about_zero(turn), draw.about_zero(tilt), draw.about_zero(tilt)))
    shear = create_shear(3, (0, 0, 0, draw.about_zero(config.shear), 0, draw.about_zero(config.shear)))
    across = config.scaling * through_plane
    scale = create_scale(3, [1 + draw.about_zero(width) for width in (across, config.scaling, config.scaling)])
    fit = case.fit
    shift = [config.translation * fit.size * cells / inner for cells, inner in zip(fit.grid, fit.inner)]
    translation = create_translate(3, (0, draw.about_zero(shift[0]), draw.about_zero(shift[1])))
    mm = create_scale(3, case.spacing_mm)
    return translation @ np.linalg.inv(mm) @ rotation @ shear @ scale @ mm


def _move(volume: Tensor, matrix: np.ndarray, depth: int, mode: str) -> Tensor:
    size: tuple[int, ...] = tuple(volume.shape[1:])
    unmoved = np.eye(4)[0]
    if depth == len(volume) and np.allclose(matrix[0], unmoved) and np.allclose(matrix[:, 0], unmoved):
        matrix = matrix[1:, 1:]  # in all slices alike, which takes a seventh of the time
    else:
        volume, size = volume[None], (depth, *size)
    moved = Affine(affine=matrix, spatial_size=size, mode=mode, padding_mode="zeros", image_only=True)(volume)
    assert isinstance(moved, Tensor)
    return moved.as_subclass(Tensor).reshape(depth, *size[-2:])


def _change_grey(grey: Tensor, case: PreparedCase, config: AugmentationConfig, draw: _Draws) -> Tensor:
    """Gamma, contrast, brightness and noise on values in 0..255."""
    values = (grey / 255) ** math.exp(draw.about_zero(config.gamma))
    values = values * (1 + draw.about_zero(config.contrast)) + draw.about_zero(config.contrast) / 2
    deviation = draw.about_zero(config.noise)  # half of the views stay without noise
    if deviation > 0:
        own_pixels = (len(grey), 1, case.fit.height, case.fit.width)
        noise = torch.randn(own_pixels, generator=draw.generator)
        values = values + case.fit.shrink(deviation * noise)[:, 0]
    return values.clamp(0, 1) * 255
