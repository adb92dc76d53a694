"""Labelled volumes on disk, as people have them; what is in them; and their split, which belongs to a run.

Understood are the Medical Segmentation Decathlon and nnU-Net's raw data (`imagesTr`, `labelsTr`, `dataset.json`), a
folder of image and label pairs (`case.nii.gz` with `case_label.nii.gz` or `case.seg.nrrd`), and a folder for each case.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InputError, Sam3dError, require
from ..card import Label, SlicingRule
from ..formats.images import read_header, read_matrix
from ..formats.label_maps import LabelMap, is_segmentation, read_label_map
from ..formats.segments import name_key
from ..formats.volumes import Volume, is_volume_file, read_volume, volume_name
from ..geometry import slicing_of
from ..settings import TrainingConfig
from .classes import class_indices, labels_of_segments, on_grid_of

# Distinct colours for labels that come without one (Okabe & Ito's palette, safe for colour-blind readers).
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_LABEL_ENDING = re.compile(r"[-_ .](labels?|seg|segmentation|mask)$", re.IGNORECASE)
_CHANNEL_ENDING = re.compile(r"_(\d{4})$")  # nnU-Net: case_0000 is the first channel of case
_DETACHED_HEADERS = (".nhdr", ".mhd")  # whose voxels are in a file beside them
DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class CaseFiles:
    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Dataset:
    """Cases on disk, what `dataset.json` says of them, and what was left out (`notices`, one line each)."""

    folder: Path
    cases: tuple[CaseFiles, ...]
    names: dict[int, str]  # of the labels' values, from dataset.json; empty without it
    modality: str
    licence: str
    notices: tuple[str, ...]


@dataclass(frozen=True)
class CaseFacts:
    """What one case is, found without computing anything; `problem` is why it cannot be trained on, or ""."""

    files: CaseFiles
    shape_kji: tuple[int, ...] = ()
    ijk_to_ras: np.ndarray = field(default_factory=lambda: np.eye(4))
    voxels: dict[str, int] = field(default_factory=dict)  # of each label that it has, by name
    problem: str = ""


@dataclass(frozen=True)
class Split:
    """Names of the cases: to train on, to choose the checkpoint by, and for neither."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


