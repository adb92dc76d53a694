"""Where the files of a new case belong, so that it is found among the cases of a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import InputError
from ..formats.channels import NUMBER, ChannelFile
from ..formats.volumes import VolumeFolder
from .case_files import CaseFiles
from .pairing import LABEL_ENDING, cases_of, has_image_and_label_folders, images_and_label_maps, pair_in_subfolders


def new_case_files(folder: str | Path, name: str, channels: Sequence[str] = ()) -> CaseFiles:
    """Where a new case has to be written to be found: into the layout that `folder` has, else as a pair of files.

    channels: the names of several; without a layout they get a folder for each case. Raises InputError for names that
    would be taken for something else, and if the cases that are there have other channels.
    """
    folder = Path(folder)
    if not re.fullmatch(r"\w[\w .-]*", name) or name != name.strip(" .") or LABEL_ENDING.search(name):
        raise InputError(
            f"{name!r} cannot name a case; use letters, digits, blanks, - and _, and no ending such as _label."
        )
    if has_image_and_label_folders(folder):
        name = NUMBER.sub("", name)
        images, labels = folder / "imagesTr", folder / "labelsTr"
    elif not (content := VolumeFolder(folder)).files and pair_in_subfolders(content)[0]:
        images = labels = folder / name
    else:
        images = labels = folder
    if channels:
        return _new_case_of_channels(folder, name, channels)
    return CaseFiles(name, images / f"{name}.nrrd", labels / f"{name}.seg.nrrd")


def _new_case_of_channels(folder: Path, name: str, channels: Sequence[str]) -> CaseFiles:
    for channel in channels:
        if not re.fullmatch(r"\w[\w .-]*", channel) or LABEL_ENDING.search(f"_{channel}"):
            raise InputError(
                f"{channel!r} cannot name a channel; use letters, digits, blanks, - and _, and no name such as label."
            )
    if has_image_and_label_folders(folder):
        images, labels = folder / "imagesTr", folder / "labelsTr"
        names = [f"{name}_{number:04d}" for number in range(len(channels))]
    else:
        if VolumeFolder(folder).files:
            raise InputError(
                f"{str(folder)!r} has cases of one channel; choose another folder for {', '.join(channels)}."
            )
        images = labels = folder / name
        names = list(channels)
    parts = tuple(ChannelFile(channel, images / f"{file}.nrrd") for channel, file in zip(channels, names))
    return CaseFiles(name, parts[0].path, labels / f"{name}.seg.nrrd", parts=parts)


def files_of_case(files: CaseFiles) -> list[Path]:
    """The volumes that a case of this name has already, whatever their endings: they would be lost, or be it twice."""
    folders = (files.image.parent, files.label_map.parent)
    found = {folder: VolumeFolder(folder).files if folder.is_dir() else [] for folder in folders}
    if files.image.parent.name == files.name:  # a folder for each case
        return [file.path for file in found[files.image.parent]]
    if len(found) == 1:
        images, label_maps = images_and_label_maps(found[files.image.parent])
    else:
        images, label_maps = (found[folder] for folder in folders)
    case_of = cases_of(images, label_maps, has_channels=len(found) == 2, known={files.name})
    return sorted(path for path, case in case_of.items() if case == files.name)
