"""The series of DICOM studies: where each is, and what it is called."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .content import holds_dicom
from .dicom import images_by_series
from .dicom_frames import TAGS
from .dicom_tags import tag_text

_STUDY_TAGS = ("StudyInstanceUID", "PatientID")  # which tell studies apart, and are not shown


@dataclass(frozen=True)
class StudySeries:
    """A series of images in a folder, which may hold others. study: the same for all series of one study.

    names: what it may be called, at least one text: its description, else its protocol; its modality; the name of the
    folder if it lies there alone.
    """

    folder: Path
    uid: str
    study: tuple[str, ...]
    modality: str
    description: str
    names: tuple[str, ...]
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"{self.description!r} ({self.modality or '?'}, {len(self.files)} files, in {str(self.folder)!r})"


def series_of(folder: Path) -> list[StudySeries]:
    """Those whose slices lie directly in the folder, in the order of their names. Raises InputError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are not used here
        found, _ = images_by_series(folder, (*TAGS, "ProtocolName", *_STUDY_TAGS))
    listed = []
    for uid, images in found.items():
        header = images[0][1]
        study = tuple(tag_text(header, tag) for tag in _STUDY_TAGS)
        modality = tag_text(header, "Modality")
        title = tag_text(header, "SeriesDescription") or tag_text(header, "ProtocolName")
        names = (title, "PET" if modality == "PT" else modality, folder.absolute().name if len(found) == 1 else "")
        description = title or "no description"
        # Studies that were made anonymous may have lost what tells them apart.
        study = study if study[0] else ("", str(folder.parent))
        files = tuple(path for path, _ in images)
        listed.append(StudySeries(folder, uid, study, modality, description, tuple(filter(None, names)), files))
    return sorted(listed, key=lambda series: (series.description, series.uid))


def dicom_folders(folder: Path) -> Iterator[Path]:
    """The folder itself if DICOM files lie in it, else all below that hold some, but hidden ones."""
    if holds_dicom(folder):
        yield folder
        return
    for path, folders, _files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if path != str(folder) and holds_dicom(Path(path)):
            yield Path(path)
