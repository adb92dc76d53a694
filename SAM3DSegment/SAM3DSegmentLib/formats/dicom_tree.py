"""Which DICOM series and segmentations lie in a folder and all folders below it, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from ..base.errors import InputError
from .content import is_dicom
from .dicom_seg import SEGMENTATION_CLASSES
from .dicom_tags import kinds_of_object, may_be_image, tag_items, tag_text

_TAGS = ["SOPClassUID", "SeriesInstanceUID", "Rows", "ReferencedSeriesSequence"]


@dataclass
class DicomTree:
    """The folder of each series, by its UID; of each segmentation the UID of the series that it names, "" if none."""

    series: dict[str, Path] = field(default_factory=dict)
    segmentations: dict[Path, str] = field(default_factory=dict)

    def by_series(self) -> dict[str, Path]:
        """The segmentation of each series that one names. Raises InputError where two do."""
        found: dict[str, Path] = {}
        for path, uid in self.segmentations.items():
            other = found.setdefault(uid, path) if uid else path
            if other != path:
                raise InputError(f"{str(other)!r} and {str(path)!r} both belong to one DICOM series; keep one of them.")
        return found


def find_in_tree(folder: Path) -> DicomTree:
    """Raises InputError for a series that lies in two folders. Files that cannot be read are left out."""
    found = DicomTree()
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not is_dicom(path):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        except Exception:  # pydicom raises what its parts raise; of a slice it is told when its series is read
            continue
        if tag_text(header, "SOPClassUID") in SEGMENTATION_CLASSES:
            named = tag_items(header, "ReferencedSeriesSequence")
            found.segmentations[path] = tag_text(named[0], "SeriesInstanceUID") if named else ""
        elif "Rows" in header and all(map(may_be_image, kinds_of_object(header))):
            uid = tag_text(header, "SeriesInstanceUID")
            other = found.series.setdefault(uid, path.parent)
            if other != path.parent:
                raise InputError(
                    f"{str(other)!r} and {str(path.parent)!r} both hold slices of the DICOM series {uid}; put them "
                    "into one folder, or remove the copy."
                )
    return found


def match_by_series(folders: Iterable[Path]) -> list[dict[str, Path]]:
    """The DICOM segmentations of each folder and all below it; those of one series have one name, of the first folder.

    Raises InputError where two of a folder are of one series.
    """
    found = [(folder, find_in_tree(folder).by_series()) for folder in folders]
    names: dict[str, str] = {}
    for folder, segmentations in found:
        for uid, path in segmentations.items():
            names.setdefault(uid, "_".join(path.relative_to(folder).with_suffix("").parts))
    return [{names[uid]: path for uid, path in segmentations.items()} for _, segmentations in found]
