"""Small volumes set into large ones: each at a random place among parts of others in which there is no structure.

So the place of a structure has to be found, and what it looks like in its neighbourhood is known from the small volume.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..base.errors import InputError, require
from ..base.files import write_json
from ..base.watch import Watch
from ..formats.label_maps import write_labels
from ..formats.volumes import Volume, write_volume
from ..geometry import Crop
from ..training.description import DESCRIPTION
from ..training.plan import Plan
from ..training.reading import read_case

TILE, OVERLAP = 16, 4  # voxels along each axis: of a part, and of what it shares with the next
SEAM = 3  # voxels over which the small volume's border passes into its surroundings


@dataclass(frozen=True)
class Part:
    """A labelled small volume as what surrounds others is taken from it: voxels in units of its own deviation.

    starts: (N, 3), where along k, j and i a tile begins in which there is no structure.
    """

    voxels_kji: np.ndarray
    starts: np.ndarray


def set_in(plan: Plan, names: Sequence[str], size: int, folder: Path, seed: int, watch: Watch) -> dict[str, str]:
    """Write these cases of a plan, each set into size^3 voxels, into `folder`, as a data set to train on.

    What surrounds a case is of the others of `names`, if there are any. Returns the region in which each of them lies,
    as `Crop.named` reads it. Raises InputError for cases of several channels, larger than `size`, or without room
    beside structures.
    """
    require(not plan.dataset.channels, f"{str(plan.dataset.folder)!r} has cases of several channels; give such of one.")
    images, label_maps = folder / "imagesTr", folder / "labelsTr"
    images.mkdir(parents=True, exist_ok=True)
    label_maps.mkdir(exist_ok=True)
    cases = {name: read_case(plan.files[name], plan.labels, plan.rules) for name in names}
    parts = {name: _part(image, classes) for name, (image, classes) in cases.items()}
    regions = {}
    values = np.array([0, *(label.value for label in plan.labels)], np.uint8)
    for number, name in enumerate(watch.each("set in", names)):
        rng = np.random.default_rng((seed, number))
        image, classes = cases[name]
        usable = {other: part for other, part in parts.items() if len(part.starts)}
        if not usable:
            raise InputError(f"none of {len(names)} cases has {TILE} x {TILE} x {TILE} voxels without a structure.")
        others = [part for other, part in usable.items() if other != name] or [*usable.values()]
        crop = _random_place(image.array_kji.shape, size, rng, name)
        regions[name] = str(crop)
        voxels = _blend_in(_surroundings(others, size, rng), image.array_kji, crop)
        matrix = image.ijk_to_ras.copy()
        matrix[:3, 3] -= matrix[:3, :3] @ crop.low_ijk
        write_volume(images / f"{name}.nii", voxels, matrix)
        large = replace(image, array_kji=voxels, ijk_to_ras=matrix)
        write_labels(label_maps / f"{name}.nii", crop.put_back(values[classes]), large, plan.labels)
    write_json(folder / DESCRIPTION, {"labels": {"background": 0} | {label.name: label.value for label in plan.labels}})
    return regions


def _part(image: Volume, classes_kji: np.ndarray) -> Part:
    voxels = image.array_kji.astype(np.float32)
    voxels = (voxels - voxels.mean()) / max(float(voxels.std()), 1e-6)
    if min(voxels.shape) < TILE:
        return Part(voxels, np.zeros((0, 3), int))
    is_free = ~sliding_window_view(classes_kji > 0, (TILE, TILE, TILE)).any((-3, -2, -1))
    return Part(voxels, np.argwhere(is_free))


def _random_place(shape_kji: tuple[int, ...], size: int, rng: np.random.Generator, name: str) -> Crop:
    require(max(shape_kji) <= size, f"{name} has {shape_kji} voxels along k, j and i; give a size of {max(shape_kji)}.")
    low = [int(rng.integers(size - length + 1)) for length in shape_kji]
    k, j, i = low
    high = [start + length for start, length in zip(low, shape_kji)]
    return Crop((i, j, k), (high[2], high[1], high[0]), (size, size, size))


def _surroundings(parts: Sequence[Part], size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, size) float32: tiles of the parts, turned and mirrored at random, that pass into each other."""
    step = TILE - OVERLAP
    count = -(-(size - OVERLAP) // step)
    ramp = np.minimum(np.minimum(np.arange(TILE), np.arange(TILE)[::-1]) + 1, OVERLAP) / OVERLAP
    weights = (ramp[:, None, None] * ramp[:, None] * ramp).astype(np.float32)
    whole = np.zeros((count * step + OVERLAP,) * 3, np.float32)
    sums = np.zeros_like(whole)
    for corner in itertools.product(range(0, count * step, step), repeat=3):
        place = tuple(slice(start, start + TILE) for start in corner)
        whole[place] += weights * _random_tile(parts[int(rng.integers(len(parts)))], rng)
        sums[place] += weights
    return (whole / sums)[:size, :size, :size]


def _random_tile(part: Part, rng: np.random.Generator) -> np.ndarray:
    k, j, i = part.starts[int(rng.integers(len(part.starts)))]
    tile = part.voxels_kji[k : k + TILE, j : j + TILE, i : i + TILE]
    return tile.transpose(rng.permutation(3))[tuple(slice(None, None, step) for step in rng.choice((-1, 1), 3))]


def _blend_in(surroundings: np.ndarray, volume_kji: np.ndarray, crop: Crop) -> np.ndarray:
    """The volume at its place, in its own units and type, its surroundings in the same units around."""
    scaled = surroundings * volume_kji.std() + volume_kji.mean()
    share = np.ones(volume_kji.shape, np.float32)
    for axis, length in enumerate(volume_kji.shape):
        depth = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
        share *= np.minimum(depth / SEAM, 1).reshape([-1 if own == axis else 1 for own in range(3)])
    place = crop.view(scaled)
    place[:] = share * volume_kji + (1 - share) * place
    if np.issubdtype(volume_kji.dtype, np.integer):
        limits = np.iinfo(volume_kji.dtype)
        scaled = scaled.round().clip(max(limits.min, volume_kji.min()), limits.max)
    return scaled.astype(volume_kji.dtype)