def find_dataset(folder: str | Path, least: int = 2) -> Dataset:
    """The labelled cases of a folder. Raises InputError naming what is missing, or given twice; or for fewer cases."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    description = _read_description(folder / DESCRIPTION)
    if (folder / "imagesTr").is_dir() or (folder / "labelsTr").is_dir():
        cases, notices = _pair_folders(folder)
    elif _volumes(folder):
        cases, notices = _pair_files(folder)
    else:
        cases, notices = _pair_in_subfolders(folder)
    if len(cases) < least:
        raise InputError(
            f"{str(folder)!r} has {len(cases)} labelled cases; at least {least} are needed, 5 to 20 are good. "
            + (" ".join(notices[:2]) or "Put images into imagesTr, and label maps of the same names into labelsTr.")
        )
    return Dataset(
        folder,
        cases,
        _label_names(description, folder),
        _as_text(description.get("modality") or description.get("channel_names")),
        _as_text(description.get("licence") or description.get("license")),
        notices,
    )


def new_case_files(folder: str | Path, name: str) -> CaseFiles:
    """Where a new case has to be written to be found: into the layout that `folder` has, else as a pair of files.

    Raises InputError for a name that would be taken for something else.
    """
    folder = Path(folder)
    if not re.fullmatch(r"\w[\w .-]*", name) or name != name.strip(" .") or _LABEL_ENDING.search(name):
        raise InputError(
            f"{name!r} is no name for a case; use letters, digits, blanks, - and _, and no ending such as _label."
        )
    if (folder / "imagesTr").is_dir() or (folder / "labelsTr").is_dir():
        name = _CHANNEL_ENDING.sub("", name)
        images, labels = folder / "imagesTr", folder / "labelsTr"
    elif not _volumes(folder) and _pair_in_subfolders(folder)[0]:
        images = labels = folder / name
    else:
        images = labels = folder
    return CaseFiles(name, images / f"{name}.nrrd", labels / f"{name}.seg.nrrd")


def files_of_case(files: CaseFiles) -> list[Path]:
    """The volumes that a case of this name has already, whatever their endings: they would be lost, or be it twice."""
    found = [
        path for folder in {files.image.parent, files.label.parent} if folder.is_dir() for path in _volumes(folder)
    ]
    if files.image.parent.name == files.name:  # a folder for each case
        return sorted(found)
    return sorted(p for p in found if files.name in (name := volume_name(p), _LABEL_ENDING.sub("", name)))


def find_labels(dataset: Dataset) -> tuple[Label, ...]:
    """The labels that the data have: by dataset.json, by the names of segments, else by their values.

    Colours and codes are those of the segments. Raises InputError if no label map has a structure.
    """
    maps = (read_label_map(case.label) for case in dataset.cases)  # one at a time in memory
    segments, named, unnamed, values = _survey(maps)
    if not segments and not values:
        files = ", ".join(case.label.name for case in dataset.cases)
        raise InputError(f"no label map has a structure: {files}; draw one, or give other files.")
    if dataset.names:
        by_name = {name_key(label.name): label for label in segments}
        return tuple(
            Label(value, name, label.color, label.category, label.type, label.modifier)
            if (label := by_name.get(name_key(name)))
            else Label(value, name, _COLORS[index % len(_COLORS)])
            for index, (value, name) in enumerate(sorted(dataset.names.items()))
        )
    if named and unnamed:
        raise InputError(
            f"{named[0].name} names its structures and {unnamed[0].name} does not, so they cannot be matched; save all "
            f"as .seg.nrrd, or name the values in {DESCRIPTION}."
        )
    if segments:
        return segments
    return tuple(Label(v, f"Label {v}", _COLORS[index % len(_COLORS)]) for index, v in enumerate(sorted(values)))


def examine(dataset: Dataset, labels: tuple[Label, ...], resample: bool) -> tuple[CaseFacts, ...]:
    """What every case is; reads the headers of images, and label maps."""
    return tuple(_examine(case, labels, resample) for case in dataset.cases)


def read_case(case: CaseFiles, labels: tuple[Label, ...], resample: bool) -> tuple[Volume, np.ndarray]:
    """The image, and class indices (K, J, I) uint8 on its grid. Raises InputError where they do not fit."""
    image = read_volume(case.image)
    return image, _read_classes(case, image, labels, resample)


def fingerprint(cases: Iterable[CaseFiles]) -> dict[str, str]:
    """For each case the SHA-256 of the names and contents of its files."""
    return {case.name: _hash_files(case) for case in cases}


def describe_difference(before: dict[str, str], now: dict[str, str]) -> str:
    """ "" if two fingerprints are alike, else which cases were added, removed or changed."""
    parts = [
        ("added", sorted(set(now) - set(before))),
        ("removed", sorted(set(before) - set(now))),
        ("changed", sorted(name for name in set(before) & set(now) if before[name] != now[name])),
    ]
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)


def split_cases(names: Iterable[str], config: TrainingConfig, most_training: int | None = None) -> tuple[Split, ...]:
    """Shuffle by the seed and cut: first the test cases, then the validation cases, the rest is for training.

    One split, or one for each of `config.folds`: every case that is not a test case is then a validation case once.
    Of the training cases at most `most_training` are kept. Raises InputError if none are left.
    """
    names = sorted(names)
    shuffled = [names[i] for i in np.random.default_rng(config.seed).permutation(len(names))]
    test, rest = tuple(shuffled[: config.test_cases]), shuffled[config.test_cases :]
    if config.folds > 1:
        if most_training is not None:
            rest = rest[:most_training]
        require(
            len(rest) >= config.folds,
            f"{len(rest)} cases cannot be divided into {config.folds} folds; give fewer folds, or more cases.",
        )
        return tuple(
            Split(
                tuple(name for i, name in enumerate(rest) if i % config.folds != fold),
                tuple(rest[fold :: config.folds]),
                test,
            )
            for fold in range(config.folds)
        )
    validation = config.validation_cases or max(1, len(rest) // 5)
    if validation >= len(rest):
        raise InputError(
            f"{config.test_cases} test and {validation} validation cases leave none of {len(names)} to train on; "
            "ask for fewer."
        )
    return (Split(tuple(rest[validation:][:most_training]), tuple(rest[:validation]), test),)


def median_grid_mm(
    facts: Iterable[CaseFacts], rule: SlicingRule
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Median spacing and extent of the cases, in mm, slicing axis first."""
    spacings, extents = [], []
    for case in facts:
        slicing = slicing_of(case.ijk_to_ras, rule)
        shape_dhw = [case.shape_kji[axis] for axis in slicing.kji_axes]
        spacings.append(slicing.spacing_mm)
        extents.append(np.multiply(shape_dhw, slicing.spacing_mm))
    return _as_triple(np.median(spacings, axis=0)), _as_triple(np.median(extents, axis=0))


