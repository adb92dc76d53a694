"""One DICOM series of a folder as a volume: headers by pydicom, pixels by SimpleITK, each slice at its own position.

SimpleITK would stack whatever it finds, evenly between the first and the last slice and in the type of the first, and
ignores the positions of the frames in a multi-frame file; the mask would then lie elsewhere.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from ..base.errors import InputError
from ..base.files import last_line
from .content import is_dicom, missing_content, visible_files
from .dicom_cine import check_is_one_volume, movie
from .dicom_frames import TAGS, Frame, frames_of
from .dicom_stack import stack
from .dicom_tags import kinds_of_object, may_be_image, read_dataset, tag_text
from .images import readable_by_itk, without_itk_warnings

logger = logging.getLogger(__name__)
logging.getLogger("pydicom").setLevel(logging.ERROR)  # it also logs each of its warnings

_ENDINGS = {".dcm", ".dicom", ".ima"}
_NO_DICOM = "is not a DICOM file, or it is damaged; export the series again."

Series = dict[str, list[tuple[Path, Dataset]]]  # headers of files, by series


def read_series(
    folder: Path, series_uid: str | None = None, number: int | None = None
) -> tuple[np.ndarray, np.ndarray, str, list[Frame]]:
    """Voxels (K, J, I), rescaled as each slice says, ijk_to_ras and modality ("CT", "MR") of the folder's series.

    With them the frames that the K slices are. number: which volume of a series over time, from 0. Raises InputError if
    there are several series and `series_uid` chooses none, or if the slices are not a regular stack.
    """
    series = _series_of(folder, series_uid)
    frames, matrix = stack(series.chosen(number), series.source)
    size = frames[0].size
    with without_itk_warnings():
        pixels = {
            path: _pixels_of(path, (series.counts[path], *size)) for path in dict.fromkeys(f.path for f in frames)
        }
    # Where slices differ in type, because each has its own slope, the widest type is taken.
    voxels = np.stack([pixels[frame.path][frame.number] for frame in frames])
    return voxels, matrix, series.modality, frames


def read_series_grid(
    folder: Path, series_uid: str | None = None, number: int | None = None
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (K, J, I) and ijk_to_ras of the folder's series, by its headers alone. Raises InputError."""
    series = _series_of(folder, series_uid)
    frames, matrix = stack(series.chosen(number), series.source)
    return (len(frames), *frames[0].size), matrix


def count_volumes(folder: Path, series_uid: str | None = None) -> int:
    """How many volumes over time the folder's series has. Raises InputError."""
    return len(_series_of(folder, series_uid).movie)


@dataclass(frozen=True)
class _Series:
    """movie: the slices of each volume over time, mostly of one; counts: of the slices in each file."""

    source: str
    modality: str
    movie: list[list[Frame]]
    counts: dict[Path, int]

    def chosen(self, number: int | None) -> list[Frame]:
        if number is None:
            check_is_one_volume(self.movie, self.source)
            return self.movie[0]
        if not 0 <= number < len(self.movie):
            raise InputError(f"{self.source} has no frame {number}; choose one from 0 to {len(self.movie) - 1}.")
        return self.movie[number]


def _series_of(folder: Path, series_uid: str | None) -> _Series:
    states = [(path, path.stat()) for path in visible_files(folder) if path.exists()]
    return _read_headers(folder, series_uid, tuple((path, s.st_size, s.st_mtime_ns) for path, s in states))


@lru_cache(maxsize=1)  # the volumes of one series are read one after the other
def _read_headers(folder: Path, series_uid: str | None, _state: Hashable) -> _Series:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are not used here or are checked here
        headers = _choose(_images(folder), folder, series_uid)
        frames = [frame for path, header in headers for frame in frames_of(path, header)]
    if 1 < len(headers) < len(frames):
        raise InputError(
            f"folder {str(folder)!r} holds a series of {len(headers)} files with several frames each; "
            "put one of them into a folder of its own."
        )
    source, counts = f"folder {str(folder)!r}", dict(Counter(frame.path for frame in frames))
    found = movie(_without_copies(frames, folder))
    return _Series(source, tag_text(headers[0][1], "Modality"), found, counts)


def _images(folder: Path) -> Series:
    """As `images_by_series`, also an InputError if there is DICOM, but no image."""
    found, others = images_by_series(folder)
    if others and not found:
        raise InputError(
            f"folder {str(folder)!r} holds DICOM files, but no image: {_some(others)}; give the folder of the images."
        )
    return found


def images_by_series(folder: Path, tags: Sequence[str] = TAGS) -> tuple[Series, list[str]]:
    """The headers, with these tags, of all images in the folder, and what else is there: reports, segmentations.

    Raises InputError if a file seems to be what is left of a slice.
    """
    files = visible_files(folder)
    found: Series = {}
    others = []
    dicom = [path for path in files if is_dicom(path)]
    for path in dicom:
        header = read_dataset(path, stop_before_pixels=True, force=True, specific_tags=list(tags))
        kinds = kinds_of_object(header)
        series = tag_text(header, "SeriesInstanceUID")
        if "Rows" in header and all(map(may_be_image, kinds)):
            found.setdefault(series, []).append((path, header))
        elif any("Image Storage" in kind for kind in kinds) or not (series or any("Storage" in kind for kind in kinds)):
            raise InputError(f"{str(path)!r} is cut short; export the series again.")
        else:
            others.append(f"{path.name} ({kinds[0] if kinds else 'of an unknown kind'})")
    if found:
        _check_others(sorted({*files} - {*dicom}), [path for s in found.values() for path, _ in s])
    return found, others


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


def _pixels_of(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """As `_read_pixels`; a file of several slices is kept for the next volume of the same series."""
    state = path.stat()
    return _kept_pixels(path, shape, state.st_mtime_ns) if shape[0] > 1 else _read_pixels(path, shape)


@lru_cache(maxsize=1)
def _kept_pixels(path: Path, shape: tuple[int, int, int], _state: int) -> np.ndarray:
    return _read_pixels(path, shape)


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
