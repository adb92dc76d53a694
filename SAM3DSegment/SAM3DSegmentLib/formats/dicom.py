"""One DICOM series of a folder as a volume: headers by pydicom, pixels by SimpleITK, each slice at its own position.

SimpleITK would stack whatever it finds, evenly between the first and the last slice and in the type of the first, and
ignores the positions of the frames in a multi-frame file; the mask would then lie elsewhere.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ..base.errors import InputError
from ..base.files import last_line
from ..geometry import matrix_from_lps
from .content import is_dicom, visible_files
from .images import readable_by_itk, without_itk_warnings

logger = logging.getLogger(__name__)
logging.getLogger("pydicom").setLevel(logging.ERROR)  # it also logs each of its warnings

TOLERANCE = 0.05  # of the distance between slices, and of unit direction vectors
# None of them describes the patient.
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SpacingBetweenSlices", "SliceThickness", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True)
class _Frame:
    """A slice: position of its first voxel (LPS, mm), directions of rows and columns, and spacing along them in mm."""

    path: Path
    number: int  # in its file
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: np.ndarray  # between rows, between columns
    thickness: float | None  # in mm, the distance to the next slice according to the header
    uid: str


def read_series(folder: Path, series_uid: str | None = None) -> tuple[np.ndarray, np.ndarray, str]:
    """Voxels (K, J, I), rescaled as each slice says, ijk_to_ras and modality ("CT", "MR") of the folder's series.

    Raises InputError if there are several and `series_uid` chooses none, or if the slices are not a regular stack.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are not used here or are checked here
        headers = _choose(_series(folder), folder, series_uid)
        frames = [frame for path, header in headers for frame in _frames(path, header)]
    if 1 < len(headers) < len(frames):
        raise InputError(
            f"folder {str(folder)!r} holds a series of {len(headers)} files with several frames each; "
            "put one of them into a folder of its own."
        )
    frames, matrix = _stack(_without_copies(frames, folder), folder)
    with without_itk_warnings():
        pixels = {path: _read_pixels(path) for path in dict.fromkeys(frame.path for frame in frames)}
    if len(sizes := {part.shape[1:] for part in pixels.values()}) > 1:
        raise InputError(f"folder {str(folder)!r} mixes slices of the sizes {sorted(sizes)}; keep one stack only.")
    # Where slices differ in type, because each has its own slope, the widest type is taken.
    voxels = np.stack([pixels[frame.path][frame.number] for frame in frames])
    return voxels, matrix, str(headers[0][1].get("Modality") or "")


def _series(folder: Path) -> dict[str, list[tuple[Path, Dataset]]]:
    """The headers of all images in the folder, by series; other files (reports, contours, DICOMDIR) are skipped."""
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in filter(is_dicom, visible_files(folder)):
        header = _read_header(path)
        if "Rows" in header:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
        elif _is_image_class(header):
            raise InputError(f"{str(path)!r} is cut short; export the series again.")
    return found


