"""The coarse look at a volume: from its voxels to the boxes that are looked at closely."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..base.watch import UNWATCHED, Watch
from ..card import CoarseLook, ModelCard
from ..geometry import Crop, slicing_of
from ..work import PARTS
from .blocks import Blocks
from .boxes import boxes_around, find_places

logger = logging.getLogger(__name__)


class Segments(Protocol):
    """A `Segmenter` of the coarse look's card."""

    def segment_with_confidence(
        self, array_kji: Sequence[np.ndarray], ijk_to_ras: np.ndarray, watch: Watch = UNWATCHED
    ) -> tuple[np.ndarray, np.ndarray]: ...


class Finder:
    """Finds the places of a model's structures."""

    def __init__(self, look: CoarseLook, segmenter: Segments) -> None:
        self.look = look
        self._segmenter = segmenter

    def find(
        self, channels: Sequence[np.ndarray], ijk_to_ras: np.ndarray, watch: Watch = UNWATCHED
    ) -> tuple[Crop, ...]:
        """Boxes that do not overlap, of channels (K, J, I); the whole volume if there is no place. Raises Cancelled."""
        blocks = Blocks.of_about(self.look.spacing_mm, channels[0].shape, ijk_to_ras)
        coarse = [blocks.average(channel) for channel in channels]
        probability = self.probability(coarse, blocks.move(ijk_to_ras), watch)
        places = find_places(probability, self.look.places)
        if not places:
            logger.warning("the coarse look found no structure; the whole volume is segmented.")
            return (Crop.whole(channels[0].shape),)
        boxes = boxes_around(places, blocks, self.look.margin_mm, ijk_to_ras)
        logger.debug("looking closely at voxels %s (i, j, k).", " and ".join(map(str, boxes)))
        return boxes

    def probability(self, coarse: Sequence[np.ndarray], ijk_to_ras: np.ndarray, watch: Watch = UNWATCHED) -> np.ndarray:
        """Of a place, 0..1 float32, in each voxel of coarse channels (K, J, I)."""
        labels, percent = self._segmenter.segment_with_confidence(coarse, ijk_to_ras, watch)
        sure = percent.astype(np.float32) / 100
        return np.where(labels > 0, sure, 1 - sure)

    def parts(self, channels: Sequence[np.ndarray], ijk_to_ras: np.ndarray, card: ModelCard) -> int:
        """How much of the work for a volume, of PARTS, this look is expected to be; `card` is that of the model."""
        blocks = Blocks.of_about(self.look.spacing_mm, channels[0].shape, ijk_to_ras)
        coarse_axis = slicing_of(blocks.move(ijk_to_ras), self.look.card.slicing).kji_axes[0]
        coarse = blocks.counts_kji[coarse_axis] * self.look.card.encoder.image_size**2
        slices = math.ceil(self.look.extent_mm[0] / slicing_of(ijk_to_ras, card.slicing).spacing_mm[0])
        fine = slices * self.look.places * card.encoder.image_size**2 * (2 if card.mirror else 1)
        return PARTS * coarse // (coarse + fine)
