"""What tells later which slices of a delivered segment were repainted: a short hash of each slice along each axis."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

HASH_BYTES = 3  # of a slice, four characters: one repainted slice in 17 million is taken for an untouched one
LONGEST = 1 << 20  # voxels along an axis
Drawn = Mapping[int, tuple[int, ...]]  # slices that a person has painted so far, by axis of (K, J, I)
NOTHING_DRAWN: Drawn = {}
Hashes = tuple[np.ndarray, np.ndarray, np.ndarray]  # uint32, along K, J and I; 0 for a slice without the segment


def describe_slices(mask_kji: np.ndarray, drawn: Drawn = NOTHING_DRAWN) -> str:
    """In words, without the separators of Slicer's tags: the grid, and the hashes of the slices that have voxels.

    mask_kji: boolean (K, J, I), the segment on the whole grid of its image. Such as "35x51x42 4_AAAA 12_AAAA 9_AAAA
    drawn_2_10_16": along each axis the first slice, and the hashes from there to the last, in base 64, of which an
    empty segment has none; then the slices 10 and 16 along axis 2 that were drawn.
    """
    words = ["x".join(map(str, mask_kji.shape))]
    for hashes in hash_slices(mask_kji):
        there = np.flatnonzero(hashes)
        if len(there):
            packed = hashes[there[0] : there[-1] + 1].astype("<u4")[:, None].view(np.uint8)[:, :HASH_BYTES]
            words.append(f"{there[0]}_{base64.b64encode(packed.tobytes()).decode('ascii')}")
    words += ["_".join(map(str, ("drawn", axis, *numbers))) for axis, numbers in drawn.items()]
    return " ".join(words)


def describe_labels(labels_kji: np.ndarray, values: Iterable[int], drawn: Drawn = NOTHING_DRAWN) -> dict[int, str]:
    """`describe_slices` of each of the values."""
    return {value: describe_slices(labels_kji == value, drawn) for value in values}


def read_description(text: str) -> tuple[tuple[int, ...], Hashes, Drawn]:
    """The shape (K, J, I), the hashes, and what was drawn. Raises ValueError unless `describe_slices` wrote it."""
    grid, *words = text.split()
    shape = tuple(int(size) for size in grid.split("x"))
    drawn = [[int(number) for number in word.split("_")[1:]] for word in words if word.startswith("drawn_")]
    words = words[: len(words) - len(drawn)]
    is_grid = len(shape) == 3 and min(shape) > 0 and max(shape) < LONGEST
    are_inside = is_grid and all(axis < 3 and max(numbers, default=0) < shape[axis] for axis, *numbers in drawn)
    if len(words) not in (0, 3) or not are_inside:
        raise ValueError(f"{text[:40]!r} does not describe slices")
    found = [np.zeros(size, np.uint32) for size in shape]
    for hashes, word in zip(found, words):
        first, _, encoded = word.partition("_")
        try:
            packed = np.frombuffer(base64.b64decode(encoded, validate=True), np.uint8).reshape(-1, HASH_BYTES)
        except binascii.Error as error:
            raise ValueError(f"{word[:40]!r} does not describe slices") from error
        padded = np.pad(packed, ((0, 0), (0, 4 - HASH_BYTES)))
        hashes[int(first) : int(first) + len(packed)] = padded.view("<u4")[:, 0]
    return shape, (found[0], found[1], found[2]), {axis: tuple(numbers) for axis, *numbers in drawn}


def hash_slices(mask_kji: np.ndarray) -> Hashes:
    """Along each axis a hash of each slice, which depends on where its voxels are, and on nothing outside of it."""
    k, j, i = (np.zeros(size, np.uint32) for size in mask_kji.shape)
    slices = np.flatnonzero(mask_kji.any((1, 2)))
    if not len(slices):
        return k, j, i
    first = slices[0]
    part = mask_kji[first : slices[-1] + 1]
    rows, columns = np.flatnonzero(part.any((0, 2))), np.flatnonzero(part.any((0, 1)))
    along_i = np.packbits(part[:, rows[0] : rows[-1] + 1], axis=2)
    along_j = np.packbits(part[:, :, columns[0] : columns[-1] + 1], axis=1)
    for number, bits in enumerate(along_i):
        k[first + number] = _hash(bits, rows[0])
    for number, bits in enumerate(np.moveaxis(along_i, 1, 0)):
        j[rows[0] + number] = _hash(bits, first)
    for number, bits in enumerate(np.moveaxis(along_j, 2, 0)):
        i[columns[0] + number] = _hash(bits, first)
    return k, j, i


def _hash(bits: np.ndarray, first: int) -> int:
    """Of packed rows, of which the first has the number `first`: the same however many empty rows are around them."""
    there = np.flatnonzero(bits.any(1))
    if not len(there):
        return 0
    rows = bits[there[0] : there[-1] + 1].tobytes()
    return zlib.crc32(rows, int(first + there[0])) % (1 << 8 * HASH_BYTES) or 1
