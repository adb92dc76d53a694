"""Headers of NIfTI-1 files (`.nii`, `.nii.gz`). Source: nifti1.h."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InputError
from .content import Head
from .header import MAGNITUDES, SLOPES, ImageHeader, check_finite, check_spacing, checked, volume_shape

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_LABEL_INTENT = 1002
_LENGTH = 348  # bytes of the header
# Where a field is in the header, and its type.
_FIELDS = {
    "dim": (40, "8h"), "intent": (68, "h"), "type": (70, "h"), "pixdim": (76, "8f"), "offset": (108, "f"),
    "scale": (112, "2f"), "units": (123, "b"), "codes": (252, "2h"), "qform": (256, "6f"), "sform": (280, "12f"),
}  # fmt: skip


def read_header(path: Path, start: Head) -> ImageHeader:
    """The checked header of a file that begins so. Raises InputError, or struct.error for one that is cut short."""
    head, deflated = start
    if head[4:6] in (b"n+", b"ni"):
        raise InputError(f"{str(path)!r} is a NIfTI-2 file; save it as NIfTI-1, or as .nrrd.")
    if head[344:346] == b"ni":
        raise InputError(f"{str(path)!r} is the header of a pair of files (.hdr and .img); save it as one .nii file.")
    order = "<" if head[:4] == struct.pack("<i", _LENGTH) else ">"

    def get(name: str) -> tuple[Any, ...]:
        at, form = _FIELDS[name]
        return struct.unpack_from(order + form, head, at)

    dimensions, *sizes = get("dim")
    if not 1 <= dimensions <= 7:
        raise InputError(f"{str(path)!r} has {dimensions} dimensions; give a 3-D volume.")
    shape, frames = volume_shape(path, sizes[:dimensions])
    check_spacing(path, "pixdim", list(get("pixdim")[1:4]))
    (code,) = get("type")
    if code not in _TYPES:
        raise InputError(f"{str(path)!r} has voxels of NIfTI type {code} (colour, complex, ...); give a scalar volume.")
    (offset,) = get("offset")
    if not _LENGTH <= offset < 1 << 40:
        raise InputError(f"{str(path)!r} has vox_offset {offset:g}, which is not in the file; copy it again.")
    has_qform, has_sform = (code > 0 for code in get("codes"))
    to_mm = {1: 1e3, 3: 1e-3}.get(get("units")[0] & 7, 1.0)  # SimpleITK converts units itself
    qform = _in_mm(path, "qform", _qform(get("pixdim"), get("qform")), to_mm) if has_qform else None
    sform = _in_mm(path, "sform", np.reshape(get("sform"), (3, 4)), to_mm) if has_sform else None
    slope, intercept = _scaling(path, *get("scale"))
    return checked(
        path,
        ImageHeader(
            shape,
            np.dtype(order + _TYPES[code]),
            path,
            start=0 if deflated else int(offset),
            deflated=deflated,
            skip=int(offset) if deflated else 0,
            slope=slope,
            intercept=intercept,
            sform=sform,
            qform=qform,
            is_segmentation=get("intent")[0] == _LABEL_INTENT,
            frames=frames,
            times=_times(frames, get("pixdim")[4], get("units")[0]),
        ),
    )


def _times(frames: int, step: float, units: int) -> tuple[float, ...]:
    """Of the frames, in seconds; none if the header does not say how far they are apart."""
    step *= {16: 1e-3, 24: 1e-6}.get(units & 56, 1.0)
    return tuple(number * step for number in range(frames)) if 0 < step < math.inf else ()


def _qform(pixdim: tuple[float, ...], numbers: tuple[float, ...]) -> np.ndarray:
    """Three rows of ijk_to_ras from a quaternion and an offset: "method 2" of nifti1.h."""
    vector, offset = np.array(numbers[:3]), np.array(numbers[3:])
    square = 1 - vector @ vector
    if square < 1e-7:
        vector, square = vector / np.linalg.norm(vector), 0.0
    a, (b, c, d) = math.sqrt(square), vector
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    spacing = np.array(pixdim[1:4]) * (1, 1, -1 if pixdim[0] < 0 else 1)
    return np.column_stack([turn * spacing, offset])


def _in_mm(path: Path, name: str, rows: np.ndarray, to_mm: float) -> np.ndarray:
    """ijk_to_ras (4, 4) in mm, of which the header has the first three rows."""
    check_finite(path, name, rows)
    return np.vstack([rows * to_mm, (0, 0, 0, 1)])


def _scaling(path: Path, slope: float, intercept: float) -> tuple[float, float]:
    if slope == 0 or not math.isfinite(slope):  # "no scaling", in nifti1.h
        return 1.0, 0.0
    if not (SLOPES[0] <= abs(slope) <= SLOPES[1] and abs(intercept) <= MAGNITUDES[1]):
        raise InputError(f"{str(path)!r} has scl_slope {slope:g} and scl_inter {intercept:g}; fix the file's header.")
    return slope, intercept
