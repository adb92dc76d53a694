"""What the header of an image file says, and the checks that all formats share.

SimpleITK takes a missing spacing for 1 mm, fills in missing voxels, and ignores the checksum of compressed voxels. So
`nifti.py`, `nrrd.py` and `metaimage.py` check headers, and `voxels.py` reads voxels; SimpleITK only gives the geometry
of NIfTI and NRRD.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from .inflation import LARGEST_RATIO

_TEXT_LIMIT = 1 << 24  # bytes of a text header; a segmentation of a thousand segments has one of a million
MAGNITUDES = 1e-30, 1e30  # limits of the largest absolute value
SLOPES = 1e-15, 1e15  # limits of what stored values are multiplied by
SPACINGS = 1e-9, 1e9  # limits, in any unit
_MM = {"": 1.0, "?": 1.0, "mm": 1.0, "millimeter": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "cm": 10.0, "m": 1e3}


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its voxels.

    shape: (K, J, I), of `components` values each; dtype: that of the file, in its byte order; data: the file that holds
    the voxels from byte `start` on; if `deflated`, in a gzip or zlib stream, whose first `skip` bytes are not voxels.
    frames: how many volumes of this shape the file holds, as of a 4-D series; they follow each other, or if
    `frames_first` the values of all frames stand together at each voxel. times: of the frames, if the file says so.
    value = stored * slope + intercept. to_mm: factor that converts spacing and origin to mm.
    ijk_to_ras: for MetaImage, because SimpleITK crashes on damaged headers; None where SimpleITK gives it.
    qform, sform: the matrices that a NIfTI header states, of which SimpleITK takes one.
    fields: NRRD's own key/value pairs.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    data: Path
    components: int = 1
    start: int = 0
    deflated: bool = False
    skip: int = 0
    slope: float = 1.0
    intercept: float = 0.0
    to_mm: float = 1.0
    ijk_to_ras: np.ndarray | None = None
    qform: np.ndarray | None = None
    sform: np.ndarray | None = None
    fields: dict[str, str] = field(default_factory=dict)
    is_segmentation: bool = False
    frames: int = 1
    frames_first: bool = False
    times: tuple[float, ...] = ()

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.components * self.frames * self.dtype.itemsize


def checked(path: Path, header: ImageHeader) -> ImageHeader:
    """The same header. Raises InputError if the file is too short for its voxels; called before memory is allocated."""
    if header.components < 1:
        raise InputError(f"{str(path)!r} has {header.components} values per voxel; export it again.")
    if not header.data.is_file():
        raise InputError(
            f"{str(path)!r} stores its voxels in {str(header.data)!r}, which does not exist; copy both files."
        )
    there = header.data.stat().st_size - header.start
    if header.bytes + header.skip > there * (LARGEST_RATIO if header.deflated else 1):
        raise InputError(
            f"{str(path)!r} is cut short: its header declares {header.bytes} bytes of voxels, but {max(there, 0)} are "
            "present; copy or download it again."
        )
    return header


def volume_shape(path: Path, sizes: list[int]) -> tuple[tuple[int, int, int], int]:
    """Sizes of the axes, fastest first -> (K, J, I), and how many such volumes there are along a fourth axis.

    More axes may be there if they are of size 1.
    """
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if len(sizes) not in (3, 4) or min(sizes) < 1:
        raise InputError(f"{str(path)!r} has {len(sizes)} dimensions, size {tuple(sizes)}; give a 3-D volume.")
    i, j, k, frames = (*sizes, 1)[:4]
    return (k, j, i), frames


def check_frame(path: Path, header: ImageHeader, frame: int | None) -> None:
    """Raises InputError for a file of several frames of which none was chosen, or one that it does not have."""
    if frame is not None and not 0 <= frame < header.frames:
        raise InputError(f"{str(path)!r} has no frame {frame}; choose one from 0 to {header.frames - 1}.")
    if frame is None and header.frames > 1:
        raise InputError(
            f"{str(path)!r} has 4 dimensions, size {(*header.shape[::-1], header.frames)}; `segment` takes all or some "
            f"of its {header.frames} frames with --frames all, N or N:M, from 0; else give one frame of a 4-D series."
        )


def check_spacing(path: Path, name: str, spacing: list[float]) -> None:
    if not all(SPACINGS[0] <= value <= SPACINGS[1] for value in spacing):
        raise InputError(
            f"{str(path)!r} has {name} {' '.join(f'{value:g}' for value in spacing)}, which is not a voxel size; "
            "set the spacing in mm, for example in 3D Slicer's Volumes module."
        )


def missing_spacing(path: Path, names: str) -> InputError:
    return InputError(
        f"{str(path)!r} does not state the size of its voxels (no {names}); set the spacing in mm, for example in 3D "
        "Slicer's Volumes module."
    )


def check_finite(path: Path, name: str, values: Sequence[float] | np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(
            f"{str(path)!r} has {name} {np.ravel(values).tolist()}, which is not a finite position; fix the file's "
            "header."
        )


def factor_to_mm(path: Path, units: set[str]) -> float:
    """How many mm a unit of length is, of which the header names none, one or several."""
    factors = {_MM.get(unit) for unit in units or {""}}
    if len(factors) > 1 or None in factors:
        raise InputError(f"{str(path)!r} gives lengths in {', '.join(sorted(units))}; save it with lengths in mm.")
    return factors.pop() or 1.0


def read_text(path: Path, last_line: re.Pattern[bytes]) -> tuple[list[str], int]:
    """The lines of a text header up to the one that `last_line` matches, or the end; and where the data begins."""
    lines = []
    with open(path, "rb") as file:
        while line := file.readline(_TEXT_LIMIT):
            lines.append(line.decode("utf-8", "replace").strip("\r\n"))
            if last_line.match(line) or file.tell() > _TEXT_LIMIT:
                break
        return lines, file.tell()


def needed_field(path: Path, fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise InputError(f"the header of {str(path)!r} has no {name!r}; export it again.")
    return fields[name]
