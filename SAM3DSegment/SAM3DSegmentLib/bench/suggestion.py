"""What to paint next: the volumes, and the slices of each, that a model is unsure of and that differ from the others.

How sure it is says its confidence at the border of the structures that it finds; how much volumes differ, the mean
embedding of their slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..base.watch import UNWATCHED, Watch
from ..formats.volumes import Volume
from ..geometry import slicing_of
from ..inference import Segmenter

EMBEDDED_SLICES = 16  # of a volume, evenly spread, of which the mean embedding is taken
GUESSED = 0.5  # the uncertainty of a volume in which nothing is found: that of a border about which nothing is known


@dataclass(frozen=True)
class Seen:
    """A volume as a model sees it.

    uncertainty: 1 less the confidence, 0..1, the mean at the borders; in_slice (n,): its sums over the slices along
    `axis` of (K, J, I), in pixels; spacing_mm: of the slices; embedding (256,): the mean of the volume.
    """

    axis: int
    spacing_mm: float
    uncertainty: float
    in_slice: np.ndarray
    embedding: np.ndarray


def see(segmenter: Segmenter, volume: Volume, watch: Watch = UNWATCHED) -> Seen:
    """Segment the volume, and keep how sure the model is. Raises Cancelled, and the errors of `Segmenter.segment`."""
    labels, confidence = segmenter.segment_with_confidence(volume.array_kji, volume.ijk_to_ras, watch)
    slicing = slicing_of(volume.ijk_to_ras, segmenter.card.slicing)
    border = find_border(labels)
    unsure = np.where(border, 1 - confidence / 100, 0)
    in_slice = np.moveaxis(unsure, slicing.kji_axes[0], 0).sum((1, 2))
    uncertainty = float(unsure.sum() / border.sum()) if border.any() else GUESSED
    return Seen(slicing.kji_axes[0], slicing.spacing_mm[0], uncertainty, in_slice, embed(segmenter, volume))


def embed(segmenter: Segmenter, volume: Volume) -> np.ndarray:
    """The mean embedding (256,) float32 of slices that are evenly spread over the volume."""
    prepared = segmenter.prepare(volume.array_kji, volume.ijk_to_ras)
    step = -(-prepared.depth // EMBEDDED_SLICES)
    squares = prepared.squares(step // 2, prepared.depth, step)
    parts = [segmenter.network.encode(part) for part in squares.split(segmenter.network.encoder.batch_size)]
    return torch.cat(parts).float().mean((0, 1, 3, 4)).cpu().numpy()


def choose_volumes(seen: Sequence[Seen], known: Sequence[np.ndarray], count: int) -> list[int]:
    """Numbers of the `count` volumes to paint, the most instructive first.

    known: mean embeddings of the cases that are there already.
    """
    all_of_them = np.array([*(one.embedding for one in seen), *known])
    scaled = (all_of_them - all_of_them.mean(0)) / (all_of_them.std(0) + 1e-6)
    unsure = np.array([one.uncertainty for one in seen])
    return spread(unsure, scaled[: len(seen)], scaled[len(seen) :], count)


def choose_slices(seen: Seen) -> list[int]:
    """Numbers along `seen.axis`, from 0, of the slices that show a border, the most instructive first."""
    places = np.arange(len(seen.in_slice))[:, None] * seen.spacing_mm
    return spread(seen.in_slice, places, places[:0], len(places))


def spread(worth: np.ndarray, places: np.ndarray, taken: np.ndarray, count: int) -> list[int]:
    """Numbers of at most `count` items, each the one of the largest worth times distance to the nearest taken before.

    worth (N,), places (N, F), taken (M, F). Without any taken the first is the one of the largest worth. Items without
    worth, or that lie where one was taken, are none.
    """
    chosen: list[int] = []
    distance = np.full(len(places), np.inf)
    for place in taken:
        distance = np.minimum(distance, np.linalg.norm(places - place, axis=1))
    while len(chosen) < min(count, len(places)):
        gain = worth * distance if len(taken) or chosen else worth
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        chosen.append(best)
        distance = np.minimum(distance, np.linalg.norm(places - places[best], axis=1))
    return chosen


def find_border(labels_kji: np.ndarray) -> np.ndarray:
    """Boolean (K, J, I): the voxels beside one, along any axis, that has another label."""
    border = np.zeros(labels_kji.shape, bool)
    for axis in range(3):
        along, mark = np.moveaxis(labels_kji, axis, 0), np.moveaxis(border, axis, 0)
        differs = along[1:] != along[:-1]
        mark[1:] |= differs
        mark[:-1] |= differs
    return border
