"""What is done to a label map after the decoder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

SLAB_VOXELS = 2**21  # in which pieces are found at once, so that memory does not grow with the volume


def find_islands(labels: np.ndarray, share: float) -> Iterator[tuple[slice, np.ndarray]]:
    """The islands in a 3-D label map (uint8): a slab along its first axis and the mask of it, for each slab in turn.

    Pieces are connected foreground of any label, by faces, edges or corners. What a label has in a piece is an island
    where it is less than `share` (0..1) of what the label has in the piece that holds most of it. Each label is
    compared with itself only, so a small structure is safe beside a large one, and paired structures of similar size
    both stay.
    """
    slabs = _plan_slabs(labels.shape)
    pieces = _number_pieces(labels, slabs)
    rows, columns = int(labels.max()) + 1, 1 + max(int(numbers.max(initial=0)) for numbers in pieces)
    flat = np.zeros(rows * columns, np.int64)
    for slab, numbers in zip(slabs, pieces):
        values = labels[slab][labels[slab] > 0]
        flat += np.bincount(values.astype(np.int64) * columns + numbers, minlength=flat.size)
    counts = flat.reshape(rows, columns)
    island = counts < share * counts.max(axis=1, keepdims=True)
    for slab, numbers in zip(slabs, pieces):
        values = labels[slab]
        mask = values > 0
        mask[mask] = island[values[mask], numbers]
        yield slab, mask


def load_for_islands(shape: tuple[int, ...]) -> None:
    """Import what `find_islands` needs for so many voxels, before memory is short.

    That takes a quarter of a second, which a small volume need not wait for.
    """
    if len(_plan_slabs(shape)) > 1:
        importlib.import_module("scipy.sparse.csgraph")


def _plan_slabs(shape: tuple[int, ...]) -> list[slice]:
    thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    return [slice(start, start + thickness) for start in range(0, shape[0], thickness)]


def _number_pieces(labels: np.ndarray, slabs: list[slice]) -> list[np.ndarray]:
    """Of each slab, the number of the piece that each of its foreground voxels belongs to."""
    numbers: list[np.ndarray] = []
    seams: list[np.ndarray] = []  # pairs of numbers that are one piece
    count = 0
    last = np.zeros(0, np.int32)  # numbers in the last slice of the slab before
    for slab in slabs:
        # A slab is labelled together with the slice before it, which tells what goes on from one to the next.
        first = max(0, slab.start - 1)
        foreground = labels[first : slab.stop] > 0
        image = sitk.ConnectedComponent(sitk.GetImageFromArray(foreground.view(np.uint8)), True)
        found = sitk.GetArrayFromImage(image).view(np.int32) + (count - 1)
        if first < slab.start:
            seams.append(np.unique(np.stack([last, found[0][foreground[0]]]), axis=1))
        last = found[-1][foreground[-1]]
        own = slice(slab.start - first, None)
        numbers.append(found[own][foreground[own]])
        count = max(count, int(found.max()) + 1)
    if not seams or not count:
        return numbers
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = np.concatenate(seams, axis=1)
    links = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    piece_of = connected_components(links, directed=False)[1]
    return [piece_of[own] for own in numbers]
