"""Headers of MetaImage files (`.mha`, `.mhd`). Source: MetaIO's documentation."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from ..geometry import matrix_from_lps
from .header import (
    ImageHeader,
    check_finite,
    check_spacing,
    checked,
    factor_to_mm,
    missing_spacing,
    needed_field,
    read_text,
    volume_shape,
)

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_header(path: Path) -> ImageHeader:
    """The checked header. Raises InputError, or ValueError for a word where a number should be."""
    fields, start = _read_fields(path)
    sizes = [int(size) for size in needed_field(path, fields, "DimSize").split()]
    if len(sizes) != int(needed_field(path, fields, "NDims")):
        raise InputError(f"{str(path)!r} has {len(sizes)} sizes for {fields['NDims']} dimensions; export it again.")
    components = int(fields.get("ElementNumberOfChannels", "1"))
    shape, frames = volume_shape(path, sizes)
    kind = needed_field(path, fields, "ElementType")
    if kind not in _TYPES:
        raise InputError(f"{str(path)!r} has voxels of type {kind!r}; give a scalar volume of numbers.")
    matrix = _matrix(path, fields, len(sizes))
    if not _is_true(fields.get("BinaryData", "True")):
        raise InputError(f"{str(path)!r} stores its voxels as text; save it again as binary.")
    big_endian = _is_true(fields.get("BinaryDataByteOrderMSB") or fields.get("ElementByteOrderMSB") or "False")
    deflated = _is_true(fields.get("CompressedData", "False"))
    dtype = np.dtype((">" if big_endian else "<") + _TYPES[kind])
    data, start = _data(path, fields, start)
    skipped = int(fields.get("HeaderSize", "0"))
    if skipped == -1:  # the voxels end the file
        count = math.prod(shape) * frames * components
        start = (data.stat().st_size if data.is_file() else 0) - count * dtype.itemsize
    elif skipped:
        start = skipped
    return checked(
        path,
        ImageHeader(
            shape,
            dtype,
            data,
            components,
            max(0, start),
            deflated=deflated,
            to_mm=factor_to_mm(path, {fields.get("DistanceUnits", "").lower()}),
            ijk_to_ras=matrix,
            frames=frames,
        ),
    )


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and where the data begins."""
    lines, start = read_text(path, re.compile(rb"\s*ElementDataFile\s*="))
    fields = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if equals:
            fields[key.strip()] = value.strip()
    return fields, start


def _data(path: Path, fields: dict[str, str], start: int) -> tuple[Path, int]:
    """The file that holds the voxels, and the byte at which they start."""
    name = needed_field(path, fields, "ElementDataFile")
    if name.upper() == "LOCAL":
        return path, start
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{str(path)!r} stores its voxels in several files; save it again as one .mha file.")
    return path.parent / name, 0


def _matrix(path: Path, fields: dict[str, str], dimensions: int) -> np.ndarray:
    """ijk_to_ras (4, 4) in the file's own unit. Each row of TransformMatrix is the direction of an axis."""

    def numbers(count: int, default: np.ndarray | None, *names: str) -> np.ndarray:
        name = next((name for name in names if fields.get(name)), None)
        if name is None:
            if default is None:
                raise missing_spacing(path, names[0])
            return default
        found = np.array([float(number) for number in fields[name].split()])
        if len(found) != count:
            raise InputError(f"{str(path)!r} has {len(found)} numbers in {name} instead of {count}; export it again.")
        if default is not None:
            check_finite(path, name, found)
        return found

    spacing = numbers(dimensions, None, "ElementSpacing", "ElementSize")[:3]  # there is no default for a size
    check_spacing(path, "ElementSpacing", spacing.tolist())
    origin = numbers(dimensions, np.zeros(3), "Offset", "Position", "Origin")[:3]
    axes = numbers(dimensions**2, np.eye(dimensions).ravel(), "TransformMatrix", "Rotation", "Orientation")
    return matrix_from_lps(origin, spacing, axes.reshape(dimensions, dimensions)[:3, :3].T)


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")
