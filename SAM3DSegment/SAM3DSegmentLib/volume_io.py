"""Volumes from files and DICOM folders, segmentations to files; all image formats through SimpleITK."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .card import Label, Terminology
from .errors import InputError
from .files import check_new_file, last_line, written_whole
from .geometry import spacing_and_directions

logger = logging.getLogger(__name__)

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
OUTPUT_SUFFIXES = (".seg.nrrd", ".nii", ".nii.gz", ".nrrd", ".mha")
SEGMENTATION_SUFFIX = ".seg.nrrd"
DICOM_TOLERANCE = 0.05  # of the distance between slices, and of unit direction vectors
_IMAGE_POSITION, _IMAGE_ORIENTATION = "0020|0032", "0020|0037"
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world is LPS, Slicer's is RAS


@dataclass(frozen=True)
class Volume:
    """Voxels (K, J, I) of the file's own type, ijk_to_ras (4, 4) in mm, and the ITK image that holds the geometry."""

    array_kji: np.ndarray
    ijk_to_ras: np.ndarray
    image: sitk.Image
    path: Path


def is_volume_file(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def volume_name(path: Path) -> str:
    """File name without its ending: "a/case.nii.gz" -> "case"; a DICOM folder's own name."""
    lower = path.name.lower()
    for suffix in sorted((*VOLUME_SUFFIXES, *OUTPUT_SUFFIXES), key=len, reverse=True):
        if lower.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def list_volumes(folder: Path) -> list[Path]:
    """Volume files directly in `folder`, by name; none for a DICOM folder."""
    return sorted(p for p in folder.iterdir() if p.is_file() and is_volume_file(p) and not p.name.startswith("."))


def read_volume(path: str | Path) -> Volume:
    """A volume file or the one DICOM series of a folder. Raises InputError with one line that says what to do."""
    path = Path(path)
    if path.is_dir():
        image = _read_dicom(path)
    elif not path.is_file():
        raise InputError(f"{str(path)!r} does not exist; check the path.")
    elif not is_volume_file(path):
        raise InputError(f"{str(path)!r} is of no known format; use {', '.join(VOLUME_SUFFIXES)} or a DICOM folder.")
    else:
        image = _read_image(path)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() != 3:
        raise InputError(
            f"{str(path)!r} has {image.GetDimension()} dimensions, size {image.GetSize()}; "
            "give a 3-D volume (of a 4-D one, extract a frame)."
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{str(path)!r} has {image.GetNumberOfComponentsPerPixel()} values per voxel (colour or vectors); "
            "give a scalar volume."
        )
    # A copy: ITK's view would dangle once the image is gone.
    return Volume(sitk.GetArrayFromImage(image), ijk_to_ras_of(image), image, path)


def ijk_to_ras_of(image: sitk.Image) -> np.ndarray:
    """The 4x4 matrix from voxel indices to RAS in mm of a 3-D ITK image."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return _RAS_FROM_LPS @ matrix


def write_volume(path: str | Path, array_kji: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Write voxels (K, J, I) with the geometry of a 4x4 matrix of rigid axes; uncompressed, to be read once."""
    path = Path(path)
    image = sitk.GetImageFromArray(array_kji)
    spacing, directions = spacing_and_directions(_RAS_FROM_LPS @ ijk_to_ras)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin((_RAS_FROM_LPS @ ijk_to_ras)[:3, 3].tolist())
    with written_whole(path) as partial:
        sitk.WriteImage(image, str(partial))


def write_labels(path: str | Path, labels_kji: np.ndarray, source: Volume, labels: tuple[Label, ...]) -> None:
    """Write a label map on the source's grid: a Slicer segmentation for `.seg.nrrd`, else a plain image.

    The file appears whole or not at all. Raises InputError if it cannot be written.
    """
    path = Path(path)
    check_output(path, overwrite=True)
    image = sitk.GetImageFromArray(labels_kji)
    image.CopyInformation(source.image)
    if path.name.lower().endswith(SEGMENTATION_SUFFIX):
        for key, value in _segmentation_metadata(labels_kji, labels).items():
            image.SetMetaData(key, value)
    with written_whole(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)


def check_output(path: Path, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Raises InputError unless a label map can be written at `path`; see `check_new_file`."""
    if not path.name.lower().endswith(OUTPUT_SUFFIXES):
        raise InputError(f"output {str(path)!r} has an unknown ending; use {', '.join(OUTPUT_SUFFIXES)}.")
    check_new_file(path, overwrite, inputs)


def _read_image(path: Path) -> sitk.Image:
    with _itk_errors(path):
        image = sitk.ReadImage(str(path))
    if path.name.lower().endswith((".nii", ".nii.gz")) and not _is_whole_nifti(path, image):
        raise InputError(f"{str(path)!r} is cut short; copy or download it again.")
    return image


def _is_whole_nifti(path: Path, image: sitk.Image) -> bool:
    """False where voxels are missing at the end of the file: of all formats, ITK fills up this one silently."""
    dimensions = int(image.GetMetaData("dim[0]"))
    voxels = math.prod(int(image.GetMetaData(f"dim[{axis}]")) for axis in range(1, dimensions + 1))
    size = int(float(image.GetMetaData("vox_offset"))) + voxels * int(image.GetMetaData("bitpix")) // 8
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            file.seek(size - 1)
            return len(file.read(1)) == 1
    except (EOFError, OSError, zlib.error):
        return False


def _read_dicom(folder: Path) -> sitk.Image:
    with _itk_errors(folder):
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(
            f"folder {str(folder)!r} holds no volume file and no DICOM series; give the folder that the files are in."
        )
    if len(series) > 1:
        raise InputError(
            f"folder {str(folder)!r} holds {len(series)} DICOM series; give each its own folder ({', '.join(series)})."
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    reader.MetaDataDictionaryArrayUpdateOn()
    with _itk_errors(folder):
        image = reader.Execute()
    if len(reader.GetFileNames()) > 1:  # else one file holds all frames
        _check_dicom_slices(reader, folder)
    return image


def _check_dicom_slices(reader: sitk.ImageSeriesReader, folder: Path) -> None:
    """Raises InputError unless the slices that were read are a regular stack.

    ITK would stack them all the same, evenly between the first and the last, and the mask would lie elsewhere.
    """
    orientations = _dicom_numbers(reader, _IMAGE_ORIENTATION, folder)
    if np.ptp(orientations, axis=0).max() > DICOM_TOLERANCE:
        raise InputError(f"folder {str(folder)!r} mixes slices of several orientations; keep one stack of them.")
    steps = np.diff(_dicom_numbers(reader, _IMAGE_POSITION, folder), axis=0)
    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    gaps = steps @ normal  # signed: in the order 0, 1, 0, 1 neighbours are equally far apart
    smallest, largest = np.abs(gaps).min(), np.abs(gaps).max()
    if np.ptp(gaps) > DICOM_TOLERANCE * largest or largest == 0:
        raise InputError(
            f"folder {str(folder)!r} has slices {smallest:.2f} to {largest:.2f} mm apart, or out of order: some are "
            "missing, or several acquisitions are mixed; export one whole series."
        )
    if np.linalg.norm(steps - np.outer(gaps, normal), axis=1).max() > DICOM_TOLERANCE * largest:
        raise InputError(
            f"folder {str(folder)!r} was acquired with a tilted gantry; load it in 3D Slicer, harden its acquisition "
            "transform, and give the volume that it saves."
        )


def _dicom_numbers(reader: sitk.ImageSeriesReader, tag: str, folder: Path) -> np.ndarray:
    """The numbers of a multi-valued DICOM tag, (slices, values)."""
    slices = range(len(reader.GetFileNames()))
    if not all(reader.HasMetaDataKey(index, tag) for index in slices):
        raise InputError(
            f"folder {str(folder)!r} has slices that do not say where they lie (DICOM tag {tag}); export the series "
            "again from the scanner or PACS."
        )
    return np.array([[float(number) for number in reader.GetMetaData(index, tag).split("\\")] for index in slices])


@contextmanager
def _itk_errors(path: Path) -> Iterator[None]:
    """Turn ITK's errors into one line, and keep its warnings, which name its own source files, off the terminal."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({last_line(error)}); check that it is a whole image."
        ) from error
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _segmentation_metadata(labels_kji: np.ndarray, labels: tuple[Label, ...]) -> dict[str, str]:
    """The header fields by which Slicer reads a label map as a segmentation.

    Source: Slicer's vtkMRMLSegmentationStorageNode, and its documentation of the `.seg.nrrd` format.
    """
    metadata = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    depth, height, width = labels_kji.shape
    for index, label in enumerate(labels):
        prefix = f"Segment{index}_"
        metadata[prefix + "ID"] = f"Segment_{label.value}"
        metadata[prefix + "Name"] = label.name
        metadata[prefix + "NameAutoGenerated"] = "0"
        metadata[prefix + "Color"] = " ".join(f"{c / 255:.6g}" for c in label.color)
        metadata[prefix + "ColorAutoGenerated"] = "0"
        metadata[prefix + "LabelValue"] = str(label.value)
        metadata[prefix + "Layer"] = "0"
        metadata[prefix + "Extent"] = f"0 {width - 1} 0 {height - 1} 0 {depth - 1}"
        metadata[prefix + "Tags"] = f"TerminologyEntry:{terminology_entry(label)}|"
    return metadata


def terminology_entry(label: Label) -> str:
    """A label's codes in the serialised form of Slicer's Terminologies module."""

    def triple(concept: Terminology | None) -> str:
        return f"{concept.scheme}^{concept.code}^{concept.meaning}" if concept else "^^"

    codes = "~".join((triple(label.category), triple(label.type), triple(label.modifier)))
    return f"Segmentation category and type - DICOM master list~{codes}~Anatomic codes - DICOM master list~^^~^^"
