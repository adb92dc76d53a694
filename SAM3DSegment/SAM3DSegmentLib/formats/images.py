"""An image file of any format: its header, its geometry by SimpleITK, its voxels."""

from __future__ import annotations

import logging
import os
import secrets
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..base.errors import GeometryError, InputError
from ..base.files import is_utf8, last_line, link_or_copy, linked
from ..geometry import is_same_grid, matrix_from_lps, spacing_and_directions
from . import metaimage, nifti, nrrd
from .content import (
    FORMAT_OF_SUFFIX,
    METAIMAGE,
    NIFTI,
    NRRD,
    VOLUME_SUFFIXES,
    Head,
    checked_head,
    image_suffix,
    is_dicom,
)
from .frames import read_frame
from .header import ImageHeader, check_frame
from .voxels import read_voxels

logger = logging.getLogger(__name__)

_DICOM_SUFFIX = ".dcm"
_NIFTI = (".nii", ".gz", ".hdr", ".img", ".nia")  # endings that ITK takes off a name
_READERS: dict[str, Callable[[Path, Head], ImageHeader]] = {
    NIFTI: nifti.read_header,
    NRRD: lambda path, _: nrrd.read_header(path),  # text of any length
    METAIMAGE: lambda path, _: metaimage.read_header(path),
}


def read_header(path: Path) -> ImageHeader:
    """The checked header of a volume file. Raises InputError with one line that says what to do."""
    suffix = image_suffix(path)
    if suffix is None:
        if is_dicom(path):
            raise InputError(f"{str(path)!r} is one DICOM file; give the folder that holds its whole series.")
        raise InputError(f"{str(path)!r} is not in a known format; use {', '.join(VOLUME_SUFFIXES)} or a DICOM folder.")
    try:
        return _READERS[FORMAT_OF_SUFFIX[suffix]](path, checked_head(path, suffix))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror or error}); check the file.") from error
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise InputError(f"the header of {str(path)!r} cannot be understood ({error}); export it again.") from error


def read_image(path: Path, header: ImageHeader, frame: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (K, J, I, components) and ijk_to_ras (4, 4) in mm of an image file with this header.

    frame: which one of a 4-D series, from 0. Raises InputError or GeometryError with one line that says what to do.
    """
    check_frame(path, header, frame)
    voxels = read_voxels(path, header) if header.frames == 1 else read_frame(path, header, frame or 0)
    return voxels, checked_matrix(path, read_matrix(path, header))


def read_matrix(path: Path, header: ImageHeader) -> np.ndarray:
    """ijk_to_ras (4, 4) in mm of a volume file."""
    matrix = _itk_matrix(path, header) if header.ijk_to_ras is None else header.ijk_to_ras.copy()
    if header.to_mm != 1:
        logger.info("%s gives lengths in a unit other than mm; they are converted.", path)
        matrix[:3] *= header.to_mm
    differing = {
        name
        for name, stated in (("qform", header.qform), ("sform", header.sform))
        if stated is not None and not is_same_grid(header.shape, matrix, header.shape, stated)
    }
    if "sform" in differing and header.qform is None:
        raise InputError(
            f"{str(path)!r} has sheared or rescaled axes (sform), which 3D Slicer does not read from NIfTI; "
            "resample it, or save it as .nrrd."
        )
    if differing:
        used = "qform" if "sform" in differing else "sform"
        logger.warning("%s has a qform and an sform that differ; the %s is used, as in 3D Slicer.", path, used)
    return matrix


def checked_matrix(path: Path, matrix: np.ndarray) -> np.ndarray:
    """The same matrix. Raises GeometryError, naming the file, if its axes cannot be used."""
    try:
        spacing_and_directions(matrix)
    except GeometryError as error:
        raise GeometryError(f"{str(path)!r}: {error}") from error
    return matrix


@contextmanager
def without_itk_warnings() -> Iterator[None]:
    """Keep ITK's warnings, which name its own source files, off the terminal."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextmanager
def readable_by_itk(path: Path, data: Path | None = None) -> Iterator[str]:
    """The name of a file, or of a link to it, that ITK can open.

    A name that is not UTF-8 makes ITK end the whole process, and endings in capitals it does not know. data: another
    file that the file names.
    """
    if _is_plain(path):
        yield str(path)
        return
    with linked(path, "image" + (image_suffix(path) or _DICOM_SUFFIX)) as link:
        if data is not None and data != path:
            link_or_copy(data, link.with_name(data.name))
        yield str(link)


def write_image(image: sitk.Image, path: Path, compressed: bool = False) -> None:
    """Write an image under any name. Raises RuntimeError or OSError if it cannot be written."""
    if _is_plain(path):
        sitk.WriteImage(image, str(path), useCompression=compressed)
        return
    with tempfile.TemporaryDirectory() as folder:
        parent = path.absolute().parent
        if not is_utf8(parent):
            parent = Path(folder, "parent")
            link_or_copy(path.absolute().parent, parent)
        plain = parent / f".{secrets.token_hex(8)}.partial{image_suffix(path)}"
        try:
            sitk.WriteImage(image, str(plain), useCompression=compressed)
            os.replace(plain, path)
        finally:
            plain.unlink(missing_ok=True)


def _is_plain(path: Path) -> bool:
    """Not for ITK is a name such as scan.nii.gz.nii.gz: it would write scan.nii.gz."""
    suffix = image_suffix(path)
    is_usual = suffix is None or (
        path.name.endswith(suffix) and Path(path.name.removesuffix(suffix)).suffix not in _NIFTI
    )
    return is_utf8(path) and is_usual


def _itk_matrix(path: Path, header: ImageHeader) -> np.ndarray:
    """ijk_to_ras (4, 4), as SimpleITK reads it."""
    reader = sitk.ImageFileReader()
    with without_itk_warnings(), readable_by_itk(path, header.data) as name:
        reader.SetFileName(name)
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(
                f"{str(path)!r} cannot be read ({last_line(error)}); check that the image is complete."
            ) from error
    count = reader.GetDimension()
    if count < 3 or reader.GetSize()[:3] != header.shape[::-1]:
        raise InputError(f"the header of {str(path)!r} contradicts itself about its size; export it again.")
    directions = np.reshape(reader.GetDirection(), (count, count))[:3, :3]
    return matrix_from_lps(np.array(reader.GetOrigin()[:3]), np.array(reader.GetSpacing()[:3]), directions)
