"""Labelled volumes on disk, as people have them: which file is the image, and which the label map, of each case.

Understood are the Medical Segmentation Decathlon and nnU-Net's raw data (`imagesTr`, `labelsTr`, `dataset.json`), a
folder of image and label pairs (`case.nii.gz` or `case_image.nii.gz` with `case_label.nii.gz` or `case.seg.nrrd`), a
folder for each case, with a file for each channel, and a tree of DICOM series and their segmentations, in any folders.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..base.errors import InputError, require
from ..formats.channels import NUMBER, ChannelFile
from ..formats.content import is_dangling, missing_content, visible_files
from ..formats.segments import BACKGROUND, name_key
from ..formats.volumes import VolumeFile, list_volume_files, volume_name
from .case_files import CaseFiles, Dataset
from .description import DESCRIPTION, as_text, channel_names, label_names, pop_ignored, read_description
from .patients import frame_name, patients_of, read_frames, read_patients

_LABEL_ENDING = re.compile(r"[-_ .](labels?|seg|segmentation|mask)$", re.IGNORECASE)
_IMAGE_ENDING = re.compile(r"[-_ .](images?|img|volume|vol)$", re.IGNORECASE)


Pairs = tuple[tuple[CaseFiles, ...], tuple[str, ...]]  # cases, notices


def find_dataset(folder: str | Path, least: int = 2) -> Dataset:
    """The labelled cases of a folder. Raises InputError naming what is missing, or given twice; or for fewer cases."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    description = read_description(folder / DESCRIPTION)
    numbered = channel_names(description)
    if _has_image_and_label_folders(folder):
        cases, notices = _pair_folders(folder, numbered)
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
    names = label_names(description, folder / DESCRIPTION)
    ignore = pop_ignored(names)
    background = names.pop(0, BACKGROUND)
    if name_key(background) != BACKGROUND:
        notices += (f"{DESCRIPTION} names the value 0 {background!r}; it is taken as the background.",)
    cases = _with_frames(cases, read_frames(description, folder / DESCRIPTION))
    stated = read_patients(description, folder / DESCRIPTION)
    patients, strange = patients_of([case.name for case in cases], stated)
    if strange:
        notices += (f"{DESCRIPTION} names the patients of cases that are not here: {', '.join(strange[:5])}.",)
    channels = _channels_of(cases)
    return Dataset(
        folder,
        cases if channels else tuple(replace(case, parts=()) for case in cases),
        names,
        "" if channels else as_text(description.get("modality") or description.get("channel_names")),
        as_text(description.get("licence") or description.get("license")),
        notices,
        ignore,
        channels,
        patients,
    )


def _with_frames(cases: tuple[CaseFiles, ...], frames: dict[str, tuple[int, ...]]) -> tuple[CaseFiles, ...]:
    """The cases; of each that has frames these instead."""
    found: list[CaseFiles] = []
    for case in cases:
        numbers = frames.get(case.name)
        require(
            numbers is None or all(part.place is None for part in case.parts),
            f"{DESCRIPTION} gives {case.name!r} frames and several channels, which both are its last axis; keep one.",
        )
        found += [case] if numbers is None else [replace(case, name=frame_name(case.name, n), frame=n) for n in numbers]
    return tuple(found)


def new_case_files(folder: str | Path, name: str, channels: Sequence[str] = ()) -> CaseFiles:
    """Where a new case has to be written to be found: into the layout that `folder` has, else as a pair of files.

    channels: the names of several; without a layout they get a folder for each case. Raises InputError for names that
    would be taken for something else, and if the cases that are there have other channels.
    """
    folder = Path(folder)
    if not re.fullmatch(r"\w[\w .-]*", name) or name != name.strip(" .") or _LABEL_ENDING.search(name):
        raise InputError(
            f"{name!r} cannot name a case; use letters, digits, blanks, - and _, and no ending such as _label."
        )
    if _has_image_and_label_folders(folder):
        name = NUMBER.sub("", name)
        images, labels = folder / "imagesTr", folder / "labelsTr"
    elif not list_volume_files(folder) and _pair_in_subfolders(folder)[0]:
        images = labels = folder / name
    else:
        images = labels = folder
    if channels:
        return _new_case_of_channels(folder, name, channels)
    return CaseFiles(name, images / f"{name}.nrrd", labels / f"{name}.seg.nrrd")


def _new_case_of_channels(folder: Path, name: str, channels: Sequence[str]) -> CaseFiles:
    for channel in channels:
        require(
            re.fullmatch(r"\w[\w .-]*", channel) is not None and not _LABEL_ENDING.search(f"_{channel}"),
            f"{channel!r} cannot name a channel; use letters, digits, blanks, - and _, and no name such as label.",
        )
    if _has_image_and_label_folders(folder):
        images, labels = folder / "imagesTr", folder / "labelsTr"
        names = [f"{name}_{number:04d}" for number in range(len(channels))]
    else:
        require(
            not list_volume_files(folder),
            f"{str(folder)!r} has cases of one channel; choose another folder for {', '.join(channels)}.",
        )
        images = labels = folder / name
        names = list(channels)
    parts = tuple(ChannelFile(channel, images / f"{file}.nrrd") for channel, file in zip(channels, names))
    return CaseFiles(name, parts[0].path, labels / f"{name}.seg.nrrd", parts=parts)


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


