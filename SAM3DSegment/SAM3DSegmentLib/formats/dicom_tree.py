"""Which DICOM series and segmentations lie in a folder and all folders below it, and which belong together."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from ..base.errors import InputError
from ..geometry import Grid
from .content import SEGMENTATION_CLASSES, STRUCTURE_SET_CLASS, is_dicom
from .dicom import read_series_grid
from .dicom_tags import kinds_of_object, may_be_image, tag_items, tag_text

_FRAMES = "ReferencedFrameOfReferenceSequence"
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "ReferencedSeriesSequence", _FRAMES]


@dataclass
class DicomTree:
    """The folder of each series, by its UID; of each segmentation or structure set (contours) the UID of its series.

    That is "" where it cannot be told.
    """

    series: dict[str, Path] = field(default_factory=dict)
    segmentations: dict[Path, str] = field(default_factory=dict)

    @cached_property
    def by_series(self) -> dict[str, Path]:
        """The segmentation of each series that one names. Raises InputError where two do."""
        found: dict[str, Path] = {}
        for path, uid in self.segmentations.items():
            other = found.setdefault(uid, path) if uid else path
            if other != path:
                raise InputError(f"{str(other)!r} and {str(path)!r} both belong to one DICOM series; keep one of them.")
        return found


def find_in_tree(folder: Path) -> DicomTree:
    """Raises InputError for a series that lies in two folders. Files that cannot be read are left out.

    A structure set is of the first series that it names and that is here; if it names none, of the only one in its
    frame of reference.
    """
    found = DicomTree()
    in_frames: dict[str, set[str]] = {}  # the UIDs of the series in each frame of reference
    headers: dict[Path, Dataset] = {}  # of structure sets
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not is_dicom(path):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        except Exception:  # pydicom raises what its parts raise; of a slice it is told when its series is read
            continue
        uid = tag_text(header, "SeriesInstanceUID")
        if (kind := tag_text(header, "SOPClassUID")) in SEGMENTATION_CLASSES:
            named = tag_items(header, "ReferencedSeriesSequence")
            found.segmentations[path] = tag_text(named[0], "SeriesInstanceUID") if named else ""
        elif kind == STRUCTURE_SET_CLASS:
            headers[path] = header
        elif "Rows" in header and all(map(may_be_image, kinds_of_object(header))):
            other = found.series.setdefault(uid, path.parent)
            if other != path.parent:
                raise InputError(
                    f"{str(other)!r} and {str(path.parent)!r} both hold slices of the DICOM series {uid}; put them "
                    "into one folder, or remove the copy."
                )
            if frame := tag_text(header, "FrameOfReferenceUID"):
                in_frames.setdefault(frame, set()).add(uid)
    for path, structure_set in headers.items():
        found.segmentations[path] = _series_of(structure_set, found.series, in_frames)
    return found


def _series_of(structure_set: Dataset, series: Container[str], in_frames: Mapping[str, set[str]]) -> str:
    """The UID of the series on which it is drawn, "" if that cannot be told."""
    frames = tag_items(structure_set, _FRAMES)
    studies = [study for frame in frames for study in tag_items(frame, "RTReferencedStudySequence")]
    items = [item for study in studies for item in tag_items(study, "RTReferencedSeriesSequence")]
    named = [tag_text(item, "SeriesInstanceUID") for item in items]
    if not any(named):
        named = [uid for frame in frames for uid in in_frames.get(tag_text(frame, "FrameOfReferenceUID"), ())]
        return named[0] if len(named) == 1 else ""
    return next((uid for uid in named if uid in series), named[0])


@dataclass(frozen=True)
class DicomTrees:
    """Some folders and all below them, searched once, when the first question is asked."""

    folders: tuple[Path, ...]

    @cached_property
    def _trees(self) -> list[DicomTree]:
        return [find_in_tree(folder) for folder in self.folders]

    def match(self) -> list[dict[str, Path]]:
        """The segmentations of each folder; those of one series have one name, of the first folder.

        Raises InputError where two of a folder are of one series.
        """
        found = [(folder, tree.by_series) for folder, tree in zip(self.folders, self._trees)]
        names: dict[str, str] = {}
        for folder, segmentations in found:
            for uid, path in segmentations.items():
                names.setdefault(uid, "_".join(path.relative_to(folder).with_suffix("").parts))
        return [{names[uid]: path for uid, path in segmentations.items()} for _, segmentations in found]

    def grid_of(self, path: Path) -> Grid:
        """Of the series on which a structure set is drawn. Raises InputError if that is not there."""
        uid = next((tree.segmentations[path] for tree in self._trees if path in tree.segmentations), "")
        folder = next((tree.series[uid] for tree in self._trees if uid in tree.series), None)
        if folder is None:
            places = " or ".join(repr(str(one)) for one in self.folders)
            raise InputError(
                f"{str(path)!r} holds contours, and the DICOM series on which they are drawn, {uid!r}, is not below "
                f"{places}; put it there."
            )
        return read_series_grid(folder, uid)
