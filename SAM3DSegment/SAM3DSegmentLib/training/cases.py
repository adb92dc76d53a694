"""Labelled volumes on disk, and their split into training, validation and test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..card import Label, SlicingRule
from ..errors import InputError
from ..geometry import Slicing, plan_slicing
from ..intensity import measure_grey_scale
from ..settings import TrainingConfig
from ..volume_io import Volume, list_volumes, read_volume, volume_name

# Distinct colours for labels that come without one (Okabe & Ito's palette, safe for colour-blind readers).
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


@dataclass(frozen=True)
class CasePaths:
    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Case:
    """One case, sliced: grey (D, H, W) float32 in 0..255 and class indices (D, H, W) int64, both from `source`."""

    name: str
    grey: Tensor
    classes: Tensor
    slicing: Slicing
    source: Volume
    labels_kji: np.ndarray


@dataclass(frozen=True)
class Dataset:
    cases: tuple[CasePaths, ...]
    labels: tuple[Label, ...]
    modality: str
    licence: str


@dataclass(frozen=True)
class Split:
    training: tuple[CasePaths, ...]
    validation: tuple[CasePaths, ...]
    test: tuple[CasePaths, ...]


def find_dataset(folder: str | Path) -> Dataset:
    """A folder in the form of the Medical Segmentation Decathlon: `imagesTr`, `labelsTr`, and `dataset.json`.

    Without dataset.json every image with a label of the same name is a case, and labels are numbered by their values.
    Raises InputError naming what is missing.
    """
    folder = Path(folder)
    images, labels = folder / "imagesTr", folder / "labelsTr"
    for needed in (folder, images, labels):
        if not needed.is_dir():
            raise InputError(
                f"folder {str(needed)!r} does not exist; put images into imagesTr and label maps of the same "
                f"names into labelsTr of {str(folder)!r}."
            )
    by_name = {volume_name(path): path for path in list_volumes(labels)}
    cases = tuple(
        CasePaths(name, path, by_name[name]) for path in list_volumes(images) if (name := volume_name(path)) in by_name
    )
    if len(cases) < 2:
        raise InputError(f"{str(folder)!r} has {len(cases)} labelled cases; at least 2 are needed, 5 to 20 are good.")
    description = _read_description(folder / "dataset.json")
    names = description.get("labels") or {str(v): f"Label {v}" for v in _label_values(cases)}
    return Dataset(
        cases,
        tuple(
            Label(int(value), str(name), _COLORS[index % len(_COLORS)])
            for index, (value, name) in enumerate(
                sorted(((int(v), n) for v, n in names.items() if int(v) != 0), key=lambda item: item[0])
            )
        ),
        ", ".join(str(m) for m in description.get("modality", {}).values()),
        str(description.get("licence", "")),
    )


def split_cases(cases: tuple[CasePaths, ...], config: TrainingConfig) -> Split:
    """Shuffle by the seed and cut: first the test cases, then the validation cases, the rest is for training."""
    order = np.random.default_rng(config.seed).permutation(len(cases))
    shuffled = [cases[i] for i in order]
    validation = config.validation_cases or max(1, (len(cases) - config.test_cases) // 5)
    if config.test_cases + validation >= len(cases):
        raise InputError(
            f"{config.test_cases} test and {validation} validation cases leave none of {len(cases)} to train on; "
            "ask for fewer."
        )
    held_out = config.test_cases + validation
    return Split(
        tuple(shuffled[held_out:]), tuple(shuffled[config.test_cases : held_out]), tuple(shuffled[: config.test_cases])
    )


def read_case(paths: CasePaths, config: TrainingConfig, labels: tuple[Label, ...]) -> Case:
    """Read, check that image and label map lie on one grid, and slice by the model's rules."""
    image, label = read_volume(paths.image), read_volume(paths.label)
    if image.array_kji.shape != label.array_kji.shape or not np.allclose(image.ijk_to_ras, label.ijk_to_ras, atol=1e-2):
        raise InputError(
            f"label map {str(paths.label)!r} is not on the grid of its image; export it with the image as reference."
        )
    slicing = plan_slicing(image.ijk_to_ras, config.slicing)
    volume = np.ascontiguousarray(slicing.to_dhw(image.array_kji))
    grey = measure_grey_scale(volume, config.intensity).apply(volume)
    classes = class_indices(np.ascontiguousarray(slicing.to_dhw(label.array_kji)), labels, paths.label)
    return Case(paths.name, torch.from_numpy(grey), torch.from_numpy(classes), slicing, image, label.array_kji)


def class_indices(values: np.ndarray, labels: tuple[Label, ...], path: Path) -> np.ndarray:
    """Label values -> indices 0..C-1 (int64), in the order of `labels`. InputError for a value without a name."""
    table = {0: 0, **{label.value: index + 1 for index, label in enumerate(labels)}}
    unknown = sorted(set(np.unique(values).tolist()) - set(table))
    if unknown:
        raise InputError(f"label map {str(path)!r} has the values {unknown[:5]} without a name; add them to `labels`.")
    indices = np.zeros(values.shape, np.int64)
    for value, index in table.items():
        indices[values == value] = index
    return indices


def median_grid_mm(
    cases: tuple[CasePaths, ...], rule: SlicingRule
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Median spacing and extent of the cases, in mm, slicing axis first."""
    spacings, extents = [], []
    for case in cases:
        volume = read_volume(case.image)
        slicing = plan_slicing(volume.ijk_to_ras, rule)
        spacings.append(slicing.spacing_mm)
        extents.append(np.multiply(slicing.to_dhw(volume.array_kji).shape, slicing.spacing_mm))
    return _as_triple(np.median(spacings, axis=0)), _as_triple(np.median(extents, axis=0))


def _as_triple(values: np.ndarray) -> tuple[float, float, float]:
    d, h, w = values.tolist()
    return d, h, w


def _read_description(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not valid JSON ({error}); mend or remove it.") from error


def _label_values(cases: tuple[CasePaths, ...]) -> list[int]:
    values: set[int] = set()
    for case in cases:
        values.update(int(v) for v in np.unique(read_volume(case.label).array_kji))
    return sorted(values - {0})
