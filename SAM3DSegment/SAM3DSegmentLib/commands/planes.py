"""Pictures of one case: three planes through the place where its structures are widest, with their outlines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..card import ANATOMICAL_PLANES, IntensityRule, SlicingRule
from ..geometry import Slicing, slicing_of, spacing_and_directions
from ..intensity import GreyScale
from .measuring import Masks

TILE_PIXELS, _GAP_PIXELS = 200, 4
WIDTH, HEIGHT = 3 * TILE_PIXELS + 2 * _GAP_PIXELS, TILE_PIXELS
_MARGIN_MM = 15  # shown around the structures, at least; else half of their size
_CONTRAST = 0.5, 99.5  # percentiles of what is shown


@dataclass(frozen=True)
class _Box:
    """Voxels from `low` to `high` (exclusive) along the axes of (K, J, I), and those of the three planes in there."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    center: tuple[int, ...]

    def slab(self, axis: int) -> tuple[slice, ...]:
        """The plane across an axis of (K, J, I), one voxel thick."""
        across = slice(self.center[axis], self.center[axis] + 1)
        return tuple(across if a == axis else slice(*ends) for a, ends in enumerate(zip(self.low, self.high)))


def draw_planes(
    array_kji: np.ndarray, ijk_to_ras: np.ndarray, masks: Masks, rule: IntensityRule | None = None
) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: axial, coronal and sagittal, all at one scale, as radiologists look at them.

    array_kji: the image (K, J, I), of any real type. Shown is the part around the structures, all of an image that has
    none. The grey scale is the rule's if that is a window, otherwise that of what is shown.
    """
    spacing_kji = spacing_and_directions(ijk_to_ras)[0][::-1]
    box = _find_box(masks, array_kji.shape, spacing_kji)
    pixels_per_mm = TILE_PIXELS / float(max((np.array(box.high) - box.low) * spacing_kji))
    slicings = [slicing_of(ijk_to_ras, SlicingRule(plane, math.inf)) for plane in ANATOMICAL_PLANES]
    slabs = [box.slab(slicing.kji_axes[0]) for slicing in slicings]
    greys = [slicing.to_dhw(array_kji[slab])[0].astype(np.float64) for slicing, slab in zip(slicings, slabs)]
    scale = _grey_scale(greys, rule)
    row = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, (slicing, slab, grey) in enumerate(zip(slicings, slabs, greys)):
        tile = _draw(scale.apply(grey), _values(masks, slab, slicing), slicing, masks, pixels_per_mm)
        top = (HEIGHT - tile.shape[0]) // 2
        left = number * (TILE_PIXELS + _GAP_PIXELS) + (TILE_PIXELS - tile.shape[1]) // 2
        row[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return row


def _find_box(masks: Masks, shape_kji: tuple[int, ...], spacing_kji: np.ndarray) -> _Box:
    shown = np.zeros(masks.layers.shape[1:], bool)
    for layer, values in enumerate(masks.layers):
        is_shown = np.zeros(256, bool)
        is_shown[[structure.value for structure in masks.structures if structure.layer == layer]] = True
        shown |= is_shown[values]
    if not shown.any():
        return _Box((0, 0, 0), shape_kji, tuple(size // 2 for size in shape_kji))
    low, high, center = [], [], []
    for axis, place in enumerate(masks.place):
        area = shown.sum(tuple(other for other in range(3) if other != axis))
        first, last = (int(area.nonzero()[0][end]) + place.start for end in (0, -1))
        size = last + 1 - first
        margin = math.ceil(max(size / 2, _MARGIN_MM / spacing_kji[axis]))
        low.append(max(0, first - margin))
        high.append(min(shape_kji[axis], last + 1 + margin))
        center.append(int(area.argmax()) + place.start)
    return _Box(tuple(low), tuple(high), tuple(center))


def _grey_scale(greys: list[np.ndarray], rule: IntensityRule | None) -> GreyScale:
    if rule is not None and rule.kind == "window":
        return GreyScale(rule.low, rule.high)
    values = np.concatenate([grey[np.isfinite(grey)] for grey in greys])
    low, high = np.percentile(values, _CONTRAST) if len(values) else (0, 1)
    return GreyScale(0, float(high - low) or 1.0, float(low))


def _values(masks: Masks, slab: tuple[slice, ...], slicing: Slicing) -> np.ndarray:
    """(L, H, W) of the plane `slab`: the layers where they lie, 0 elsewhere."""
    starts = [max(part.start, place.start) for part, place in zip(slab, masks.place)]
    stops = [max(start, min(part.stop, place.stop)) for start, part, place in zip(starts, slab, masks.place)]
    source = tuple(slice(a - p.start, b - p.start) for a, b, p in zip(starts, stops, masks.place))
    target = tuple(slice(a - p.start, b - p.start) for a, b, p in zip(starts, stops, slab))
    planes = []
    for layer in masks.layers:
        plane = np.zeros([part.stop - part.start for part in slab], np.uint8)
        plane[target] = layer[source]
        planes.append(slicing.to_dhw(plane)[0])
    return np.stack(planes)


def _draw(grey: np.ndarray, values: np.ndarray, slicing: Slicing, masks: Masks, pixels_per_mm: float) -> np.ndarray:
    """grey: (H, W) float32 in 0..255; values: (L, H, W) -> (rows, columns, 3) uint8."""
    from scipy import ndimage  # which a segmentation without pictures does not wait for

    size = tuple(
        min(TILE_PIXELS, max(1, round(count * mm * pixels_per_mm)))
        for count, mm in zip(grey.shape, slicing.spacing_mm[1:])
    )
    picture = torch.from_numpy(np.ascontiguousarray(grey))[None, None]
    picture = functional.interpolate(picture, size, mode="bilinear", antialias=True)[0, 0].clamp(0, 255)
    tile = picture.round().byte().numpy()[..., None].repeat(3, 2)
    layers = torch.from_numpy(np.ascontiguousarray(values))[None]
    layers_there = functional.interpolate(layers, size, mode="nearest-exact")[0].numpy()
    for structure in masks.structures:
        inside = layers_there[structure.layer] == structure.value
        if inside.any():
            tile[inside & ~ndimage.binary_erosion(inside)] = structure.color
    return tile
