"""The slices that a DICOM file holds: one, or the frames of a multi-frame file; each with its own place in space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ..base.errors import InputError
from .dicom_tags import quoted, tag_as_stated, tag_items, tag_number, tag_numbers, tag_text
from .header import MAGNITUDES, SLOPES, SPACINGS, check_spacing

# None of them describes the patient.
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "Rows",
    "Columns", "BitsAllocated", "NumberOfFrames", "SamplesPerPixel", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept",
    "TemporalPositionIdentifier", "TriggerTime", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
# What may tell the order of slices at one position in time, the most certain first.
_TIMES = ("TemporalPositionIndex", "NominalCardiacTriggerDelayTime", "TemporalPositionIdentifier", "TriggerTime")
_RAW = {"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}  # transfer syntaxes without compression


@dataclass(frozen=True)
class Frame:
    """A slice: position of its first voxel (LPS, mm), directions of rows and columns, and spacing along them in mm."""

    path: Path
    number: int  # in its file
    size: tuple[int, int]  # rows, columns
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: np.ndarray  # between rows, between columns
    thickness: float | None  # in mm, the distance to the next slice according to the header
    uid: str
    times: tuple[float | None, ...] = ()  # by each of the tags that may tell the order in time


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """Raises InputError for a file that is no stack of scalar slices, or does not say where they lie."""
    if "MOSAIC" in tag_text(header, "ImageType").upper():
        raise InputError(
            f"{str(path)!r} is a Siemens mosaic, all slices of a volume as tiles of one picture; convert it with "
            "dcm2niix, or load it in 3D Slicer and give the volume that Slicer saves."
        )
    if (tag_number(header, "SamplesPerPixel") or 1) != 1:
        raise InputError(f"{str(path)!r} is a colour image; give a series of scalar slices.")
    count = int(tag_number(header, "NumberOfFrames") or 1)  # a wrong one is noticed when the pixels are read
    size = _size(path, header, count)
    per_frame = tag_items(header, "PerFrameFunctionalGroupsSequence")
    if not per_frame:
        if count > 1:
            raise InputError(
                f"{str(path)!r} has several frames without positions; load it in 3D Slicer and give the volume that "
                "Slicer saves."
            )
        _check_slope(path, header)
        return [_frame(path, 0, size, [header], header)]
    shared = (tag_items(header, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if len(per_frame) != count:
        raise InputError(
            f"{str(path)!r} describes {len(per_frame)} frames but has a different number; export it again."
        )
    _check_one_slope(path, [*per_frame, shared])
    return [
        _frame(path, number, size, [part for group in (groups, shared) for part in _parts(group)], header)
        for number, groups in enumerate(per_frame)
    ]


def _size(path: Path, header: Dataset, count: int) -> tuple[int, int]:
    """Rows and columns. Raises InputError if the file cannot hold `count` frames of that size, before they are read."""
    found = []
    for name in ("Rows", "Columns", "BitsAllocated"):
        number = tag_number(header, name)
        if number is None or not 1 <= number < 2**16:
            raise InputError(f"{str(path)!r} has no valid size ({quoted(header, name)}); export the series again.")
        found.append(int(number))
    rows, columns, bits = found
    beginning = getattr(header, "file_meta", Dataset())
    is_raw = tag_text(beginning, "TransferSyntaxUID") in _RAW
    if is_raw and rows * columns * count * bits > 8 * path.stat().st_size:
        raise InputError(
            f"{str(path)!r} is cut short: its header declares {count} frames of {columns} x {rows} pixels; copy or "
            "export it again."
        )
    return rows, columns


def _parts(group: Dataset) -> list[Dataset]:
    """The data sets within a functional group of a multi-frame file."""
    names = (
        *("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"),
        *("FrameContentSequence", "CardiacSynchronizationSequence"),
    )
    return [part for name in names for part in tag_items(group, name)[:1]]


def _check_slope(path: Path, data: Dataset) -> tuple[float, float]:
    """Slope and intercept of stored values. Raises InputError for one with which SimpleITK would compute nonsense."""
    found = []
    for name, default, least, most in (("RescaleSlope", 1.0, *SLOPES), ("RescaleIntercept", 0.0, 0.0, MAGNITUDES[1])):
        number = tag_number(data, name) if tag_as_stated(data, name) else default
        if number is None or not least <= abs(number) <= most:
            raise InputError(f"{str(path)!r} has no valid scale ({quoted(data, name)}); export the series again.")
        found.append(number)
    return found[0], found[1]


def _check_one_slope(path: Path, groups: list[Dataset]) -> None:
    """SimpleITK scales all frames by the first one's slope and intercept."""
    slopes = {
        _check_slope(path, part) for group in groups for part in tag_items(group, "PixelValueTransformationSequence")
    }
    if len(slopes) > 1:
        raise InputError(
            f"{str(path)!r} has frames with {len(slopes)} different slopes (DICOM tag 0028,1053); convert it to single "
            "slices, for example with dcm2niix or the scanner's export."
        )


def _frame(path: Path, number: int, size: tuple[int, int], sources: list[Dataset], header: Dataset) -> Frame:
    """A frame from the data sets that may describe it, the most specific one first."""

    def numbers(name: str, count: int, what: str) -> np.ndarray:
        source = next((source for source in sources if tag_as_stated(source, name)), header)
        found = tag_numbers(source, name)
        if found is None or len(found) != count:
            raise InputError(
                f"{str(path)!r} has no valid {what} ({quoted(source, name)}); export the series again from the scanner "
                "or PACS."
            )
        return found

    spacing = numbers("PixelSpacing", 2, "pixel spacing")
    check_spacing(path, "PixelSpacing", spacing.tolist())
    stated = (tag_number(source, name) for name in ("SpacingBetweenSlices", "SliceThickness") for source in sources)
    return Frame(
        path,
        number,
        size,
        numbers("ImagePositionPatient", 3, "position"),
        numbers("ImageOrientationPatient", 6, "orientation"),
        spacing,
        next((thickness for thickness in stated if thickness and SPACINGS[0] <= thickness <= SPACINGS[1]), None),
        tag_text(header, "SOPInstanceUID") or path.name,
        tuple(
            next((time for source in sources if (time := tag_number(source, name)) is not None), None)
            for name in _TIMES
        ),
    )