def _pair_folders(folder: Path) -> tuple[tuple[CaseFiles, ...], tuple[str, ...]]:
    """imagesTr/case.nii.gz or case_0000.nii.gz, labelsTr/case.nii.gz."""
    images_folder, labels_folder = folder / "imagesTr", folder / "labelsTr"
    for needed in (images_folder, labels_folder):
        if not needed.is_dir():
            raise InputError(
                f"folder {str(needed)!r} does not exist; put images into imagesTr and label maps of the same "
                f"names into labelsTr of {str(folder)!r}."
            )
    labels = _by_name((volume_name(path), path) for path in _volumes(labels_folder))

    def case_name(path: Path) -> str:
        name = volume_name(path)
        return name if name in labels else _CHANNEL_ENDING.sub("", name)

    images = _by_name((case_name(path), path) for path in _volumes(images_folder))
    return _match(images, labels)


def _pair_files(folder: Path) -> tuple[tuple[CaseFiles, ...], tuple[str, ...]]:
    """case.nii.gz with case_label.nii.gz, case-segmentation.seg.nrrd, case.seg.nrrd and the like."""
    label_paths = [path for path in _volumes(folder) if _is_label(path)]
    images = _by_name((volume_name(path), path) for path in _volumes(folder) if path not in label_paths)

    def case_name(path: Path) -> str:
        name = volume_name(path)
        return name if name in images else _LABEL_ENDING.sub("", name)

    return _match(images, _by_name((case_name(path), path) for path in label_paths))


def _pair_in_subfolders(folder: Path) -> tuple[tuple[CaseFiles, ...], tuple[str, ...]]:
    """case/any.nrrd with case/any.seg.nrrd or case/any_label.nrrd: one image and one label map in each folder."""
    cases, notices = [], []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        labels = [path for path in _volumes(inner) if _is_label(path)]
        images = [path for path in _volumes(inner) if path not in labels]
        if len(images) == len(labels) == 1:
            cases.append(CaseFiles(inner.name, images[0], labels[0]))
        elif images or labels:
            notices.append(f"{inner.name} has {len(images)} images and {len(labels)} label maps, not one of each.")
    return tuple(cases), tuple(notices)


def _match(images: dict[str, Path], labels: dict[str, Path]) -> tuple[tuple[CaseFiles, ...], tuple[str, ...]]:
    cases = tuple(CaseFiles(name, images[name], labels[name]) for name in sorted(images) if name in labels)
    notices = []
    for what, mine, other, theirs in (
        ("image", images, "a label map", labels),
        ("label map", labels, "an image", images),
    ):
        lonely = [mine[name].name for name in sorted(mine) if name not in theirs]
        if lonely:
            count = f"{len(lonely)} {what}{'s' if len(lonely) > 1 else ''}"
            notices.append(f"{count} without {other}, left out: {', '.join(lonely)}.")
    return cases, tuple(notices)


