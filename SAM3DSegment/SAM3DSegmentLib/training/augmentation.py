"""Views of a case on the encoder's square: as it is, or randomly changed; transforms from MONAI."""

from __future__ import annotations

import math

import torch
from monai.transforms import RandAffine
from torch import Tensor

from ..preparation import SquareFit
from ..settings import AugmentationConfig
from .cases import Case

ISOTROPIC_RATIO = 1.5  # beyond it, slices lie too far apart to be rotated into each other


def fit_of(case: Case, image_size: int) -> SquareFit:
    _, height, width = case.grey.shape
    return SquareFit.plan(height, width, case.slicing.spacing_mm[1:], image_size)


def plain_view(case: Case, image_size: int) -> tuple[Tensor, Tensor]:
    """The unchanged case: grey (D, S, S) float32 in 0..255, classes (D, S, S) int64."""
    fit = fit_of(case, image_size)
    return fit.place(case.grey[:, None])[:, 0], fit.place_labels(case.classes)


def random_view(
    case: Case, image_size: int, depth: int, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`depth` slices (at most all) from a random place, randomly changed, as `plain_view` gives them.

    Grey values change on the volume's own grid, as they would in a scanner. Then one affine map, resampled once, takes
    flipping, rotation, scaling, shear, the place along the slicing axis and the fit to the square together.
    """
    grey, classes = case.grey, case.classes
    fit = fit_of(case, image_size)
    depth = min(depth, len(grey))
    changed = _uniform(generator, 0, 1) < config.probability
    if config.flip_left_right and _uniform(generator, 0, 1) < 0.5:
        axis = case.slicing.left_right_axis
        grey, classes = grey.flip(axis), classes.flip(axis)
    if changed:
        grey = _change_grey(grey, config, generator)

    amount = config if changed else AugmentationConfig(rotation_degrees=0, scaling=0, shear=0, translation=0)
    d_mm, h_mm, w_mm = case.slicing.spacing_mm
    isotropic = d_mm < ISOTROPIC_RATIO * min(h_mm, w_mm)
    turn = math.radians(amount.rotation_degrees)
    # Mostly whole slices are taken: between two of them grey values blur and labels are half a slice off.
    through_plane = isotropic and _uniform(generator, 0, 1) < config.through_plane_probability
    tilt = turn if through_plane else 0.0
    scaling = (amount.scaling if through_plane else 0.0, amount.scaling, amount.scaling)
    start = int(torch.randint(len(grey) - depth + 1, (1,), generator=generator)) - (len(grey) - depth) / 2
    shift = [amount.translation * n for n in grey.shape]
    zoom = (1.0, fit.height / fit.inner[0], fit.width / fit.inner[1])
    affine = RandAffine(
        prob=1.0,
        rotate_range=(turn, tilt, tilt),
        shear_range=(0.0, 0.0, 0.0, amount.shear, 0.0, amount.shear),  # in-plane: h by w, w by h
        translate_range=((start, start), (-shift[1], shift[1]), (-shift[2], shift[2])),
        # MONAI adds 1 to what it draws, and scales before it rotates: in the square, not in the volume.
        scale_range=tuple((z * (1 - s) - 1, z * (1 + s) - 1) for z, s in zip(zoom, scaling)),
        spatial_size=(depth, image_size, image_size),
        padding_mode="zeros",
    )
    affine.set_random_state(int(torch.randint(2**31, (1,), generator=generator)))
    affine.randomize()
    moved_grey = affine(grey[None], mode="bilinear", randomize=False).as_subclass(Tensor)
    moved_classes = affine(classes[None].float(), mode="nearest", randomize=False).as_subclass(Tensor)
    return moved_grey[0], moved_classes[0].long()


def _change_grey(grey: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Gamma, contrast, brightness and noise on values in 0..255."""
    values = (grey / 255) ** math.exp(_uniform(generator, -config.gamma, config.gamma))
    values = values * (1 + _uniform(generator, -config.contrast, config.contrast))
    values = values + _uniform(generator, -config.contrast, config.contrast) / 2
    deviation = _uniform(generator, -config.noise, config.noise)  # half of the views stay without noise
    if deviation > 0:
        values = values + deviation * torch.randn(values.shape, generator=generator)
    return values.clamp(0, 1) * 255


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))
