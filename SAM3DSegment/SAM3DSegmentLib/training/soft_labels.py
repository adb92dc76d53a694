"""How probable some structures are, by a model or by a former result, each in a box; a byte for each voxel is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ..base.watch import Watch
from ..card import ModelCard
from ..geometry import Crop, Slicing
from ..inference import Segmenter
from ..quality import QUALITIES
from ..streaming import stream_logits

Box = tuple[slice, slice, slice]
FULL = 255  # of a byte: a probability of 1
BORDER = 0.7  # pixels: the standard deviation of where the border of a former result may be


@dataclass(frozen=True)
class Wanted:
    """A class of the model, from 1, and the box of (K, J, I) in which it is wanted."""

    model_class: int
    box_kji: Box


@dataclass(frozen=True)
class Delivered:
    """Class indices (K, J, I) uint8 as they were delivered, but for the slices `repainted` along the painted axis."""

    classes_kji: np.ndarray
    repainted: tuple[int, ...]


def soften_delivered(delivered: Delivered, boxes_dhw: Mapping[int, Box], axis: int) -> dict[int, np.ndarray]:
    """For each class the probability in its box, (D, H, W) uint8 of FULL, D along `axis`.

    What was on a repainted slice is known no more; it was probably like its neighbours.
    """
    classes_dhw = np.moveaxis(delivered.classes_kji, axis, 0)
    found = {}
    for label, box in boxes_dhw.items():
        here = np.arange(box[0].start, box[0].stop)
        kept = np.flatnonzero(~np.isin(here, delivered.repainted))
        soft = ndimage.gaussian_filter((classes_dhw[box][kept] == label).astype(np.float32), (0, BORDER, BORDER))
        place = np.interp(np.arange(len(here)), kept, np.arange(len(kept)))
        below = np.floor(place).astype(int)
        share = (place - below)[:, None, None]
        between = (1 - share) * soft[below] + share * soft[np.ceil(place).astype(int)]
        found[label] = (between * FULL).round().astype(np.uint8)
    return found


@torch.no_grad()
def find_soft_labels(
    segmenter: Segmenter, array_kji: np.ndarray, ijk_to_ras: np.ndarray, wanted: Mapping[int, Wanted], watch: Watch
) -> dict[int, np.ndarray]:
    """For each key of `wanted` the probability in its box, as uint8 of FULL, its axes in the order (K, J, I)."""
    if not wanted:
        return {}
    crop = _seen(segmenter.card, [one.box_kji for one in wanted.values()], ijk_to_ras, array_kji.shape)
    prepared = segmenter.prepare(crop.take(array_kji), crop.move(ijk_to_ras))
    boxes = {key: _as_dhw(_moved(one.box_kji, crop), prepared.slicing, crop.size_kji) for key, one in wanted.items()}
    found = {key: np.zeros([side.stop - side.start for side in box], np.uint8) for key, box in boxes.items()}
    work = QUALITIES[segmenter.level].work(segmenter.card, prepared)
    for number, logits in enumerate(stream_logits(prepared, segmenter.network, work, watch)):
        probabilities = (logits.softmax(0) * FULL).round().to(torch.uint8).cpu().numpy()
        for key, (slices, rows, columns) in boxes.items():
            if slices.start <= number < slices.stop:
                found[key][number - slices.start] = probabilities[wanted[key].model_class][rows, columns]
    return {key: prepared.slicing.to_kji(array) for key, array in found.items()}


def _seen(card: ModelCard, boxes: Sequence[Box], ijk_to_ras: np.ndarray, shape_kji: tuple[int, ...]) -> Crop:
    """What a model looks at: of one that looks for places first, what holds these boxes, with its margin around."""
    whole = Crop.whole(shape_kji)
    if card.coarse is None:
        return whole
    low = np.min([[side.start for side in box[::-1]] for box in boxes], axis=0).tolist()
    high = np.max([[side.stop for side in box[::-1]] for box in boxes], axis=0).tolist()
    margin = np.full(3, card.coarse.margin_mm)
    return Crop(tuple(low), tuple(high), whole.shape_kji).grown(margin, margin, ijk_to_ras)


def _moved(box_kji: Box, crop: Crop) -> Box:
    """A box of a volume as one of a part of it."""
    k, j, i = (
        slice(side.start - low, side.stop - low) for side, low in zip(box_kji, reversed(crop.low_ijk), strict=True)
    )
    return k, j, i


def _as_dhw(box_kji: Box, slicing: Slicing, shape_kji: tuple[int, ...]) -> Box:
    sides = []
    for axis, flip in zip(slicing.kji_axes, slicing.flips):
        side, length = box_kji[axis], shape_kji[axis]
        sides.append(slice(length - side.stop, length - side.start) if flip else side)
    return sides[0], sides[1], sides[2]
