"""What the header of an image file says, read before anything is taken for granted: content, size, units.

SimpleITK takes a spacing that is missing for 1 mm, fills up voxels that are missing, and does not look at the checksum
of compressed voxels. So the headers are checked here, and the voxels are read by `read_voxels`; SimpleITK gives the
geometry of NIfTI and NRRD. Sources: nifti1.h; https://teem.sourceforge.net/nrrd/format.html; MetaIO's documentation.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..base.errors import InputError
from ..geometry import matrix_from_lps

NIFTI, NRRD, METAIMAGE, DICOM, GZIP = "NIfTI", "NRRD", "MetaImage", "DICOM", "gzip"
_FORMAT_OF_SUFFIX = {
    ".nii": NIFTI,
    ".nii.gz": NIFTI,
    ".nrrd": NRRD,
    ".nhdr": NRRD,
    ".mha": METAIMAGE,
    ".mhd": METAIMAGE,
}
VOLUME_SUFFIXES = tuple(_FORMAT_OF_SUFFIX)
MAGNITUDES = 1e-30, 1e30  # between which the largest voxel is to be
_PIECE = 1 << 20  # bytes that are read at once
_TEXT_LIMIT = 1 << 24  # bytes of a text header; a segmentation of a thousand segments has one of a million
_INFLATION_LIMIT = 1032  # times that DEFLATE can make data larger
_AUTODETECT = 47  # zlib's `wbits` for a gzip or a zlib stream, whichever comes
_MM = {"": 1.0, "?": 1.0, "mm": 1.0, "millimeter": 1.0, "um": 1e-3, "µm": 1e-3, "micron": 1e-3, "cm": 10.0, "m": 1e3}
_NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_NIFTI_LABEL_INTENT = 1002
_NRRD_TYPES = {
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
_NRRD_OTHER_NAMES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_META_TYPES = {
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


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its voxels.

    shape: (K, J, I), of `components` values each; dtype: of the file, in its byte order; data: the file that holds the
    voxels, from byte `start` on, in a gzip or zlib stream if `deflated`, of which the first `skip` bytes are something
    else.
    value = stored * slope + intercept. to_mm: what spacing and origin are to be multiplied by.
    ijk_to_ras: of a MetaImage, whose damaged headers SimpleITK does not survive; else SimpleITK knows it.
    sform: the matrix that a NIfTI header states beside, or instead of (`has_qform`), the one that SimpleITK takes.
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
    sform: np.ndarray | None = None
    has_qform: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    is_segmentation: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.components * self.dtype.itemsize


def image_suffix(path: Path) -> str | None:
    """The ending by which `path` names an image format, or None."""
    lower = path.name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if lower.endswith(suffix)), None)


def is_dicom(path: Path) -> bool:
    """Whether the file has the mark of DICOM, whatever its name."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return _content(head) == DICOM


def read_header(path: Path) -> ImageHeader:
    """The checked header of a volume file. Raises InputError with one line that says what to do."""
    suffix = image_suffix(path)
    if suffix is None:
        if is_dicom(path):
            raise InputError(f"{str(path)!r} is one DICOM file; give the folder that holds its whole series.")
        raise InputError(f"{str(path)!r} is of no known format; use {', '.join(VOLUME_SUFFIXES)} or a DICOM folder.")
    try:
        with open(path, "rb") as file:
            head = file.read(_PIECE)
        _check_content(path, head, suffix)
        return {NIFTI: _read_nifti, NRRD: _read_nrrd, METAIMAGE: _read_metaimage}[_FORMAT_OF_SUFFIX[suffix]](path)
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror or error}); check the file.") from error
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise InputError(f"the header of {str(path)!r} cannot be understood ({error}); export it again.") from error


def read_voxels(path: Path, header: ImageHeader) -> np.ndarray:
    """Voxels (K, J, I, components) in this machine's byte order, scaled if the header says so.

    Raises InputError if some are missing, or if their checksum is wrong.
    """
    voxels = np.empty((*header.shape, header.components), header.dtype)
    target = voxels.reshape(-1).view(np.uint8).data
    try:
        with open(header.data, "rb") as file:
            file.seek(header.start)
            if header.deflated:
                _fill(target, _inflated(file), header.skip)
            elif file.readinto(target) != len(target):
                raise EOFError
    except EOFError as error:
        raise InputError(f"{str(path)!r} is cut short; copy or download it again.") from error
    except zlib.error as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); copy or download it again.") from error
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror or error}); check the file.") from error
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.intercept) != (1.0, 0.0):
        voxels = voxels.astype(np.result_type(voxels.dtype, np.float32)) * header.slope + header.intercept
    _check_magnitude(path, voxels)
    return voxels


