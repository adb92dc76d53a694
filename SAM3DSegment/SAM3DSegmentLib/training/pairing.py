"""Which image and which label map are of one case, told by the names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ..base.errors import InputError
from ..formats.channels import NUMBER, ChannelFile
from ..formats.volumes import VolumeFile, VolumeFolder
from .case_files import CaseFiles

LABEL_ENDING = re.compile(r"[-_ .](labels?|seg|segmentation|mask)$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(r"[-_ .](images?|img|volume|vol)$", re.IGNORECASE)

Pairs = tuple[tuple[CaseFiles, ...], tuple[str, ...]]  # cases, notices


def find_pairs(folder: Path, numbered: Mapping[int, str]) -> Pairs:
    """The cases of a folder in any of the layouts that names show, and what was left out.

    numbered: the names of nnU-Net's channels. Raises InputError for files that are missing or given twice.
    """
    if has_image_and_label_folders(folder):
        return _pair_folders(folder, numbered)
    content = VolumeFolder(folder)
    return pair_files(content.files) if content.files else pair_in_subfolders(content)


def has_image_and_label_folders(folder: Path) -> bool:
    return (folder / "imagesTr").is_dir() or (folder / "labelsTr").is_dir()


def _pair_folders(folder: Path, numbered: Mapping[int, str]) -> Pairs:
    """imagesTr/case.nii.gz or case_0000.nii.gz, labelsTr/case.nii.gz."""
    images_folder, labels_folder = folder / "imagesTr", folder / "labelsTr"
    for needed in (images_folder, labels_folder):
        if not needed.is_dir():
            raise InputError(
                f"folder {str(needed)!r} does not exist; put images into imagesTr and label maps of the same "
                f"names into labelsTr of {str(folder)!r}."
            )
    return _pair(VolumeFolder(images_folder).files, VolumeFolder(labels_folder).files, numbered)


def pair_files(files: list[VolumeFile]) -> Pairs:
    """case.nii.gz with case_label.nii.gz, case-segmentation.seg.nrrd, case.seg.nrrd and the like."""
    return _pair(*images_and_label_maps(files))


def images_and_label_maps(files: list[VolumeFile]) -> tuple[list[VolumeFile], list[VolumeFile]]:
    return [file for file in files if not is_label_map(file)], [file for file in files if is_label_map(file)]


def is_label_map(file: VolumeFile) -> bool:
    return file.is_segmentation or LABEL_ENDING.search(file.name) is not None


def _pair(images: list[VolumeFile], label_maps: list[VolumeFile], numbered: Mapping[int, str] | None = None) -> Pairs:
    """numbered: the names of nnU-Net's channels; None where no file's name has a number of one."""
    case_of = cases_of(images, label_maps, has_channels=numbered is not None)
    of_case = {name: _as_channels(name, files, numbered or {}) for name, files in _grouped(images, case_of).items()}
    return _match(of_case, {name: _only(name, files) for name, files in _grouped(label_maps, case_of).items()})


def cases_of(
    images: list[VolumeFile], label_maps: list[VolumeFile], has_channels: bool, known: Collection[str] = ()
) -> dict[Path, str]:
    """The case that each file is of: of its own name, or without an ending such as _label where both then agree.

    has_channels: whether an image's name may end in nnU-Net's number of a channel. known: cases that there are besides.
    """
    endings = (NUMBER, _IMAGE_ENDING) if has_channels else (_IMAGE_ENDING,)
    names = {file.path: [file.name, *(ending.sub("", file.name) for ending in endings)] for file in images}
    of_images = {name for candidates in names.values() for name in candidates} | set(known)
    case_of = {file.path: _first_in(of_images, [file.name, LABEL_ENDING.sub("", file.name)]) for file in label_maps}
    of_labels = {*case_of.values(), *known}
    return case_of | {path: _first_in(of_labels, candidates) for path, candidates in names.items()}


def _first_in(known: Collection[str], names: list[str]) -> str:
    """The first of `names` that is known, else the first."""
    return next((name for name in names if name in known), names[0])


def pair_in_subfolders(folder: VolumeFolder) -> Pairs:
    """case/any.nrrd with case/any.seg.nrrd or case/any_label.nrrd: a label map in each folder, and an image.

    Several images are channels: case/t1.nrrd and case/t2.nrrd, or case/case_t1.nrrd and case/case_t2.nrrd.
    """
    cases = []
    notices = [f"{path.name} {why}" for path, why in folder.missing.items()]
    for inner in folder.folders:
        name = inner.path.name
        images, label_maps = images_and_label_maps(inner.files)
        if images and len(label_maps) == 1:
            parts = tuple(ChannelFile(_name_in_folder(image, name), image.path) for image in images)
            cases.append(CaseFiles(name, images[0].path, label_maps[0].path, parts=parts))
        elif inner.files:
            notices.append(f"{name} has {len(images)} images and {len(label_maps)} label maps, not one of each.")
    return tuple(cases), tuple(notices)


def _name_in_folder(file: VolumeFile, folder: str) -> str:
    """Of a channel: the file's name without the case's in front of it."""
    return file.name.removeprefix(folder).lstrip("-_ .") or file.name


def _match(images: dict[str, tuple[ChannelFile, ...]], label_maps: dict[str, Path]) -> Pairs:
    cases = tuple(
        CaseFiles(name, images[name][0].path, label_maps[name], parts=images[name])
        for name in sorted(images)
        if name in label_maps
    )
    notices = []
    of_images = {name: channels[0].path for name, channels in images.items()}
    for what, mine, other, theirs in (
        ("image", of_images, "a label map", label_maps),
        ("label map", label_maps, "an image", of_images),
    ):
        lonely = [mine[name].name for name in sorted(mine) if name not in theirs]
        if lonely:
            count = f"{len(lonely)} {what}{'s' if len(lonely) > 1 else ''}"
            notices.append(f"{count} without {other}, left out: {', '.join(lonely)}.")
    return cases, tuple(notices)


def _grouped(files: Iterable[VolumeFile], case_of: dict[Path, str]) -> dict[str, list[VolumeFile]]:
    found: dict[str, list[VolumeFile]] = {}
    for file in files:
        found.setdefault(case_of[file.path], []).append(file)
    return found


def _only(case: str, files: list[VolumeFile]) -> Path:
    """The path of a case's one file. Raises InputError if there are more."""
    if len(files) > 1:
        raise InputError(
            f"{str(files[0].path)!r} and {str(files[1].path)!r} both belong to the case {case!r}; keep one of them."
        )
    return files[0].path


def _as_channels(case: str, files: list[VolumeFile], names: Mapping[int, str]) -> tuple[ChannelFile, ...]:
    """The channels of a case by the numbers in their files' names; one without a number has no name.

    Where `dataset.json` names several they may also be on the last axis of one file, as in the Decathlon.
    """
    numbered_files = [(int(ending[1]), file.path) for file in files if (ending := NUMBER.search(file.name))]
    if len(files) == 1 and not numbered_files:
        path, header = files[0].path, files[0].header if len(names) > 1 else None
        if header is None or header.frames == 1:
            return (ChannelFile("", path),)
        return tuple(ChannelFile(names.get(number, f"{number:04d}"), path, number) for number in range(header.frames))
    if len({number for number, _ in numbered_files}) < len(files):
        _only(case, files)
    return tuple(ChannelFile(names.get(number, f"{number:04d}"), path) for number, path in sorted(numbered_files))
