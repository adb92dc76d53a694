"""Volumes from files and DICOM folders, and to files; the geometry of all image formats by SimpleITK."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..base.errors import GeometryError, InputError
from ..base.files import last_line, written_whole
from ..geometry import (
    RAS_FROM_LPS,
    has_right_angles,
    is_same_grid,
    matrix_from_lps,
    spacing_and_directions,
)
from .header import VOLUME_SUFFIXES, ImageHeader, image_suffix, read_header, read_voxels

logger = logging.getLogger(__name__)

SEGMENTATION_SUFFIX = ".seg.nrrd"
IMAGE_OUTPUT_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
OUTPUT_SUFFIXES = (SEGMENTATION_SUFFIX, *IMAGE_OUTPUT_SUFFIXES)
SHEARED_SUFFIXES = tuple(suffix for suffix in OUTPUT_SUFFIXES if not suffix.startswith(".nii"))


@dataclass(frozen=True)
class Volume:
    """Voxels (K, J, I) of a real type, ijk_to_ras (4, 4) in mm, and where both were read."""

    array_kji: np.ndarray
    ijk_to_ras: np.ndarray
    path: Path


def is_volume_file(path: Path) -> bool:
    return image_suffix(path) is not None


def volume_name(path: Path) -> str:
    """File name without its ending: "a/case.nii.gz" -> "case"; a DICOM folder's own name."""
    lower = path.name.lower()
    for suffix in sorted((*VOLUME_SUFFIXES, *OUTPUT_SUFFIXES), key=len, reverse=True):
        if lower.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def list_volumes(folder: Path) -> list[Path]:
    """Volume files directly in `folder`, by name; hidden ones, such as macOS's `._x.nii.gz`, are none."""
    return sorted(p for p in folder.iterdir() if p.is_file() and is_volume_file(p) and not p.name.startswith("."))


def volumes_by_name(folder: Path) -> dict[str, Path]:
    """Volume files directly in `folder` by their names without ending. Raises InputError if two are of one name."""
    found: dict[str, Path] = {}
    for path in list_volumes(folder):
        other = found.setdefault(volume_name(path), path)
        if other != path:
            raise InputError(f"{str(other)!r} and {str(path)!r} are of one name; keep one of them.")
    return found


def read_volume(path: str | Path, series_uid: str | None = None) -> Volume:
    """A volume file, or a DICOM series of a folder: the only one, or `series_uid`.

    Raises InputError or GeometryError with one line that says what to do.
    """
    path = Path(path)
    if path.is_dir():
        from .dicom import read_series  # pydicom is loaded where there is DICOM

        with _quiet():
            array, matrix = read_series(path, series_uid)
    elif not path.is_file():
        raise InputError(f"{str(path)!r} does not exist; check the path.")
    elif series_uid is not None:
        raise InputError(f"{str(path)!r} is no DICOM folder, from which series {series_uid!r} could be taken.")
    else:
        voxels, matrix, header = read_image(path)
        if header.components != 1:
            raise InputError(
                f"{str(path)!r} has {header.components} values per voxel (colour or vectors); give a scalar volume."
            )
        array = voxels[..., 0]
    return Volume(array, _checked_matrix(path, matrix), path)


def read_image(path: Path) -> tuple[np.ndarray, np.ndarray, ImageHeader]:
    """Voxels (K, J, I, components), ijk_to_ras (4, 4) in mm, and the header of an image file.

    Raises InputError or GeometryError with one line that says what to do.
    """
    header = read_header(path)
    return read_voxels(path, header), _checked_matrix(path, read_matrix(path, header)), header


def _checked_matrix(path: Path, matrix: np.ndarray) -> np.ndarray:
    try:
        spacing_and_directions(matrix)
    except GeometryError as error:
        raise GeometryError(f"{str(path)!r}: {error}") from error
    return matrix


def write_volume(path: str | Path, array_kji: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Write voxels (K, J, I) with the geometry of a 4x4 matrix; uncompressed, to be read once."""
    path = Path(path)
    check_axes(path, ijk_to_ras)
    with written_whole(path) as partial:
        sitk.WriteImage(image_on_grid(array_kji, ijk_to_ras), str(partial))


def image_on_grid(array_kji: np.ndarray, ijk_to_ras: np.ndarray) -> sitk.Image:
    """An ITK image of voxels (K, J, I) with the geometry of a 4x4 matrix."""
    image = sitk.GetImageFromArray(array_kji)
    matrix = RAS_FROM_LPS @ ijk_to_ras
    spacing, directions = spacing_and_directions(matrix)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def check_axes(path: Path, ijk_to_ras: np.ndarray) -> None:
    """Raises InputError if the format of `path` cannot hold the axes; to be asked before the work."""
    if path.name.lower().endswith((".nii", ".nii.gz")) and not has_right_angles(ijk_to_ras):
        raise InputError(
            f"output {str(path)!r} cannot hold the volume's tilted axes, NIfTI has right angles only; "
            f"use {', '.join(SHEARED_SUFFIXES)}."
        )


def read_matrix(path: Path, header: ImageHeader) -> np.ndarray:
    """ijk_to_ras (4, 4) in mm of a volume file."""
    matrix = _itk_matrix(path, header) if header.ijk_to_ras is None else header.ijk_to_ras.copy()
    if header.to_mm != 1:
        logger.info("%s has sizes in another unit than mm; they are converted.", path)
        matrix[:3] *= header.to_mm
    if header.sform is not None and not is_same_grid(header.shape, matrix, header.shape, header.sform):
        if not header.has_qform:
            raise InputError(
                f"{str(path)!r} has tilted or otherwise scaled axes (sform), which 3D Slicer does not read from NIfTI; "
                "resample it, or save it as .nrrd."
            )
        logger.warning("%s says in two ways where it lies; its qform is taken, as by 3D Slicer, not its sform.", path)
    return matrix


def _itk_matrix(path: Path, header: ImageHeader) -> np.ndarray:
    """ijk_to_ras (4, 4), as SimpleITK reads it."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _quiet():
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({last_line(error)}); check that it is a whole image."
            ) from error
    count = reader.GetDimension()
    if count < 3 or reader.GetSize()[:3] != header.shape[::-1]:
        raise InputError(f"the header of {str(path)!r} contradicts itself about its size; export it again.")
    directions = np.reshape(reader.GetDirection(), (count, count))[:3, :3]
    return matrix_from_lps(np.array(reader.GetOrigin()[:3]), np.array(reader.GetSpacing()[:3]), directions)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings, which name its own source files, off the terminal."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
