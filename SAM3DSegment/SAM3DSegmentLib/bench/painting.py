"""Complete cases as they would be if only some of their slices had been painted."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from ..base.errors import require
from ..base.files import write_json
from ..card import Label
from ..formats.label_maps import write_labels
from ..formats.painted import EMPTY as EMPTY_SLICE
from ..formats.segments import EMPTY
from ..formats.volumes import SEGMENTATION_SUFFIX, write_volume
from ..geometry import slicing_of
from ..training.description import DESCRIPTION
from ..training.plan import Plan
from ..training.reading import read_case


def paint_in_part(plan: Plan, cases: Collection[str], painted: Mapping[str, Collection[int]], folder: Path) -> None:
    """Write these cases of a plan into `folder`; of those in `painted` only the slices with these numbers are painted.

    Slices are those along which the cases are sliced, numbered as the voxels are stored; what shows no structure is
    marked as empty. Such cases say themselves that they are painted in part. The others stay complete.
    """
    require(not plan.dataset.channels, f"{str(plan.dataset.folder)!r} has cases of several channels; give such of one.")
    images, label_maps = folder / "imagesTr", folder / "labelsTr"
    images.mkdir(parents=True)
    label_maps.mkdir()
    if patients := {case: patient for case, patient in plan.dataset.patients.items() if case in cases}:
        write_json(folder / DESCRIPTION, {"patients": patients})  # else the cases would be split otherwise
    free = max(label.value for label in plan.labels) + 1
    values = np.zeros(256, np.uint8)
    values[1 : len(plan.labels) + 1] = [label.value for label in plan.labels]
    values[EMPTY_SLICE] = free
    labels = (*plan.labels, Label(free, EMPTY, (128, 128, 128)))
    for name in cases:
        files = plan.files[name]
        image, classes = read_case(files, plan.labels, plan.rules)
        if name in painted:
            axis = slicing_of(image.ijk_to_ras, plan.config.slicing).kji_axes[0]
            classes = keep_slices(classes, axis, painted[name])
        if files.image.is_dir() or files.frame is not None:
            write_volume(images / f"{name}.nrrd", image.array_kji, image.ijk_to_ras)
        else:
            shutil.copyfile(files.image, images / files.image.name)
        path = label_maps / f"{name}{SEGMENTATION_SUFFIX}"
        write_labels(path, values[classes], image, labels, only_painted=name in painted)


def every_nth(depth: int, every: int) -> range:
    """Numbers of every `every`th of so many slices, from the middle of the first so many on."""
    return range(every // 2, depth, every)


def keep_slices(classes_kji: np.ndarray, axis: int, numbers: Collection[int]) -> np.ndarray:
    """The slices with these numbers along an axis as they are; 0 in the others.

    A slice that shows no structure becomes EMPTY_SLICE.
    """
    slices = np.moveaxis(classes_kji, axis, 0)
    kept = np.zeros_like(slices)
    for number in numbers:
        kept[number] = slices[number] if slices[number].any() else EMPTY_SLICE
    return np.moveaxis(kept, 0, axis)
