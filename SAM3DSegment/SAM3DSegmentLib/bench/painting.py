"""Complete cases as they would be if only some of their slices had been painted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ..formats.label_maps import write_labels
from ..formats.volumes import SEGMENTATION_SUFFIX
from ..geometry import slicing_of
from ..settings import TrainingConfig
from ..training.classes import read_case
from ..training.plan import make_plan


def paint_in_part(data: Path, config: TrainingConfig, cases: int | None, every: int, folder: Path) -> None:
    """Write the data set `data` into `folder` with only every `every`th slice of its training cases painted.

    Slices are those along which the cases are sliced, from the first that shows a structure on; the cases say so
    themselves. Other cases stay complete.
    """
    plan = make_plan(data, config, cases)
    images, labels = folder / "imagesTr", folder / "labelsTr"
    images.mkdir(parents=True)
    labels.mkdir()
    values = np.array([0, *(label.value for label in plan.labels)], np.uint8)
    for name, files in plan.files.items():
        is_painted = name in plan.training_names
        image, classes = read_case(files, plan.labels, plan.rules)
        if is_painted:
            slicing = slicing_of(image.ijk_to_ras, config.slicing)
            classes = keep_every(classes, slicing.kji_axes[0], every)
        shutil.copyfile(files.image, images / files.image.name)
        path = labels / f"{name}{SEGMENTATION_SUFFIX}"
        write_labels(path, values[classes], image, plan.labels, only_painted=is_painted)


def keep_every(classes_kji: np.ndarray, axis: int, every: int) -> np.ndarray:
    """Each `every`th of the slices along an axis that show a structure, from the middle of the first so many on."""
    slices = np.moveaxis(classes_kji, axis, 0)
    kept = np.zeros_like(slices)
    numbers = np.flatnonzero(slices.any((1, 2)))[every // 2 :: every]
    kept[numbers] = slices[numbers]
    return np.moveaxis(kept, 0, axis)