def _check_magnitude(path: Path, voxels: np.ndarray) -> None:
    """Raises InputError if all that differs would be lost in float32, by which everything computes."""
    if voxels.dtype.kind != "f":
        return
    largest = max(
        float(np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max()) for values in voxels
    )
    if largest > MAGNITUDES[1] or 0 < largest < MAGNITUDES[0]:
        raise InputError(
            f"{str(path)!r} has values up to {largest:g}, which is outside {MAGNITUDES[0]:g} to {MAGNITUDES[1]:g}; "
            "scale them, as with 3D Slicer's Simple Filters."
        )


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """What a gzip file of one or more members, or a zlib stream, holds; in pieces, with every checksum checked."""
    stream = zlib.decompressobj(_AUTODETECT)
    while data := file.read(_PIECE):
        while data:
            if stream.eof:  # another member, or zeros that fill up a block
                data = data.lstrip(b"\0")
                if not data.startswith(b"\x1f\x8b"):
                    break
                stream = zlib.decompressobj(_AUTODETECT)
            yield stream.decompress(data, 16 * _PIECE)
            data = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        raise EOFError


def _fill(target: memoryview, pieces: Iterator[bytes], skip: int) -> None:
    filled = 0
    for piece in pieces:
        start = min(skip, len(piece))
        skip -= start
        taken = piece[start : start + len(target) - filled]
        target[filled : filled + len(taken)] = taken
        filled += len(taken)
    if filled < len(target):
        raise EOFError


def _content(head: bytes) -> str | None:
    """The format that a file's first bytes are of."""
    if head[128:132] == b"DICM":
        return DICOM
    if head[:2] == b"\x1f\x8b":
        return GZIP
    if head[:4] == b"NRRD":
        return NRRD
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return NIFTI
    if re.match(rb"\s*(ObjectType|NDims|Comment)\s*=", head):
        return METAIMAGE
    return None


def _check_content(path: Path, head: bytes, suffix: str) -> None:
    """Raises InputError if a file holds something else than its name says."""
    expected = _FORMAT_OF_SUFFIX[suffix]
    if not head:
        raise InputError(f"{str(path)!r} is empty; copy or export it again.")
    content = _content(head)
    compressed = content == GZIP
    if compressed:
        content = _content(_inflated_head(path))
    if content == expected and (not compressed or suffix == ".nii.gz"):
        return
    if content is None:
        raise InputError(f"{str(path)!r} is no {expected} file, or damaged; check that it is a whole image.")
    if compressed and content != NIFTI:
        raise InputError(f"{str(path)!r} is {content} compressed by gzip; unpack it with gunzip.")
    ending = {NIFTI: ".nii.gz" if compressed else ".nii", NRRD: ".nrrd", METAIMAGE: ".mha", DICOM: ".dcm"}[content]
    kind = f"{content} compressed by gzip" if compressed else content
    raise InputError(
        f"{str(path)!r} holds {kind}, which its ending {suffix} does not say; rename it to end in {ending}."
    )


def _inflated_head(path: Path) -> bytes:
    with open(path, "rb") as file:
        try:
            return zlib.decompressobj(_AUTODETECT).decompress(file.read(_PIECE), 4096)
        except zlib.error:
            return b""


def _checked(path: Path, header: ImageHeader) -> ImageHeader:
    """The same header, unless the file is too short for the voxels that it claims: asked before memory is taken."""
    if header.components < 1:
        raise InputError(f"{str(path)!r} has {header.components} values per voxel; export it again.")
    if not header.data.is_file():
        raise InputError(f"{str(path)!r} has its voxels in {str(header.data)!r}, which does not exist; copy both.")
    there = header.data.stat().st_size - header.start
    if header.bytes + header.skip > there * (_INFLATION_LIMIT if header.deflated else 1):
        raise InputError(
            f"{str(path)!r} is cut short: its header tells of {header.bytes} bytes of voxels, and {max(there, 0)} are "
            "there; copy or download it again."
        )
    return header