def _pair_folders(folder: Path, numbered: Mapping[int, str]) -> Pairs:
    """imagesTr/case.nii.gz or case_0000.nii.gz, labelsTr/case.nii.gz."""
    images_folder, labels_folder = folder / "imagesTr", folder / "labelsTr"
    for needed in (images_folder, labels_folder):
        if not needed.is_dir():
            raise InputError(
                f"folder {str(needed)!r} does not exist; put images into imagesTr and label maps of the same "
                f"names into labelsTr of {str(folder)!r}."
            )
    return _pair(list_volume_files(images_folder), list_volume_files(labels_folder), numbered)


def _pair_files(files: list[VolumeFile]) -> Pairs:
    """case.nii.gz with case_label.nii.gz, case-segmentation.seg.nrrd, case.seg.nrrd and the like."""
    return _pair(*_images_and_label_maps(files))


def _images_and_label_maps(files: list[VolumeFile]) -> tuple[list[VolumeFile], list[VolumeFile]]:
    return [file for file in files if not _is_label_map(file)], [file for file in files if _is_label_map(file)]


def _pair(images: list[VolumeFile], label_maps: list[VolumeFile], numbered: Mapping[int, str] | None = None) -> Pairs:
    """numbered: the names of nnU-Net's channels; None where no file's name has a number of one."""
    case_of = _cases_of(images, label_maps, has_channels=numbered is not None)
    of_case = {name: _as_channels(name, files, numbered or {}) for name, files in _grouped(images, case_of).items()}
    return _match(of_case, {name: _only(name, files) for name, files in _grouped(label_maps, case_of).items()})


def _cases_of(
    images: list[VolumeFile], label_maps: list[VolumeFile], has_channels: bool, known: Collection[str] = ()
) -> dict[Path, str]:
    """The case that each file is of: of its own name, or without an ending such as _label where both then agree.

    has_channels: whether an image's name may end in nnU-Net's number of a channel. known: cases that there are besides.
    """
    endings = (NUMBER, _IMAGE_ENDING) if has_channels else (_IMAGE_ENDING,)
    names = {file.path: [file.name, *(ending.sub("", file.name) for ending in endings)] for file in images}
    of_images = {name for candidates in names.values() for name in candidates} | set(known)
    case_of = {file.path: _first_in(of_images, [file.name, _LABEL_ENDING.sub("", file.name)]) for file in label_maps}
    of_labels = {*case_of.values(), *known}
    return case_of | {path: _first_in(of_labels, candidates) for path, candidates in names.items()}


def _first_in(known: Collection[str], names: list[str]) -> str:
    """The first of `names` that is known, else the first."""
    return next((name for name in names if name in known), names[0])


def _pair_in_subfolders(folder: Path) -> Pairs:
    """case/any.nrrd with case/any.seg.nrrd or case/any_label.nrrd: a label map in each folder, and an image.

    Several images are channels: case/t1.nrrd and case/t2.nrrd, or case/case_t1.nrrd and case/case_t2.nrrd.
    """
    cases = []
    notices = [f"{path.name} {missing_content(path)}" for path in visible_files(folder) if is_dangling(path)]
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = list_volume_files(inner)
        label_maps = [file.path for file in files if _is_label_map(file)]
        images = [file.path for file in files if file.path not in label_maps]
        if images and len(label_maps) == 1:
            parts = tuple(ChannelFile(_name_in_folder(path, inner.name), path) for path in images)
            cases.append(CaseFiles(inner.name, images[0], label_maps[0], parts=parts))
        elif files:
            notices.append(f"{inner.name} has {len(images)} images and {len(label_maps)} label maps, not one of each.")
    return tuple(cases), tuple(notices)


def _name_in_folder(path: Path, folder: str) -> str:
    """Of a channel: the file's name without the case's in front of it."""
    name = volume_name(path)
    return name.removeprefix(folder).lstrip("-_ .") or name


def _pair_series(folder: Path) -> Pairs:
    """Each DICOM segmentation below `folder` with the series that it names, by UIDs; wherever they lie."""
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


def _channels_of(cases: tuple[CaseFiles, ...]) -> tuple[str, ...]:
    """The names of all channels that cases have; () if no case has more than one."""
    if all(len(case.parts) < 2 for case in cases):
        return ()
    return tuple(dict.fromkeys(part.name for case in cases for part in case.parts if part.name))


def _is_label_map(file: VolumeFile) -> bool:
    return file.is_segmentation or _LABEL_ENDING.search(file.name) is not None