def _by_name(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Raises InputError where two files have one name: they would be two cases of one patient."""
    paths: dict[str, Path] = {}
    for name, path in named:
        if name in paths:
            first, second = str(paths[name]), str(path)
            channels = all(_CHANNEL_ENDING.search(volume_name(p)) for p in (paths[name], path))
            remedy = "a model reads one channel: keep one of them" if channels else "keep one of them"
            raise InputError(f"{first!r} and {second!r} are both of the case {name!r}; {remedy}.")
        paths[name] = path
    return paths


def _volumes(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and is_volume_file(p) and not p.name.startswith("."))


def _is_label(path: Path) -> bool:
    return is_segmentation(path) or _LABEL_ENDING.search(volume_name(path)) is not None


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{str(path)!r} is not valid JSON ({error}); mend or remove it.") from error
    require(isinstance(description, dict), f"{str(path)!r} is no JSON object; mend or remove it.")
    return description


def _label_names(description: dict[str, Any], folder: Path) -> dict[int, str]:
    """Value to name, from {"1": "Anterior"} (Decathlon, nnU-Net v1) or {"Anterior": 1} (nnU-Net v2)."""
    given = description.get("labels") or {}
    names: dict[int, str] = {}
    try:
        for key, value in given.items():
            number, name = (int(key), value) if str(key).isdecimal() else (value, key)
            if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str):
                raise TypeError(f"{key!r}: {value!r}")
            names[number] = name
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{str(folder / DESCRIPTION)!r} has labels that cannot be read ({error}); give one value for each name, as "
            'in {"background": 0, "liver": 1}.'
        ) from error
    names.pop(0, None)
    return names


def _as_text(value: Any) -> str:
    """ "MRI", ["MRI"] and {"0": "MRI"} are all "MRI"."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value or "")


def _survey(maps: Iterable[LabelMap]) -> tuple[tuple[Label, ...], list[Path], list[Path], set[int]]:
    """Labels of all segments, files that name theirs, files that do not, and the values of the latter."""
    named: list[Path] = []
    unnamed: list[Path] = []
    values: set[int] = set()

    def segmentations() -> Iterable[LabelMap]:
        for label_map in maps:
            if label_map.segments is None:
                unnamed.append(label_map.path)
                values.update(label_map.values())
            else:
                named.append(label_map.path)
                yield label_map

    return labels_of_segments(segmentations()), named, unnamed, values


def _examine(case: CaseFiles, labels: tuple[Label, ...], resample: bool) -> CaseFacts:
    try:
        image = _read_grid(case.image)
        indices = _read_classes(case, image, labels, resample)
    except Sam3dError as error:
        return CaseFacts(case, problem=str(error))
    counts = np.bincount(indices.ravel(), minlength=len(labels) + 1)
    voxels = {label.name: int(count) for label, count in zip(labels, counts[1:]) if count}
    return CaseFacts(case, image.array_kji.shape, image.ijk_to_ras, voxels)


def _read_classes(case: CaseFiles, image: Volume, labels: tuple[Label, ...], resample: bool) -> np.ndarray:
    label_map = read_label_map(case.label)
    return on_grid_of(image, class_indices(label_map, labels), label_map, resample)


def _read_grid(path: Path) -> Volume:
    """An image's grid by its header; its voxels are a single one, repeated."""
    header = read_header(path)
    return Volume(np.broadcast_to(np.uint8(0), header.shape), read_matrix(path, header), path)


def _hash_files(case: CaseFiles) -> str:
    digest = hashlib.sha256()
    for path in (case.image, case.label):
        files = [path]
        if path.suffix.lower() in _DETACHED_HEADERS:
            files += sorted(p for p in path.parent.glob(path.stem + ".*") if p.is_file() and p != path)
        for file in files:
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


def _as_triple(values: np.ndarray) -> tuple[float, float, float]:
    d, h, w = values.tolist()
    return d, h, w
