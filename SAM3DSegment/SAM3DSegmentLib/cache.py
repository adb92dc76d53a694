"""Embeddings on disk: a frozen encoder gives the same answer for the same slices, so it is asked only once."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from .folders import cache_folder


@dataclass(frozen=True)
class CacheInfo:
    folder: Path
    files: int
    bytes: int


def cache_info() -> CacheInfo:
    files = list(cache_folder().glob("*.safetensors"))
    return CacheInfo(cache_folder(), len(files), sum(path.stat().st_size for path in files))


def clear_cache() -> CacheInfo:
    """Remove all cached embeddings and say what they were."""
    info = cache_info()
    shutil.rmtree(info.folder, ignore_errors=True)
    return info


def embedding_key(*parts: bytes | str) -> str:
    """Name of a cache entry: the hash of all that an embedding depends on."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
