"""Volumes from files and DICOM folders, and to files; and which volume files a folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..base.errors import InputError
from ..base.files import written_whole
from ..geometry import RAS_FROM_LPS, Grid, has_right_angles, spacing_and_directions
from .content import (
    VOLUME_SUFFIXES,
    check_exists,
    image_suffix,
    is_dangling,
    is_dicom_segmentation,
    missing_content,
    visible_files,
)
from .header import ImageHeader
from .images import checked_matrix, read_header, read_image, write_image

SEGMENTATION_SUFFIX = ".seg.nrrd"
SEQUENCE_SUFFIX = ".seq.nrrd"  # of Slicer's files of several frames
SEGMENTATION_SUFFIXES = (SEGMENTATION_SUFFIX, ".seg.nhdr")
IMAGE_OUTPUT_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
DICOM_SUFFIX = ".dcm"  # a DICOM segmentation
OUTPUT_SUFFIXES = (SEGMENTATION_SUFFIX, *IMAGE_OUTPUT_SUFFIXES, DICOM_SUFFIX)
SHEARED_SUFFIXES = (SEGMENTATION_SUFFIX, ".nrrd", ".mha")


@dataclass(frozen=True)
class Volume:
    """Voxels (K, J, I) of a real type, ijk_to_ras (4, 4) in mm, and where both were read.

    modality: as DICOM states it ("CT", "MR"), else empty; slices: of a DICOM series, the file of each slice and the
    number of its frame in there, from 0. times: of all frames of the file of which this is one, if it says so. more:
    further channels (K, J, I) of the same case, on the same grid.
    """

    array_kji: np.ndarray
    ijk_to_ras: np.ndarray
    path: Path
    modality: str = ""
    slices: tuple[tuple[Path, int], ...] = ()
    times: tuple[float, ...] = ()
    more: tuple[np.ndarray, ...] = ()
    more_modalities: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[np.ndarray, ...]:
        """At least one (K, J, I)."""
        return (self.array_kji, *self.more)

    @property
    def named_channels(self) -> dict[str, np.ndarray]:
        """By name, if there are several; else empty."""
        return dict(zip(self.names, self.channels)) if self.more else {}

    @property
    def grid(self) -> Grid:
        return self.array_kji.shape, self.ijk_to_ras


@dataclass(frozen=True)
class VolumeFile:
    """A volume file, whose header is read once, when it is first asked for."""

    path: Path

    @property
    def name(self) -> str:
        """File name without its ending."""
        return volume_name(self.path)

    @cached_property
    def header(self) -> ImageHeader | None:
        """None if it cannot be used; `read_volume` then says why."""
        try:
            return read_header(self.path)
        except InputError:
            return None

    @cached_property
    def is_segmentation(self) -> bool:
        """Whether the file's ending or its header says so; False if the header cannot be used."""
        if self.path.name.lower().endswith(SEGMENTATION_SUFFIXES) or is_dicom_segmentation(self.path):
            return True
        return self.header is not None and self.header.is_segmentation


@dataclass(frozen=True)
class VolumeFolder:
    """A folder of volume files, which is listed once, when it is first asked what it holds."""

    path: Path

    @cached_property
    def files(self) -> list[VolumeFile]:
        """Directly in it, by name, as `list_volume_files` has them."""
        return list_volume_files(self.path)

    @cached_property
    def folders(self) -> list[VolumeFolder]:
        """Directly in it, by name, without hidden ones."""
        inner = (path for path in self.path.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [VolumeFolder(path) for path in sorted(inner)]

    @cached_property
    def missing(self) -> dict[Path, str]:
        """Links to nothing directly in it, and the remedy for each."""
        return {path: str(missing_content(path)) for path in visible_files(self.path) if is_dangling(path)}


def volume_name(path: Path) -> str:
    """File name without its ending: "a/case.nii.gz" -> "case"; a DICOM folder's own name."""
    lower = path.name.lower()
    for suffix in sorted((*VOLUME_SUFFIXES, *OUTPUT_SUFFIXES, SEQUENCE_SUFFIX), key=len, reverse=True):
        if lower.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def list_volume_files(folder: Path) -> list[VolumeFile]:
    """Volume files, DICOM segmentations and structure sets directly in `folder`, by name, without hidden ones."""
    return [
        VolumeFile(path)
        for path in visible_files(folder)
        if image_suffix(path) is not None or _is_named_dicom_segmentation(path)
    ]


def _is_named_dicom_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(DICOM_SUFFIX) and is_dicom_segmentation(path)


def volumes_by_name(folder: Path) -> dict[str, Path]:
    """Volume files directly in `folder` by their names without ending. Raises InputError if two have one name."""
    found: dict[str, Path] = {}
    for file in list_volume_files(folder):
        other = found.setdefault(file.name, file.path)
        if other != file.path:
            raise InputError(f"{str(other)!r} and {str(file.path)!r} have the same name; keep one of them.")
    return found


def read_volume(
    path: str | Path, series_uid: str | None = None, header: ImageHeader | None = None, frame: int | None = None
) -> Volume:
    """A volume file, or a DICOM series of a folder: the only one, or `series_uid`.

    header: that of the file, if it was read already. frame: which one of a 4-D series, from 0; the others are not kept
    in memory. Raises InputError or GeometryError with one line that says what to do.
    """
    path = Path(path)
    if path.is_dir():
        from .dicom import read_series  # pydicom is loaded where there is DICOM

        array, matrix, modality, frames = read_series(path, series_uid, frame)
        slices = tuple((frame.path, frame.number) for frame in frames)
        return Volume(array, checked_matrix(path, matrix), path, modality, slices)
    check_exists(path)
    if series_uid is not None:
        raise InputError(f"{str(path)!r} is not a DICOM folder; leave out the series {series_uid!r}.")
    header = header or read_header(path)
    voxels, matrix = read_image(path, header, frame)
    if header.components != 1:
        raise InputError(
            f"{str(path)!r} has {header.components} values per voxel (colour or vectors); give a scalar volume."
        )
    return Volume(voxels[..., 0], matrix, path, times=header.times)


def write_volume(path: str | Path, array_kji: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Write voxels (K, J, I) with the geometry of a 4x4 matrix; uncompressed, to be read once."""
    path = Path(path)
    check_axes(path, ijk_to_ras)
    with written_whole(path) as partial:
        write_image(image_on_grid(array_kji, ijk_to_ras), partial)


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
    """Raises InputError if the format of `path` cannot hold the axes; called before the work starts."""
    if path.name.lower().endswith((".nii", ".nii.gz")) and not has_right_angles(ijk_to_ras):
        raise InputError(
            f"output {str(path)!r} cannot hold the volume's tilted axes, because NIfTI supports only right angles; "
            f"use {', '.join(SHEARED_SUFFIXES)}."
        )
