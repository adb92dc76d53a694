"""The voxels of an image file, read as its header says: inflated, complete, scaled."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from .header import MAGNITUDES, ImageHeader
from .inflation import inflated


def read_voxels(path: Path, header: ImageHeader) -> np.ndarray:
    """Voxels (K, J, I, components) in this machine's byte order, scaled if the header says so.

    Raises InputError if some are missing, or if their checksum is wrong.
    """
    voxels = np.empty((*header.shape, header.components), header.dtype)
    target = voxels.reshape(-1).view(np.uint8).data
    with reading(path), open(header.data, "rb") as file:
        file.seek(header.start)
        if header.deflated:
            _fill(target, inflated(file), header.skip)
        elif file.readinto(target) != len(target):
            raise EOFError
    return as_stated(path, header, voxels)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong while voxels are read into InputError; EOFError means that some are missing."""
    try:
        yield
    except EOFError as error:
        raise InputError(f"{str(path)!r} is cut short; copy or download it again.") from error
    except zlib.error as error:
        raise InputError(f"{str(path)!r} is damaged ({error}); copy or download it again.") from error
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read ({error.strerror or error}); check the file.") from error


def as_stated(path: Path, header: ImageHeader, voxels: np.ndarray) -> np.ndarray:
    """Voxels as they are stored -> in this machine's byte order, and scaled. Raises InputError for absurd values."""
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if (header.slope, header.intercept) != (1.0, 0.0):
        voxels = voxels.astype(np.result_type(voxels.dtype, np.float32)) * header.slope + header.intercept
    _check_magnitude(path, voxels)
    return voxels


def _fill(target: memoryview, pieces: Iterator[bytes], skip: int) -> None:
    """Fill `target` with what follows the first `skip` bytes. Raises EOFError if that is not enough."""
    filled = 0
    for piece in pieces:
        start = min(skip, len(piece))
        skip -= start
        taken = piece[start : start + len(target) - filled]
        target[filled : filled + len(taken)] = taken
        filled += len(taken)
    if filled < len(target):
        raise EOFError


def _check_magnitude(path: Path, voxels: np.ndarray) -> None:
    """Raises InputError if float32, in which everything is computed, would lose all differences between the values."""
    if voxels.dtype.kind != "f":
        return
    largest = max(
        float(np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max()) for values in voxels
    )
    if largest > MAGNITUDES[1] or 0 < largest < MAGNITUDES[0]:
        raise InputError(
            f"{str(path)!r} has values up to {largest:g}, outside the range {MAGNITUDES[0]:g} to {MAGNITUDES[1]:g}; "
            "rescale them, for example with 3D Slicer's Simple Filters."
        )
