"""Labelled volumes on disk, as people have them: which file is the image, and which the label map, of each case.

Understood are the Medical Segmentation Decathlon and nnU-Net's raw data (`imagesTr`, `labelsTr`, `dataset.json`), a
folder of image and label pairs (`case.nii.gz` or `case_image.nii.gz` with `case_label.nii.gz` or `case.seg.nrrd`), a
folder for each case, and a tree of DICOM series and their segmentations (SEG, RTSTRUCT), in any folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import InputError, require
from ..formats.content import is_dangling, missing_content, visible_files
from ..formats.segments import BACKGROUND, IGNORE, name_key
from ..formats.volumes import VolumeFile, list_volume_files

_LABEL_ENDING = re.compile(r"[-_ .](labels?|seg|segmentation|mask)$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(r"[-_ .](images?|img|volume|vol)$", re.IGNORECASE)
_CHANNEL_ENDING = re.compile(r"_(\d{4})$")  # nnU-Net: case_0000 is the first channel of case
DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class CaseFiles:
    """A case's name, its image, and its label map or segmentation.

    series_uid: which series of the folder `image`, if that is a folder of DICOM files.
    """

    name: str
    image: Path
    label_map: Path
    series_uid: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Cases on disk, what `dataset.json` says of them, and what was left out (`notices`, one line each).

    ignore: the value, from `dataset.json`, of voxels of which nothing is known.
    """

    folder: Path
    cases: tuple[CaseFiles, ...]
    names: dict[int, str]  # of the labels' values, from dataset.json; empty without it
    modality: str
    licence: str
    notices: tuple[str, ...]
    ignore: int | None = None


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
    if not cases:
        of_series, more = _pair_series(folder)
        cases, notices = of_series, (more if of_series else (*notices, *more))
    if len(cases) < least:
        raise InputError(
            f"{str(folder)!r} has {len(cases)} labelled cases; at least {least} are needed, 5 to 20 are good. "
            + (" ".join(notices[:2]) or "Put images into imagesTr, and label maps of the same names into labelsTr.")
        )
    names = _label_names(description, folder / DESCRIPTION)
    ignore = _pop_ignored(names)
    background = names.pop(0, BACKGROUND)
    if name_key(background) != BACKGROUND:
        notices += (f"{DESCRIPTION} names the value 0 {background!r}; it is taken as the background.",)
    return Dataset(
        folder,
        cases,
        names,
        _as_text(description.get("modality") or description.get("channel_names")),
        _as_text(description.get("licence") or description.get("license")),
        notices,
        ignore,
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
    folders = (files.image.parent, files.label_map.parent)
    found = {folder: list_volume_files(folder) if folder.is_dir() else [] for folder in folders}
    if files.image.parent.name == files.name:  # a folder for each case
        return [file.path for file in found[files.image.parent]]
    if len(found) == 1:
        images, label_maps = _images_and_label_maps(found[files.image.parent])
    else:
        images, label_maps = (found[folder] for folder in folders)
    case_of = _cases_of(images, label_maps, has_channels=len(found) == 2, known={files.name})
    return sorted(path for path, case in case_of.items() if case == files.name)


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
    return _pair(list_volume_files(images_folder), list_volume_files(labels_folder), has_channels=True)


def _pair_files(files: list[VolumeFile]) -> Pairs:
    """case.nii.gz with case_label.nii.gz, case-segmentation.seg.nrrd, case.seg.nrrd and the like."""
    return _pair(*_images_and_label_maps(files), has_channels=False)


def _images_and_label_maps(files: list[VolumeFile]) -> tuple[list[VolumeFile], list[VolumeFile]]:
    return [file for file in files if not _is_label_map(file)], [file for file in files if _is_label_map(file)]


def _pair(images: list[VolumeFile], label_maps: list[VolumeFile], has_channels: bool) -> Pairs:
    case_of = _cases_of(images, label_maps, has_channels)
    return _match(_by_case(images, case_of), _by_case(label_maps, case_of))


def _cases_of(
    images: list[VolumeFile], label_maps: list[VolumeFile], has_channels: bool, known: Collection[str] = ()
) -> dict[Path, str]:
    """The case that each file is of: of its own name, or without an ending such as _label where both then agree.

    has_channels: whether an image's name may end in nnU-Net's number of a channel. known: cases that there are besides.
    """
    endings = (_CHANNEL_ENDING, _IMAGE_ENDING) if has_channels else (_IMAGE_ENDING,)
    names = {file.path: [file.name, *(ending.sub("", file.name) for ending in endings)] for file in images}
    of_images = {name for candidates in names.values() for name in candidates} | set(known)
    case_of = {file.path: _first_in(of_images, [file.name, _LABEL_ENDING.sub("", file.name)]) for file in label_maps}
    of_labels = {*case_of.values(), *known}
    return case_of | {path: _first_in(of_labels, candidates) for path, candidates in names.items()}


def _first_in(known: Collection[str], names: list[str]) -> str:
    """The first of `names` that is known, else the first."""
    return next((name for name in names if name in known), names[0])


def _pair_in_subfolders(folder: Path) -> Pairs:
    """case/any.nrrd with case/any.seg.nrrd or case/any_label.nrrd: one image and one label map in each folder."""
    cases = []
    notices = [f"{path.name} {missing_content(path)}" for path in visible_files(folder) if is_dangling(path)]
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = list_volume_files(inner)
        label_maps = [file.path for file in files if _is_label_map(file)]
        images = [file.path for file in files if file.path not in label_maps]
        if len(images) == len(label_maps) == 1:
            cases.append(CaseFiles(inner.name, images[0], label_maps[0]))
        elif files:
            notices.append(f"{inner.name} has {len(images)} images and {len(label_maps)} label maps, not one of each.")
    return tuple(cases), tuple(notices)


def _pair_series(folder: Path) -> Pairs:
    """Each DICOM segmentation or structure set below `folder` with its series, by UIDs; wherever they lie."""
    from ..formats.dicom_tree import find_in_tree  # pydicom is loaded where there is DICOM

    tree = find_in_tree(folder)
    pairs = {uid: path for uid, path in tree.by_series().items() if uid in tree.series}
    lonely = [str(path.relative_to(folder)) for path, uid in tree.segmentations.items() if uid not in tree.series]
    notices = [f"DICOM segmentations whose series are not here, left out: {', '.join(lonely)}."] if lonely else []
    if alone := len(tree.series) - len(pairs):
        notices.append(f"{alone} DICOM series without a segmentation, left out.")
    names = _names_in_tree(folder, [(tree.series[uid], path) for uid, path in pairs.items()])
    cases = [CaseFiles(name, tree.series[uid], path, uid) for name, (uid, path) in zip(names, pairs.items())]
    return tuple(sorted(cases, key=lambda case: case.name)), tuple(notices)


def _names_in_tree(folder: Path, cases: list[tuple[Path, Path]]) -> list[str]:
    """A name for each case (the folder of its series, its segmentation): the shortest part of a path that differs."""
    images = [image.relative_to(folder).parts or (image.name,) for image, _ in cases]
    label_maps = [path.relative_to(folder).with_suffix("").parts for _, path in cases]
    kinds = ([parts[0] for parts in images], ["_".join(parts) for parts in images])
    return next((names for names in kinds if len(set(names)) == len(cases)), ["_".join(parts) for parts in label_maps])


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


def _by_case(files: Iterable[VolumeFile], case_of: dict[Path, str]) -> dict[str, Path]:
    """Paths by case. Raises InputError where two files are of one case."""
    found: dict[str, VolumeFile] = {}
    for file in files:
        case = case_of[file.path]
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


def _label_names(description: dict[str, Any], path: Path) -> dict[int, str]:
    """Value to name, from {"1": "Anterior"} (Decathlon, nnU-Net v1) or {"Anterior": 1} (nnU-Net v2).

    Raises InputError where a value means something else than one structure.
    """
    given = description.get("labels") or {}
    names: dict[int, str] = {}
    try:
        for key, value in given.items():
            number, name = (int(key), value) if str(key).isdecimal() else (value, key)
            if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str):
                raise TypeError(f"{key!r}: {value!r}")
            if number in names:
                raise ValueError(f"{names[number]!r} and {name!r} are both {number}")
            names[number] = name
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} has labels that cannot be read ({error}); give one value for each name, as in "
            '{"background": 0, "liver": 1}.'
        ) from error
    value_of: dict[str, int] = {}
    for number, name in names.items():
        key = name_key(name)
        if key == IGNORE and number == 0:
            raise InputError(f"{str(path)!r} names 0 {name!r}, but the background is 0; renumber the labels.")
        if (key == BACKGROUND) != (number == 0) and BACKGROUND in map(name_key, names.values()):
            raise InputError(f"{str(path)!r} names {number} {name!r}, but the background is 0; renumber the labels.")
        if value_of.setdefault(key, number) != number:
            raise InputError(f"{str(path)!r} gives {name!r} the values {value_of[key]} and {number}; keep one of them.")
    return names


def _pop_ignored(names: dict[int, str]) -> int | None:
    """The value that is named "ignore", as in nnU-Net's data; it is no structure, and taken out of `names`."""
    value = next((number for number, name in names.items() if name_key(name) == IGNORE), None)
    if value is not None:
        del names[value]
    return value


def _as_text(value: Any) -> str:
    """ "MRI", ["MRI"] and {"0": "MRI"} are all "MRI"."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value or "")