def _volume_shape(path: Path, sizes: list[int]) -> tuple[int, int, int]:
    """Sizes of the axes, fastest first -> (K, J, I); a fourth axis and more may be there if they are of size 1."""
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if len(sizes) != 3 or min(sizes) < 1:
        raise InputError(
            f"{str(path)!r} has {len(sizes)} dimensions, size {tuple(sizes)}; "
            "give a 3-D volume (of a 4-D one, extract a frame)."
        )
    i, j, k = sizes
    return k, j, i


def _check_spacing(path: Path, name: str, spacing: list[float]) -> None:
    if not all(math.isfinite(value) and value > 0 for value in spacing):
        raise InputError(
            f"{str(path)!r} has {name} {' '.join(f'{value:g}' for value in spacing)}: its voxels have no size; "
            "set the spacing in mm, as in 3D Slicer's Volumes module."
        )


def _check_finite(path: Path, name: str, values: Sequence[float] | np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(f"{str(path)!r} has {name} {np.ravel(values).tolist()}, which is no place; mend its header.")


def _no_spacing(path: Path, names: str) -> InputError:
    return InputError(
        f"{str(path)!r} does not say how large its voxels are (no {names}); set the spacing in mm, as in 3D Slicer's "
        "Volumes module."
    )


# ---- NIfTI

# Where a field is in the header of 348 bytes, and its type.
_NIFTI_LENGTH = 348
_NIFTI_FIELDS = {
    "dim": (40, "8h"), "intent": (68, "h"), "type": (70, "h"), "pixdim": (76, "8f"), "offset": (108, "f"),
    "scale": (112, "2f"), "units": (123, "b"), "codes": (252, "2h"), "qform": (256, "6f"), "sform": (280, "12f"),
}  # fmt: skip


def _read_nifti(path: Path) -> ImageHeader:
    with open(path, "rb") as file:
        head = file.read(_PIECE)
    deflated = head[:2] == b"\x1f\x8b"
    if deflated:
        head = _inflated_head(path)
    if head[4:6] in (b"n+", b"ni"):
        raise InputError(f"{str(path)!r} is of NIfTI's second version; save it as the first, or as .nrrd.")
    if head[344:346] == b"ni":
        raise InputError(f"{str(path)!r} is the header of a pair of files (.hdr and .img); save it as one .nii file.")
    order = "<" if head[:4] == struct.pack("<i", _NIFTI_LENGTH) else ">"

    def get(name: str) -> tuple[Any, ...]:
        at, form = _NIFTI_FIELDS[name]
        return struct.unpack_from(order + form, head, at)

    dimensions, *sizes = get("dim")
    if not 1 <= dimensions <= 7:
        raise InputError(f"{str(path)!r} has {dimensions} dimensions; give a 3-D volume.")
    shape = _volume_shape(path, sizes[:dimensions])
    _check_spacing(path, "pixdim", list(get("pixdim")[1:4]))
    (code,) = get("type")
    if code not in _NIFTI_TYPES:
        raise InputError(f"{str(path)!r} has voxels of NIfTI type {code} (colour, complex, ...); give a scalar volume.")
    (offset,) = get("offset")
    if not _NIFTI_LENGTH <= offset < 1 << 40:
        raise InputError(f"{str(path)!r} has vox_offset {offset:g}, which is no place in the file; copy it again.")
    has_qform, has_sform = (code > 0 for code in get("codes"))
    if has_qform:
        _check_finite(path, "qform", get("qform"))
    sform = np.vstack([np.reshape(get("sform"), (3, 4)), (0, 0, 0, 1)])
    to_mm = {1: 1e3, 3: 1e-3}.get(get("units")[0] & 7, 1.0)
    if has_sform:
        _check_finite(path, "sform", sform)
        sform[:3] *= to_mm  # SimpleITK converts NIfTI's units itself
    slope, intercept = get("scale")
    if slope == 0 or not math.isfinite(slope):  # "no scaling", in nifti1.h
        slope, intercept = 1.0, 0.0
    if not (1e-15 < abs(slope) < 1e15 and abs(intercept) < 1e30):
        raise InputError(f"{str(path)!r} has scl_slope {slope:g} and scl_inter {intercept:g}; mend its header.")
    return _checked(
        path,
        ImageHeader(
            shape,
            np.dtype(order + _NIFTI_TYPES[code]),
            path,
            start=0 if deflated else int(offset),
            deflated=deflated,
            skip=int(offset) if deflated else 0,
            slope=slope,
            intercept=intercept,
            sform=sform if has_sform else None,
            has_qform=has_qform,
            is_segmentation=get("intent")[0] == _NIFTI_LABEL_INTENT,
        ),
    )


# ---- NRRD


def _read_text(path: Path, last_line: re.Pattern[bytes]) -> tuple[list[str], int]:
    """The lines of a text header up to the one that `last_line` matches, or the end; and where the data begins."""
    lines = []
    with open(path, "rb") as file:
        while line := file.readline(_TEXT_LIMIT):
            lines.append(line.decode("utf-8", "replace").strip("\r\n"))
            if last_line.match(line) or file.tell() > _TEXT_LIMIT:
                break
        return lines, file.tell()


def _read_nrrd(path: Path) -> ImageHeader:
    lines, start = _read_text(path, re.compile(rb"\r?\n"))
    fields, pairs = {}, {}
    for line in lines[1:]:
        if line.startswith("#"):
            continue
        key, colon, value = line.partition(":")
        if value.startswith("="):
            pairs[key] = value[1:]
        elif colon:
            fields[_NRRD_OTHER_NAMES.get(key.strip().lower(), key.strip().lower())] = value.strip()
    dimension = int(_needed(path, fields, "dimension"))
    sizes = [int(size) for size in _needed(path, fields, "sizes").split()]
    kind = _needed(path, fields, "type").lower()
    code = next((code for code, names in _NRRD_TYPES.items() if kind in names), None)
    if code is None:
        raise InputError(f"{str(path)!r} has voxels of type {kind!r}; give a scalar volume of numbers.")
    if len(sizes) != dimension:
        raise InputError(f"{str(path)!r} has {len(sizes)} sizes for {dimension} dimensions; export it again.")
    spatial = _nrrd_spatial_axes(path, fields, dimension)
    components = 1
    if not spatial[0] and dimension == 4:
        components, *sizes = sizes
    shape = _volume_shape(path, sizes)
    encoding = _needed(path, fields, "encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"{str(path)!r} has voxels in the encoding {encoding!r}; save it again as raw or gzip.")
    if np.dtype(code).itemsize > 1:
        endian = _needed(path, fields, "endian").lower()
        if endian not in ("little", "big"):
            raise InputError(f"{str(path)!r} has the byte order {endian!r}, not 'little' or 'big'; export it again.")
        code = ("<" if endian == "little" else ">") + code
    data, start = _nrrd_data(path, fields, start)
    header = ImageHeader(
        shape,
        np.dtype(code),
        data,
        components,
        start,
        deflated=encoding != "raw",
        to_mm=_nrrd_to_mm(path, fields),
        fields=pairs,
        is_segmentation=any(key.startswith(("Segmentation_", "Segment0_")) for key in pairs),
    )
    return _checked(path, header)


def _needed(path: Path, fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise InputError(f"the header of {str(path)!r} has no {name!r}; export it again.")
    return fields[name]


def _nrrd_spatial_axes(path: Path, fields: dict[str, str], dimension: int) -> list[bool]:
    """Of each axis whether it is one of space; raises InputError unless those have a size."""
    if "space directions" in fields:
        vectors = re.findall(r"none|\([^)]*\)", fields["space directions"])
        for vector in vectors:
            if vector != "none":
                numbers = [float(number) for number in vector.strip("()").split(",")]
                _check_finite(path, "space directions", numbers)
                _check_spacing(path, "space directions of length", [math.hypot(*numbers)])
    elif "spacings" in fields:
        vectors = fields["spacings"].split()
        numbers = [float(vector) for vector in vectors]
        if dimension == 4 and math.isnan(numbers[0]):  # NaN is right for an axis of colours
            vectors[0], numbers = "none", numbers[1:]
        _check_spacing(path, "spacings", numbers)
    else:
        raise _no_spacing(path, "'space directions' or 'spacings'")
    if len(vectors) != dimension:
        raise InputError(f"{str(path)!r} has {len(vectors)} spacings for {dimension} dimensions; export it again.")
    if "space origin" in fields:
        origin = [float(number) for number in fields["space origin"].strip("() ").split(",")]
        _check_finite(path, "space origin", origin)
    return [vector != "none" for vector in vectors]


def _nrrd_to_mm(path: Path, fields: dict[str, str]) -> float:
    text = fields.get("space units") or fields.get("units") or ""
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', text)} - {"", "none", "???"}
    return _mm_of(path, units)


def _mm_of(path: Path, units: set[str]) -> float:
    factors = {_MM.get(unit) for unit in units or {""}}
    if len(factors) > 1 or None in factors:
        raise InputError(f"{str(path)!r} has sizes in {', '.join(sorted(units))}; save it with sizes in mm.")
    return factors.pop() or 1.0


def _nrrd_data(path: Path, fields: dict[str, str], start: int) -> tuple[Path, int]:
    """The file that holds the voxels, and the byte at which they start."""
    if any(int(fields.get(name, "0")) for name in ("line skip", "byte skip")):
        raise InputError(f"{str(path)!r} skips a part of its data; save it again in 3D Slicer.")
    if "data file" not in fields:
        return path, start
    name = fields["data file"]
    if name.startswith("LIST") or "%" in name:
        raise InputError(f"{str(path)!r} has its voxels in many files; save it again as one .nrrd file.")
    return path.parent / name, 0


# ---- MetaImage


def _read_metaimage(path: Path) -> ImageHeader:
    lines, start = _read_text(path, re.compile(rb"\s*ElementDataFile\s*="))
    fields = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if equals:
            fields[key.strip()] = value.strip()
    sizes = [int(size) for size in _needed(path, fields, "DimSize").split()]
    if len(sizes) != int(_needed(path, fields, "NDims")):
        raise InputError(f"{str(path)!r} has {len(sizes)} sizes for {fields['NDims']} dimensions; export it again.")
    components = int(fields.get("ElementNumberOfChannels", "1"))
    shape = _volume_shape(path, sizes)
    kind = _needed(path, fields, "ElementType")
    if kind not in _META_TYPES:
        raise InputError(f"{str(path)!r} has voxels of type {kind!r}; give a scalar volume of numbers.")
    matrix = _metaimage_matrix(path, fields, len(sizes))
    if not _is_true(fields.get("BinaryData", "True")):
        raise InputError(f"{str(path)!r} has its voxels as text; save it again as binary.")
    big_endian = _is_true(fields.get("BinaryDataByteOrderMSB") or fields.get("ElementByteOrderMSB") or "False")
    deflated = _is_true(fields.get("CompressedData", "False"))
    dtype = np.dtype((">" if big_endian else "<") + _META_TYPES[kind])
    name = _needed(path, fields, "ElementDataFile")
    data = path
    if name.upper() != "LOCAL":
        if name.upper().startswith("LIST") or "%" in name:
            raise InputError(f"{str(path)!r} has its voxels in many files; save it again as one .mha file.")
        data, start = path.parent / name, 0
    skipped = int(fields.get("HeaderSize", "0"))
    if skipped == -1:  # the voxels end the file
        start = (data.stat().st_size if data.is_file() else 0) - math.prod(shape) * components * dtype.itemsize
    elif skipped:
        start = skipped
    return _checked(
        path,
        ImageHeader(
            shape,
            dtype,
            data,
            components,
            max(0, start),
            deflated=deflated,
            to_mm=_mm_of(path, {fields.get("DistanceUnits", "").lower()}),
            ijk_to_ras=matrix,
        ),
    )


def _metaimage_matrix(path: Path, fields: dict[str, str], dimensions: int) -> np.ndarray:
    """ijk_to_ras (4, 4) in the file's own unit. Each row of TransformMatrix is the direction of an axis."""

    def numbers(count: int, default: np.ndarray | None, *names: str) -> np.ndarray:
        name = next((name for name in names if fields.get(name)), None)
        if name is None:
            if default is None:
                raise _no_spacing(path, names[0])
            return default
        found = np.array([float(number) for number in fields[name].split()])
        if len(found) != count:
            raise InputError(f"{str(path)!r} has {len(found)} numbers of {name} instead of {count}; export it again.")
        if default is not None:
            _check_finite(path, name, found)
        return found

    spacing = numbers(dimensions, None, "ElementSpacing", "ElementSize")[:3]  # there is no default for a size
    _check_spacing(path, "ElementSpacing", spacing.tolist())
    origin = numbers(dimensions, np.zeros(3), "Offset", "Position", "Origin")[:3]
    axes = numbers(dimensions**2, np.eye(dimensions).ravel(), "TransformMatrix", "Rotation", "Orientation")
    return matrix_from_lps(origin, spacing, axes.reshape(dimensions, dimensions)[:3, :3].T)


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")
