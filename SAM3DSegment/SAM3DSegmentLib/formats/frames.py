"""Volumes that follow each other in one file, as of a beating heart: read one by one, and written together."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..base.errors import InputError
from .header import ImageHeader
from .inflation import PIECE, inflated
from .voxels import as_stated, reading


def read_frame(path: Path, header: ImageHeader, number: int) -> np.ndarray:
    """Voxels (K, J, I, components) of one frame, from 0, as `read_voxels` gives those of a whole file.

    Takes the memory of this frame only: compressed voxels are unpacked into a temporary file, which serves the next
    frames too. Raises InputError.
    """
    frame = np.empty((*header.shape, header.components), header.dtype)
    with reading(path):
        if header.deflated:
            state = header.data.stat()
            file = _unpacked(path, header.data, header.start, header.skip, (state.st_size, state.st_mtime_ns))
            _fill(frame, file, 0, header, number)
        else:
            with open(header.data, "rb") as file:
                _fill(frame, file, header.start, header, number)
    return as_stated(path, header, frame)


def _fill(frame: np.ndarray, file: BinaryIO, start: int, header: ImageHeader, number: int) -> None:
    """Raises EOFError if the file ends before."""
    together, which = (header.frames, number) if header.frames_first else (1, 0)
    values = frame.reshape(-1)
    file.seek(start if header.frames_first else start + number * frame.nbytes)
    at_once = max(1, PIECE // (together * frame.itemsize))
    for first in range(0, len(values), at_once):
        part = values[first : first + at_once]
        piece = file.read(part.nbytes * together)
        if len(piece) < part.nbytes * together:
            raise EOFError
        part[:] = np.frombuffer(piece, header.dtype).reshape(-1, together)[:, which]


@functools.lru_cache(maxsize=1)  # frames of one file are read one after the other
def _unpacked(path: Path, data: Path, start: int, skip: int, state: tuple[int, int]) -> BinaryIO:
    """What a compressed file holds after the first `skip` bytes, in a file that the system removes when it is closed.

    state: size and time of change, so that a file that was replaced is read anew.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 it stays open for the next frames
    with open(data, "rb") as packed:
        packed.seek(start)
        for piece in inflated(packed):
            kept = piece[min(skip, len(piece)) :]
            skip -= len(piece) - len(kept)
            try:
                file.write(kept)
                file.flush()
            except OSError as error:
                raise InputError(
                    f"{str(path)!r} cannot be unpacked into {tempfile.gettempdir()!r} ({error.strerror}); free space "
                    "there, or let TMPDIR name another folder."
                ) from error
    return file
