"""Complete cases as they would be if only some of their slices had been painted."""

from __future__ import annotations

import shutil
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
from ..settings import TrainingConfig
from ..training.classes import read_case
from ..training.description import DESCRIPTION
from ..training.plan import make_plan


def paint_in_part(data: Path, config: TrainingConfig, cases: int | None, every: int, folder: Path) -> None:
    """Write the data set `data` into `folder` with only every `every`th slice of its training cases painted.

    Slices are those along which the cases are sliced; what shows no structure is marked as empty. The cases say
    themselves that they are painted in part. Other cases stay complete.
    """
    plan = make_plan(data, config, cases)
    require(not plan.dataset.channels, f"{str(data)!r} has cases of several channels; give such of one.")
    images, label_maps = folder / "imagesTr", folder / "labelsTr"
    images.mkdir(parents=True)
    label_maps.mkdir()
    if plan.dataset.patients:  # else the cases would be split otherwise
        write_json(folder / DESCRIPTION, {"patients": plan.dataset.patients})
    free = max(label.value for label in plan.labels) + 1
    values = np.zeros(256, np.uint8)
    values[1 : len(plan.labels) + 1] = [label.value for label in plan.labels]
    values[EMPTY_SLICE] = free
    labels = (*plan.labels, Label(free, EMPTY, (128, 128, 128)))
    for name, files in plan.files.items():
        is_painted = name in plan.training_names
        image, classes = read_case(files, plan.labels, plan.rules)
        if is_painted:
            slicing = slicing_of(image.ijk_to_ras, config.slicing)
            classes = keep_every(classes, slicing.kji_axes[0], every)
        if files.image.is_dir() or files.frame is not None:
            write_volume(images / f"{name}.nrrd", image.array_kji, image.ijk_to_ras)
        else:
            shutil.copyfile(files.image, images / files.image.name)
        path = label_maps / f"{name}{SEGMENTATION_SUFFIX}"
        write_labels(path, values[classes], image, labels, only_painted=is_painted)


def keep_every(classes_kji: np.ndarray, axis: int, every: int) -> np.ndarray:
    """Every `every`th slice along an axis, from the middle of the first so many on, as it is; 0 in the others.

    A slice that shows no structure becomes EMPTY_SLICE.
    """
    slices = np.moveaxis(classes_kji, axis, 0)
    kept = np.zeros_like(slices)
    for number in range(every // 2, len(slices), every):
        kept[number] = slices[number] if slices[number].any() else EMPTY_SLICE
    return np.moveaxis(kept, 0, axis)
