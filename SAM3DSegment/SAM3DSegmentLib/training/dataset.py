"""Labelled volumes on disk, as people have them: which file is the image, and which the label map, of each case.

Understood are the Medical Segmentation Decathlon and nnU-Net's raw data (`imagesTr`, `labelsTr`, `dataset.json`), a
folder of image and label pairs (`case.nii.gz` with `case_label.nii.gz` or `case.seg.nrrd`), and a folder for each case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import InputError, require
from ..formats.volumes import VolumeFile, list_volume_files

_LABEL_ENDING = re.compile(r"[-_ .](labels?|seg|segmentation|mask)$", re.IGNORECASE)
_CHANNEL_ENDING = re.compile(r"_(\d{4})$")  # nnU-Net: case_0000 is the first channel of case
DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class CaseFiles:
    """A case's name, its image, and its label map or segmentation."""

    name: str
    image: Path
    label_map: Path


@dataclass(frozen=True)
class Dataset:
    """Cases on disk, what `dataset.json` says of them, and what was left out (`notices`, one line each)."""

    folder: Path
    cases: tuple[CaseFiles, ...]
    names: dict[int, str]  # of the labels' values, from dataset.json; empty without it
    modality: str
    licence: str
    notices: tuple[str, ...]


Pairs = tuple[tuple[CaseFiles, ...], tuple[str, ...]]  # cases, notices


def find_dataset(folder: str | Path, least: int = 2) -> Dataset:
    """The labelled cases of a folder. Raises InputError naming what is missing, or given twice; or for fewer cases."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    description = _read_description(folder / DESCRIPTION)
    if _has_image_and_label_folders(folder):
        cases, notices = _pair_folders(folder)
    elif files := list_volume_files(folder):
        cases, notices = _pair_files(files)
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


def names_of_values(folders: Iterable[Path]) -> dict[int, str]:
    """Of the labels, from the first of the folders with a `dataset.json`; empty without it. Raises InputError."""
    for folder in folders:
        if names := _label_names(_read_description(folder / DESCRIPTION), folder):
            return names
    return {}


def new_case_files(folder: str | Path, name: str) -> CaseFiles:
    """Where a new case has to be written to be found: into the layout that `folder` has, else as a pair of files.

    Raises InputError for a name that would be taken for something else.
    """
    folder = Path(folder)
    if not re.fullmatch(r"\w[\w .-]*", name) or name != name.strip(" .") or _LABEL_ENDING.search(name):
        raise InputError(
            f"{name!r} cannot name a case; use letters, digits, blanks, - and _, and no ending such as _label."
        )
    if _has_image_and_label_folders(folder):
        name = _CHANNEL_ENDING.sub("", name)
        images, labels = folder / "imagesTr", folder / "labelsTr"
    elif not list_volume_files(folder) and _pair_in_subfolders(folder)[0]:
        images = labels = folder / name
    else:
        images = labels = folder
    return CaseFiles(name, images / f"{name}.nrrd", labels / f"{name}.seg.nrrd")


def files_of_case(files: CaseFiles) -> list[Path]:
    """The volumes that a case of this name has already, whatever their endings: they would be lost, or be it twice."""
    folders = {files.image.parent, files.label_map.parent}
    found = [file for folder in folders if folder.is_dir() for file in list_volume_files(folder)]
    if files.image.parent.name != files.name:  # not a folder for each case
        found = [file for file in found if files.name in (file.name, _LABEL_ENDING.sub("", file.name))]
    return sorted(file.path for file in found)


def _has_image_and_label_folders(folder: Path) -> bool:
    return (folder / "imagesTr").is_dir() or (folder / "labelsTr").is_dir()


def _pair_folders(folder: Path) -> Pairs:
    """imagesTr/case.nii.gz or case_0000.nii.gz, labelsTr/case.nii.gz."""
    images_folder, labels_folder = folder / "imagesTr", folder / "labelsTr"
    for needed in (images_folder, labels_folder):
        if not needed.is_dir():
            raise InputError(
                f"folder {str(needed)!r} does not exist; put images into imagesTr and label maps of the same "
                f"names into labelsTr of {str(folder)!r}."
            )
    label_maps = _by_case(list_volume_files(labels_folder), lambda name: name)
    images = _by_case(
        list_volume_files(images_folder), lambda name: name if name in label_maps else _CHANNEL_ENDING.sub("", name)
    )
    return _match(images, label_maps)


def _pair_files(files: list[VolumeFile]) -> Pairs:
    """case.nii.gz with case_label.nii.gz, case-segmentation.seg.nrrd, case.seg.nrrd and the like."""
    images = _by_case([file for file in files if not _is_label_map(file)], lambda name: name)
    label_maps = _by_case(
        [file for file in files if _is_label_map(file)],
        lambda name: name if name in images else _LABEL_ENDING.sub("", name),
    )
    return _match(images, label_maps)


def _pair_in_subfolders(folder: Path) -> Pairs:
    """case/any.nrrd with case/any.seg.nrrd or case/any_label.nrrd: one image and one label map in each folder."""
    cases, notices = [], []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = list_volume_files(inner)
        label_maps = [file.path for file in files if _is_label_map(file)]
        images = [file.path for file in files if file.path not in label_maps]
        if len(images) == len(label_maps) == 1:
            cases.append(CaseFiles(inner.name, images[0], label_maps[0]))
        elif files:
            notices.append(f"{inner.name} has {len(images)} images and {len(label_maps)} label maps, not one of each.")
    return tuple(cases), tuple(notices)


def _match(images: dict[str, Path], label_maps: dict[str, Path]) -> Pairs:
    cases = tuple(CaseFiles(name, images[name], label_maps[name]) for name in sorted(images) if name in label_maps)
    notices = []
    for what, mine, other, theirs in (
        ("image", images, "a label map", label_maps),
        ("label map", label_maps, "an image", images),
    ):
        lonely = [mine[name].name for name in sorted(mine) if name not in theirs]
        if lonely:
            count = f"{len(lonely)} {what}{'s' if len(lonely) > 1 else ''}"
            notices.append(f"{count} without {other}, left out: {', '.join(lonely)}.")
    return cases, tuple(notices)


def _by_case(files: Iterable[VolumeFile], case_of: Callable[[str], str]) -> dict[str, Path]:
    """Paths by the case that a file's name stands for. Raises InputError where two files are of one case."""
    found: dict[str, VolumeFile] = {}
    for file in files:
        case = case_of(file.name)
        other = found.setdefault(case, file)
        if other is not file:
            channels = all(_CHANNEL_ENDING.search(one.name) for one in (other, file))
            remedy = "a model reads one channel: keep one of them" if channels else "keep one of them"
            raise InputError(f"{str(other.path)!r} and {str(file.path)!r} both belong to the case {case!r}; {remedy}.")
    return {case: file.path for case, file in found.items()}


def _is_label_map(file: VolumeFile) -> bool:
    return file.is_segmentation or _LABEL_ENDING.search(file.name) is not None


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{str(path)!r} is not valid JSON ({error}); fix or remove it.") from error
    require(isinstance(description, dict), f"{str(path)!r} is not a JSON object; fix or remove it.")
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
