"""Headers of NRRD files (`.nrrd`, `.nhdr`). Source: https://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from ..base.errors import InputError
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
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_SEQUENCE = (".seq.nrrd", ".seq.nhdr")  # endings by which Slicer knows a file of frames
_OTHER_NAMES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}


def read_header(path: Path) -> ImageHeader:
    """The checked header. Raises InputError, or ValueError for a word where a number should be."""
    fields, pairs, start = _read_fields(path)
    dimension = int(needed_field(path, fields, "dimension"))
    sizes = [int(size) for size in needed_field(path, fields, "sizes").split()]
    kind = needed_field(path, fields, "type").lower()
    code = next((code for code, names in _TYPES.items() if kind in names), None)
    if code is None:
        raise InputError(f"{str(path)!r} has voxels of type {kind!r}; give a scalar volume of numbers.")
    if len(sizes) != dimension:
        raise InputError(f"{str(path)!r} has {len(sizes)} sizes for {dimension} dimensions; export it again.")
    spatial = axes = _spatial_axes(path, fields, dimension)
    is_segmentation = any(key.startswith(("Segmentation_", "Segment0_")) for key in pairs)
    components = 1
    frames_first = not spatial[0] and dimension == 4
    if frames_first:
        components, *sizes = sizes
        spatial = spatial[1:]
    if not all(spatial[:3]):
        raise missing_spacing(path, "direction of an axis")
    shape, frames = volume_shape(path, sizes)
    if frames_first and not is_segmentation and _has_frames(path, fields):
        frames, components = components, 1
    encoding = needed_field(path, fields, "encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{str(path)!r} stores its voxels in the encoding {encoding!r}; save it as raw or gzip.")
    dtype = np.dtype(code)
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder("<" if _is_little_endian(path, fields) else ">")
    data, start = _data(path, fields, start)
    header = ImageHeader(
        shape,
        dtype,
        data,
        components,
        start,
        deflated=encoding != "raw",
        to_mm=_to_mm(path, fields, axes),
        fields=pairs,
        is_segmentation=is_segmentation,
        frames=frames,
        frames_first=frames_first,
        times=_times(pairs, frames, 0 if frames_first else 3),
    )
    return checked(path, header)


def _read_fields(path: Path) -> tuple[dict[str, str], dict[str, str], int]:
    """The fields of the format, the key/value pairs that programs add, and where the data begins."""
    lines, start = read_text(path, re.compile(rb"\r?\n"))
    fields, pairs = {}, {}
    for line in lines[1:]:
        if line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        if value.startswith("="):
            pairs[key] = re.sub(r"\\(n|\\)", lambda quoted: "\n" if quoted[1] == "n" else "\\", value[1:])
        elif colon:
            fields[_OTHER_NAMES.get(key.strip().lower(), key.strip().lower())] = value.strip()
    return fields, pairs, start


def _spatial_axes(path: Path, fields: dict[str, str], dimension: int) -> list[bool]:
    """For each axis, whether it is a spatial one. Raises InputError unless those have a size."""
    if "space directions" in fields:
        vectors = re.findall(r"none|\([^)]*\)", fields["space directions"])
        for vector in vectors:
            if vector != "none":
                numbers = [float(number) for number in vector.strip("()").split(",")]
                check_finite(path, "space directions", numbers)
                check_spacing(path, "space directions of length", [math.hypot(*numbers)])
    elif "spacings" in fields:
        vectors = fields["spacings"].split()
        numbers = [float(vector) for vector in vectors]
        if dimension == 4 and math.isnan(numbers[0]):  # NaN is right for an axis of colours
            vectors[0], numbers = "none", numbers[1:]
        check_spacing(path, "spacings", numbers)
    else:
        raise missing_spacing(path, "'space directions' or 'spacings'")
    if len(vectors) != dimension:
        raise InputError(f"{str(path)!r} has {len(vectors)} spacings for {dimension} dimensions; export it again.")
    if "space origin" in fields:
        origin = [float(number) for number in fields["space origin"].strip("() ").split(",")]
        check_finite(path, "space origin", origin)
    return [vector != "none" for vector in vectors]


def _has_frames(path: Path, fields: dict[str, str]) -> bool:
    """Whether a first axis without a direction is one of frames; else the values there are of one voxel, as colours."""
    return path.name.lower().endswith(_SEQUENCE) or fields.get("kinds", "").lower().startswith(("list", "time"))


def _times(pairs: dict[str, str], frames: int, axis: int) -> tuple[float, ...]:
    """Of the frames, if Slicer has noted a number for each."""
    try:
        found = tuple(float(text) for text in pairs.get(f"axis {axis} index values", "").split())
    except ValueError:  # they may be texts
        return ()
    return found if len(found) == frames and np.isfinite(found).all() else ()


def _is_little_endian(path: Path, fields: dict[str, str]) -> bool:
    endian = needed_field(path, fields, "endian").lower()
    if endian not in ("little", "big"):
        raise InputError(f"{str(path)!r} has the byte order {endian!r}, not 'little' or 'big'; export it again.")
    return endian == "little"


def _to_mm(path: Path, fields: dict[str, str], spatial: list[bool]) -> float:
    """spatial: of each axis, for "units", which may name seconds for another one."""
    of_space = fields.get("space units", "")
    units = re.findall(r'"([^"]*)"', of_space or fields.get("units", ""))
    if not of_space:
        units = [unit for unit, is_spatial in zip(units, spatial) if is_spatial]
    return factor_to_mm(path, {unit.strip().lower() for unit in units[:3]} - {"", "none", "???"})


def _data(path: Path, fields: dict[str, str], start: int) -> tuple[Path, int]:
    """The file that holds the voxels, and the byte at which they start."""
    if any(int(fields.get(name, "0")) for name in ("line skip", "byte skip")):
        raise InputError(f"{str(path)!r} skips part of its data; save it again in 3D Slicer.")
    if "data file" not in fields:
        return path, start
    name = fields["data file"]
    if name.startswith("LIST") or "%" in name:
        raise InputError(f"{str(path)!r} stores its voxels in several files; save it again as one .nrrd file.")
    return path.parent / name, 0
