"""One DICOM series of a folder as a volume: headers by pydicom, pixels by SimpleITK, each slice at its own position.

SimpleITK would stack whatever it finds, evenly between the first and the last slice and in the type of the first, and
ignores the positions of the frames in a multi-frame file; the mask would then lie elsewhere.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from ..base.errors import InputError
from ..base.files import last_line
from .content import is_dicom, missing_content, visible_files
from .dicom_frames import TAGS, Frame, frames_of
from .dicom_stack import stack
from .dicom_tags import kinds_of_object, may_be_image, read_dataset, tag_text
from .images import readable_by_itk, without_itk_warnings

logger = logging.getLogger(__name__)
logging.getLogger("pydicom").setLevel(logging.ERROR)  # it also logs each of its warnings

_ENDINGS = {".dcm", ".dicom", ".ima"}
_NO_DICOM = "is not a DICOM file, or it is damaged; export the series again."

Series = dict[str, list[tuple[Path, Dataset]]]  # headers of files, by series


def read_series(folder: Path, series_uid: str | None = None) -> tuple[np.ndarray, np.ndarray, str, list[Frame]]:
    """Voxels (K, J, I), rescaled as each slice says, ijk_to_ras and modality ("CT", "MR") of the folder's series.

    With them the frames that the K slices are. Raises InputError if there are several series and `series_uid` chooses
    none, or if the slices are not a regular stack.
    """
    header, frames, matrix = _find_stack(folder, series_uid)
    counts = Counter(frame.path for frame in frames)
    with without_itk_warnings():
        pixels = {path: _read_pixels(path, (count, *frames[0].size)) for path, count in counts.items()}
    # Where slices differ in type, because each has its own slope, the widest type is taken.
    voxels = np.stack([pixels[frame.path][frame.number] for frame in frames])
    return voxels, matrix, tag_text(header, "Modality"), frames


def read_series_grid(folder: Path, series_uid: str | None = None) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (K, J, I) and ijk_to_ras of the folder's series, by its headers alone. Raises InputError."""
    _, frames, matrix = _find_stack(folder, series_uid)
    return (len(frames), *frames[0].size), matrix


def _find_stack(folder: Path, series_uid: str | None) -> tuple[Dataset, list[Frame], np.ndarray]:
    """A header of the series, its frames in order, and ijk_to_ras."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are not used here or are checked here
        headers = _choose(_images(folder), folder, series_uid)
        frames = [frame for path, header in headers for frame in frames_of(path, header)]
    if 1 < len(headers) < len(frames):
        raise InputError(
            f"folder {str(folder)!r} holds a series of {len(headers)} files with several frames each; "
            "put one of them into a folder of its own."
        )
    stacked, matrix = stack(_without_copies(frames, folder), f"folder {str(folder)!r}")
    return headers[0][1], stacked, matrix


def _images(folder: Path) -> Series:
    """The headers of all images in the folder. Raises InputError if a file seems to be what is left of a slice."""
    files = visible_files(folder)
    found: Series = {}
    others = []  # what they are: reports, contours, segmentations
    dicom = [path for path in files if is_dicom(path)]
    for path in dicom:
        header = read_dataset(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
        kinds = kinds_of_object(header)
        series = tag_text(header, "SeriesInstanceUID")
        if "Rows" in header and all(map(may_be_image, kinds)):
            found.setdefault(series, []).append((path, header))
        elif any("Image Storage" in kind for kind in kinds) or not (series or any("Storage" in kind for kind in kinds)):
            raise InputError(f"{str(path)!r} is cut short; export the series again.")
        else:
            others.append(f"{path.name} ({kinds[0] if kinds else 'of an unknown kind'})")
    if others and not found:
        raise InputError(
            f"folder {str(folder)!r} holds DICOM files, but no image: {_some(others)}; give the folder of the images."
        )
    if found:
        _check_others(sorted({*files} - {*dicom}), [path for s in found.values() for path, _ in s])
    return found


def _check_others(others: list[Path], slices: list[Path]) -> None:
    """Raises InputError for a file that is named like a slice, but is none: a volume without it would be a part."""
    endings = _ENDINGS | {path.suffix.lower() for path in slices if not path.suffix[1:].isdigit()} - {""}
    patterns = {_pattern(path) for path in slices}
    left_out = []
    for path in others:
        what = missing_content(path)
        if path.suffix.lower() in endings or _pattern(path) in patterns:
            raise InputError(
                f"{str(path)!r} {what or _NO_DICOM} It is named like a slice; remove it only if it is none."
            )
        left_out.append(path.name + (f" ({what.partition(';')[0]})" if what else ""))
    if left_out:
        logger.warning("left out of %s, because they are not DICOM: %s.", slices[0].parent, _some(left_out))


def _pattern(path: Path) -> str:
    """The same for the names of a series' files, which differ in numbers only."""
    return re.sub(r"\d+", "#", path.name.lower())


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def nothing_found(folder: Path) -> InputError:
    for path in visible_files(folder):
        if what := missing_content(path) or (_NO_DICOM if path.suffix.lower() in _ENDINGS else None):
            return InputError(f"folder {str(folder)!r} holds no volume file and no DICOM series: {path.name} {what}")
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return InputError(
        f"folder {str(folder)!r} holds no volume file and no DICOM series; give the folder that the files are in"
        + (f" (its subfolders {', '.join(folders[:5])} are not searched)." if folders else ".")
    )


def _choose(series: Series, folder: Path, series_uid: str | None) -> list[tuple[Path, Dataset]]:
    if not series:
        raise nothing_found(folder)
    if series_uid is None and len(series) == 1:
        return next(iter(series.values()))
    if series_uid in series:
        return series[series_uid]
    listed = "; ".join(
        f"{uid} ({tag_text(headers[0][1], 'Modality') or '?'}, "
        f"{tag_text(headers[0][1], 'SeriesDescription') or 'no description'}, {len(headers)} slices)"
        for uid, headers in series.items()
    )
    asked = "" if series_uid is None else f" and none is {series_uid!r}"
    raise InputError(
        f"folder {str(folder)!r} holds {len(series)} DICOM series{asked}; choose one with --series UID: {listed}."
    )


def _without_copies(frames: list[Frame], folder: Path) -> list[Frame]:
    """Each frame once: a folder may hold a file under two names."""
    kept = {(frame.uid, frame.number, tuple(frame.position)): frame for frame in frames}
    if len(kept) < len(frames):
        logger.warning("%d files in %r are copies of others; they are left out.", len(frames) - len(kept), str(folder))
    return list(kept.values())


def _read_pixels(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """(frames, rows, columns) of one file, whose header describes this shape."""
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
    if pixels.shape != shape:
        raise InputError(
            f"{str(path)!r} describes frames, rows and columns {shape}, but holds {pixels.shape}; export it again."
        )
    return pixels
