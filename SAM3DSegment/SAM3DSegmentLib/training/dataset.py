"""Labelled volumes on disk, as people have them: which file is the image, and which the label map, of each case.

Understood are the Medical Segmentation Decathlon and nnU-Net's raw data (`imagesTr`, `labelsTr`, `dataset.json`), a
folder of image and label pairs (`case.nii.gz` or `case_image.nii.gz` with `case_label.nii.gz` or `case.seg.nrrd`), a
folder for each case, with a file for each channel, and a tree of DICOM series and their segmentations (SEG, RTSTRUCT),
in any folders.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..base.errors import InputError
from ..formats.segments import BACKGROUND, name_key
from ..formats.volumes import VolumeFolder
from .case_files import Dataset, channels_of, with_frames
from .description import DESCRIPTION, Description
from .pairing import find_pairs, is_label_map, pair_files
from .patients import patients_of


def find_dataset(folder: str | Path, least: int = 2) -> Dataset:
    """The labelled cases of a folder. Raises InputError naming what is missing, or given twice; or for fewer cases."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    said = Description.read(folder / DESCRIPTION)
    cases, notices = find_pairs(folder, said.channels)
    if not cases:
        from ..formats.dicom_tree import find_in_tree  # pydicom is loaded where there is DICOM
        from .series import pair_series

        tree = find_in_tree(folder)
        cases, more = pair_series(folder, tree)
        notices = more if cases else (*notices, *more)
    if len(cases) < least:
        raise InputError(
            f"{str(folder)!r} has {len(cases)} labelled cases; at least {least} are needed, 5 to 20 are good. "
            + (" ".join(notices[:2]) or "Put images into imagesTr, and label maps of the same names into labelsTr.")
        )
    if name_key(said.background) != BACKGROUND:
        notices += (f"{DESCRIPTION} names the value 0 {said.background!r}; it is taken as the background.",)
    channels = channels_of(cases)
    cases = with_frames(cases, said.frames)
    patients, strange = patients_of([case.name for case in cases], said.patients)
    if strange:
        notices += (f"{DESCRIPTION} names the patients of cases that are not here: {', '.join(strange[:5])}.",)
    return Dataset(
        folder,
        cases if channels else tuple(replace(case, parts=()) for case in cases),
        said.labels,
        "" if channels else said.modality,
        said.licence,
        notices,
        said.ignore,
        channels,
        patients,
    )


def images_without_labels(folder: Path) -> list[Path]:
    """The volume files directly in a folder beside which there is no segmentation, by name. Raises InputError."""
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    files = VolumeFolder(folder).files
    drawn = {case.image for case in pair_files(files)[0]}
    return [file.path for file in files if not is_label_map(file) and file.path not in drawn]