def _read_header(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({last_line(error)}); check the file.") from error
    except Exception as error:  # pydicom raises what its parts raise
        raise InputError(
            f"{str(path)!r} is not a complete DICOM file ({last_line(error)}); export it again."
        ) from error


def _is_image_class(header: Dataset) -> bool:
    """Whether a file should hold an image by its class, or is cut off before its class."""
    uid = UID(header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or "")
    return "Image Storage" in uid.name or (len(header) == 0 and uid.name == uid)  # an unknown class has no name


def nothing_found(folder: Path) -> InputError:
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return InputError(
        f"folder {str(folder)!r} holds no volume file and no DICOM series; give the folder that the files are in"
        + (f" (its subfolders {', '.join(folders[:5])} are not searched)." if folders else ".")
    )


def _choose(
    series: dict[str, list[tuple[Path, Dataset]]], folder: Path, series_uid: str | None
) -> list[tuple[Path, Dataset]]:
    if not series:
        raise nothing_found(folder)
    if series_uid is None and len(series) == 1:
        return next(iter(series.values()))
    if series_uid in series:
        return series[series_uid]
    listed = "; ".join(
        f"{uid} ({headers[0][1].get('Modality', '?')}, {headers[0][1].get('SeriesDescription') or 'no description'}, "
        f"{len(headers)} slices)"
        for uid, headers in series.items()
    )
    asked = "" if series_uid is None else f" and none is {series_uid!r}"
    raise InputError(
        f"folder {str(folder)!r} holds {len(series)} DICOM series{asked}; choose one with --series UID: {listed}."
    )


def _frames(path: Path, header: Dataset) -> list[_Frame]:
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{str(path)!r} is a colour image; give a series of scalar slices.")
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        if int(header.get("NumberOfFrames") or 1) > 1:
            raise InputError(
                f"{str(path)!r} has several frames without positions; load it in 3D Slicer and give the volume that "
                "Slicer saves."
            )
        return [_frame(path, 0, [header], header)]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if len(per_frame) != int(header.get("NumberOfFrames") or 1):
        raise InputError(
            f"{str(path)!r} describes {len(per_frame)} frames but has a different number; export it again."
        )
    _check_one_slope(path, per_frame)
    return [
        _frame(path, number, [part for group in (groups, shared) for part in _parts(group)], header)
        for number, groups in enumerate(per_frame)
    ]


def _parts(group: Dataset) -> list[Dataset]:
    """The data sets within a functional group of a multi-frame file."""
    names = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    return [group[name].value[0] for name in names if group.get(name)]


def _check_one_slope(path: Path, per_frame: Any) -> None:
    """SimpleITK scales all frames by the first one's slope and intercept."""
    slopes = {
        (float(part.get("RescaleSlope", 1)), float(part.get("RescaleIntercept", 0)))
        for groups in per_frame
        for part in groups.get("PixelValueTransformationSequence", [])
    }
    if len(slopes) > 1:
        raise InputError(
            f"{str(path)!r} has frames with {len(slopes)} different slopes (DICOM tag 0028,1053); convert it to single "
            "slices, for example with dcm2niix or the scanner's export."
        )


def _frame(path: Path, number: int, sources: list[Dataset], header: Dataset) -> _Frame:
    """A frame from the data sets that may describe it, the most specific one first."""

    def numbers(name: str, count: int, what: str) -> np.ndarray:
        value = next((source.get(name) for source in sources if source.get(name) is not None), None)
        tag = str(pydicom.tag.Tag(name)).strip("()")
        try:
            found = np.atleast_1d(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError):
            found = np.array([np.nan])
        if found.shape != (count,) or not np.isfinite(found).all():
            raise InputError(
                f"{str(path)!r} has no valid {what} (DICOM tag {tag}, {name}); export the series again from the "
                "scanner or PACS."
            )
        return found

    spacing = numbers("PixelSpacing", 2, "pixel spacing")
    if (spacing <= 0).any():
        raise InputError(f"{str(path)!r} has PixelSpacing {spacing.tolist()}; export the series again.")
    thickness = next(
        (
            float(value)
            for name in ("SpacingBetweenSlices", "SliceThickness")
            for source in sources
            if (value := source.get(name)) is not None and float(value) > 0
        ),
        None,
    )
    return _Frame(
        path,
        number,
        numbers("ImagePositionPatient", 3, "position"),
        numbers("ImageOrientationPatient", 6, "orientation"),
        spacing,
        thickness,
        str(header.get("SOPInstanceUID", path.name)),
    )


def _without_copies(frames: list[_Frame], folder: Path) -> list[_Frame]:
    """Each frame once: a folder may hold a file under two names."""
    kept = {(frame.uid, frame.number, tuple(frame.position)): frame for frame in frames}
    if len(kept) < len(frames):
        logger.warning("%d files in %r are copies of others; they are left out.", len(frames) - len(kept), str(folder))
    return list(kept.values())


def _stack(frames: list[_Frame], folder: Path) -> tuple[list[_Frame], np.ndarray]:
    """The frames in the order of their positions, and ijk_to_ras. Raises InputError unless they are a regular stack."""
    orientations = np.array([frame.orientation for frame in frames])
    if np.ptp(orientations, axis=0).max() > TOLERANCE:
        raise InputError(f"folder {str(folder)!r} mixes slices of several orientations; keep one stack only.")
    spacings = np.array([frame.pixel_spacing for frame in frames])
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        raise InputError(f"folder {str(folder)!r} mixes slices of several pixel sizes; keep one stack only.")
    row, column = orientations[0, :3], orientations[0, 3:]
    if abs(np.linalg.norm(row) - 1) > 1e-2 or abs(np.linalg.norm(column) - 1) > 1e-2 or abs(row @ column) > 1e-2:
        raise InputError(
            f"folder {str(folder)!r} has ImageOrientationPatient {orientations[0].tolist()}, which is not a rotation; "
            "export the series again."
        )
    normal = np.cross(row, column)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    distance = _distance(np.array([frame.position for frame in frames]), normal, frames[0], folder)
    between_rows, between_columns = spacings[0]
    spacing = np.array([between_columns, between_rows, distance])
    return frames, matrix_from_lps(frames[0].position, spacing, np.column_stack([row, column, normal]))


def _distance(positions: np.ndarray, normal: np.ndarray, first: _Frame, folder: Path) -> float:
    """Distance between slices in mm. Raises InputError unless it is the same for all."""
    if len(positions) == 1:
        if first.thickness is None:
            raise InputError(
                f"{str(first.path)!r} has one slice without a valid thickness (DICOM tag 0018,0050, SliceThickness); "
                "export the series again."
            )
        return first.thickness
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    smallest, largest = float(gaps.min()), float(gaps.max())
    if largest - smallest > TOLERANCE * largest or largest == 0:
        raise InputError(
            f"folder {str(folder)!r} has slices {smallest:.2f} to {largest:.2f} mm apart: some are missing, or several "
            "acquisitions are mixed; export one complete series."
        )
    if np.linalg.norm(steps - np.outer(gaps, normal), axis=1).max() > TOLERANCE * largest:
        raise InputError(
            f"folder {str(folder)!r} was acquired with a tilted gantry; load it in 3D Slicer, harden its acquisition "
            "transform, and give the volume that Slicer saves."
        )
    return float(gaps.mean())


def _read_pixels(path: Path) -> np.ndarray:
    """(frames, rows, columns) of one file."""
    try:
        with readable_by_itk(path) as name:
            pixels = sitk.GetArrayFromImage(sitk.ReadImage(name))
    except RuntimeError as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({last_line(error)}); it may be cut short, or of unknown compression; "
            "export the series again."
        ) from error
    if pixels.ndim != 3:
        raise InputError(f"{str(path)!r} is not a stack of scalar slices; export the series again.")
    return pixels
