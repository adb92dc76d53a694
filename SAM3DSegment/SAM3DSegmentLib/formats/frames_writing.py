"""Volumes that follow each other in time, into one file: 4-D NIfTI, or a sequence of Slicer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..base.files import written_whole
from .images import write_image
from .volumes import SEQUENCE_SUFFIX, check_axes, image_on_grid

FRAMES_SUFFIXES = (".nii", ".nii.gz", SEQUENCE_SUFFIX)


def holds_frames(path: Path) -> bool:
    """Whether a file of this name can hold several frames."""
    return path.name.lower().endswith(FRAMES_SUFFIXES)


def write_frames(
    path: Path,
    frames_tkji: np.ndarray,
    ijk_to_ras: np.ndarray,
    times: Sequence[float] = (),
    is_label_map: bool = True,
    when_whole: Callable[[], None] = lambda: None,
) -> None:
    """Write voxels (T, K, J, I) on the grid of a 4x4 matrix, as `holds_frames` allows the name.

    times: of the frames; by these Slicer shows the frames of several sequences together, and NIfTI keeps the first
    step. The file appears whole or not at all; when_whole: called just before. Raises InputError.
    """
    check_axes(path, ijk_to_ras)
    times = times or range(len(frames_tkji))
    is_sequence = path.name.lower().endswith(SEQUENCE_SUFFIX)
    image = (_sequence if is_sequence else _four_d)(frames_tkji, ijk_to_ras, times)
    if is_sequence and is_label_map:
        image.SetMetaData("DataNodeClassName", "vtkMRMLLabelMapVolumeNode")
    with written_whole(path) as partial:
        write_image(image, partial, compressed=True)
        when_whole()


def _sequence(frames_tkji: np.ndarray, ijk_to_ras: np.ndarray, times: Sequence[float]) -> sitk.Image:
    """The values of all frames at each voxel, as all versions of Slicer read them."""
    image = sitk.GetImageFromArray(np.moveaxis(frames_tkji, 0, -1), isVector=True)
    image.CopyInformation(image_on_grid(frames_tkji[0], ijk_to_ras))
    image.SetMetaData("axis 0 index type", "numeric")
    image.SetMetaData("axis 0 index values", " ".join(f"{time:.9g}" for time in times))
    return image


def _four_d(frames_tkji: np.ndarray, ijk_to_ras: np.ndarray, times: Sequence[float]) -> sitk.Image:
    grid = image_on_grid(frames_tkji[0], ijk_to_ras)
    image = sitk.GetImageFromArray(frames_tkji, isVector=False)
    step = times[1] - times[0] if len(times) > 1 and times[1] > times[0] else 1.0
    image.SetSpacing((*grid.GetSpacing(), step))
    image.SetOrigin((*grid.GetOrigin(), times[0]))
    directions = np.eye(4)
    directions[:3, :3] = np.reshape(grid.GetDirection(), (3, 3))
    image.SetDirection(directions.ravel().tolist())
    return image
