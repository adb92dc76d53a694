"""Embeddings on disk: a frozen encoder gives the same answer for the same slice, so it is computed only once.

The cache is bounded, and several processes may share it: a file appears complete or not at all, the least recently used
is removed first, and an entry that another process has removed is simply computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..base.errors import require
from ..base.files import is_abandoned, partial_path
from ..base.folders import cache_folder
from ..base.hashes import MEMORY_NAME

logger = logging.getLogger(__name__)

LIMIT_VARIABLE = "SAM3DSEGMENT_CACHE_GB"
MOST_BYTES = 50 * 10**9  # by default, however large the disk is
_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_MEMORY = re.compile(re.escape(MEMORY_NAME))
_PARTIAL = re.compile(rf"\.[0-9a-f]+\.partial\.({_ENTRY.pattern}|{_MEMORY.pattern})")


@dataclass(frozen=True)
class CacheInfo:
    """How many entries there are, the disk that they take, and what they may take."""

    folder: Path
    files: int
    bytes: int
    limit_bytes: int


class EmbeddingCache:
    """A bounded store of embeddings, float16 arrays of any shape, each under an `embedding_key`.

    Every entry is a file of its own. When they take more than `limit_bytes` together, those used longest ago go, down
    to nine tenths of it. A process measures the folder again after it has written a twentieth of the limit, so that
    what others write is noticed; by so much can several processes exceed it for a moment.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder()
        self.limit_bytes = cache_limit_bytes(self.folder) if limit_bytes is None else limit_bytes
        self._taken = 0  # bytes of all entries, as far as known
        self._unmeasured = math.inf  # bytes written since the folder was measured
        self._is_writable = True

    def get(self, key: str) -> np.ndarray | None:
        """The array of `key`, or None if it is not here (any more)."""
        import safetensors
        import safetensors.numpy

        path = self._path(key)
        try:
            array = safetensors.numpy.load(path.read_bytes())["embeddings"]
        except (OSError, KeyError, safetensors.SafetensorError):
            return None  # a damaged entry is replaced by the next `put`
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(path)  # the order of removal is that of last use
        return array

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep `array` as float16. A full disk is not an error: the array is not kept, and one warning is logged."""
        import safetensors.numpy

        content = safetensors.numpy.save({"embeddings": np.ascontiguousarray(array, np.float16)})
        self._free_space(len(content))
        if len(content) > self.limit_bytes or not self._is_writable:
            return
        path = self._path(key)
        partial = partial_path(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError as error:
            self._is_writable = False
            logger.warning(
                "embeddings are not cached: %s cannot be written (%s); set SAM3DSEGMENT_CACHE to another folder.",
                self.folder,
                error.strerror,
            )
        else:
            self._taken += len(content)
            self._unmeasured += len(content)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _free_space(self, size: int) -> None:
        """Remove the entries used longest ago unless `size` more bytes fit."""
        if self._taken + size <= self.limit_bytes and self._unmeasured <= self.limit_bytes / 20:
            return
        _remove_abandoned(self.folder)
        entries = sorted(_entries(self.folder), key=lambda entry: entry.last_use)
        self._taken, self._unmeasured = sum(entry.bytes for entry in entries), 0
        if self._taken + size <= self.limit_bytes:
            return
        for entry in entries:
            if self._taken + size <= 0.9 * self.limit_bytes:
                break
            with contextlib.suppress(OSError):  # in use, on Windows
                Path(entry.path).unlink(missing_ok=True)
                self._taken -= entry.bytes


def embedding_key(encoder_sha256: str, image_size: int, computation: str, content: bytes) -> str:
    """Name of an entry: the hash of all that the embedding of one slice depends on.

    `content` are the bytes of the slice, `computation` is how the encoder computes: its version, its number format,
    and how slices are normalised.
    """
    digest = hashlib.sha256(f"{encoder_sha256} {image_size} {computation} ".encode())
    digest.update(content)
    return digest.hexdigest()


def cache_limit_bytes(folder: Path, taken: int | None = None) -> int:
    """What SAM3DSEGMENT_CACHE_GB says; by default half of the disk that is free or taken by the cache, at most 50 GB.

    `taken` are the bytes of the entries in `folder`, if they are known. 0 keeps nothing. Raises InputError for anything
    else than such a number.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    if given:
        try:
            gigabytes = float(given)
        except ValueError:
            gigabytes = math.nan
        require(
            0 <= gigabytes < math.inf,
            f"{LIMIT_VARIABLE} is {given!r}; give the gigabytes that the cache may take, such as 20, or 0 for none.",
        )
        return int(gigabytes * 10**9)
    parent = folder.absolute()
    while not parent.is_dir():
        parent = parent.parent
    if taken is None:
        taken = sum(entry.bytes for entry in _entries(folder))
    return min(MOST_BYTES, (shutil.disk_usage(parent).free + taken) // 2)


def cache_info() -> CacheInfo:
    folder = cache_folder()
    sizes = [entry.bytes for entry in _entries(folder)]
    taken = sum(sizes)
    return CacheInfo(folder, len(sizes), taken, cache_limit_bytes(folder, taken))


def clear_cache() -> CacheInfo:
    """Remove all cached embeddings and return what was removed; other files in the folder stay."""
    before = cache_info()
    for ours in (_ENTRY, _MEMORY, _PARTIAL):
        for item in _files(before.folder, ours):
            with contextlib.suppress(OSError):  # in use, on Windows
                os.unlink(item.path)
    with contextlib.suppress(OSError):
        before.folder.rmdir()  # fails unless it is empty
    after = cache_info()
    return replace(before, files=before.files - after.files, bytes=before.bytes - after.bytes)


@dataclass(frozen=True)
class _Entry:
    path: str
    bytes: int
    last_use: float


def _entries(folder: Path) -> Iterator[_Entry]:
    for item in _files(folder, _ENTRY):
        with contextlib.suppress(OSError):  # removed by another process meanwhile
            status = item.stat(follow_symlinks=False)
            yield _Entry(item.path, status.st_size, status.st_mtime)


def _remove_abandoned(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for item in _files(folder, _PARTIAL):
        with contextlib.suppress(OSError):
            if is_abandoned(Path(item.path)):
                os.unlink(item.path)


def _files(folder: Path, name: re.Pattern[str]) -> list[os.DirEntry[str]]:
    """The files directly in `folder` with such a name, which only this cache gives; [] if there is no folder."""
    try:
        return [item for item in os.scandir(folder) if name.fullmatch(item.name) and not item.is_dir()]
    except OSError:
        return []
