"""The channels of a case, such as T1 and T2, or CT and PET: volumes of their own that lie on one grid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..base.errors import InputError
from ..geometry import describe_grid_difference
from .volumes import Volume, image_on_grid, read_volume, volume_name

NUMBER = re.compile(r"_(\d{4})$")  # nnU-Net: case_0000 is the first channel of case


@dataclass(frozen=True)
class ChannelFile:
    """Where a channel of a case is: a volume file or a DICOM folder; name: "" for the only one.

    place: of a 4-D file whose last axis is the channel, which one on that axis, from 0. series_uid: which series of a
    DICOM folder that holds several.
    """

    name: str
    path: Path
    place: int | None = None
    series_uid: str | None = None

    @property
    def title(self) -> str:
        """What its file or folder is called; "" where a number says which channel it is."""
        title = volume_name(self.path)
        return "" if self.place is not None or NUMBER.search(title) else title

    def on_last_axis(self, frame: int | None) -> int | None:
        """What is read of a 4-D file; frame: which one, where the last axis is time."""
        return frame if self.place is None else self.place


def read_channels(files: Sequence[ChannelFile], resample: bool = False, frame: int | None = None) -> Volume:
    """The first channel, with the others on its grid as its `more`.

    What lies on another grid is resampled to it, linearly, if `resample`, else refused with InputError. frame: as for
    `read_volume`.
    """
    volumes = [read_volume(file.path, file.series_uid, frame=file.on_last_axis(frame)) for file in files]
    first = volumes[0]
    if not resample:
        check_grids(files, volumes)
    others = volumes[1:]
    return replace(
        first,
        more=tuple(_on_grid_of(first, volume) for volume in others),
        more_modalities=tuple(volume.modality for volume in others),
        names=tuple(file.name for file in files),
    )


def check_grids(files: Sequence[ChannelFile], volumes: Sequence[Volume]) -> None:
    """Raises InputError for the first channel that is not on the grid of the first one."""
    first = volumes[0]
    for file, volume in zip(files[1:], volumes[1:]):
        apart = describe_grid_difference(
            first.array_kji.shape, first.ijk_to_ras, volume.array_kji.shape, volume.ijk_to_ras
        )
        if apart:
            raise InputError(
                f"channel {file.name!r}, {str(file.path)!r}, is not on the grid of {files[0].name!r}: {apart}; "
                "resample it, or add --resample."
            )


def _on_grid_of(first: Volume, volume: Volume) -> np.ndarray:
    if not describe_grid_difference(first.array_kji.shape, first.ijk_to_ras, volume.array_kji.shape, volume.ijk_to_ras):
        return volume.array_kji
    values = volume.array_kji.astype(np.float32)
    finite = values[np.isfinite(values)]
    moving = image_on_grid(values, volume.ijk_to_ras)
    fixed = image_on_grid(np.zeros(first.array_kji.shape, np.uint8), first.ijk_to_ras)
    beyond = float(finite.min()) if finite.size else 0.0
    return sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, beyond))
