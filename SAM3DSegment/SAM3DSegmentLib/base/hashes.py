"""SHA-256 of files, and a memory of it: hashing a checkpoint of 2.5 GB at every click would take seconds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .errors import InputError
from .files import write_json
from .folders import cache_folder

MEMORY_NAME = "hashes.json"  # in the folder of the cache


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """As `file_sha256`, but a file of known path, size and time of change is not read again."""
    path = path.resolve()
    before = path.stat()
    known = _recall().get(str(path), {})
    if (known.get("size"), known.get("mtime_ns")) == (before.st_size, before.st_mtime_ns):
        return known["sha256"]
    sha256 = file_sha256(path)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
        _remember(path, {"size": after.st_size, "mtime_ns": after.st_mtime_ns, "sha256": sha256})
    return sha256


def memory_path() -> Path:
    return cache_folder() / MEMORY_NAME


def _recall() -> dict[str, dict]:
    """Only complete entries; a damaged or missing memory counts as empty."""
    try:
        known = json.loads(memory_path().read_text(encoding="utf-8"))
        return {path: entry for path, entry in known.items() if isinstance(entry["sha256"], str)}
    except (InputError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _remember(path: Path, entry: dict) -> None:
    """Missing files are forgotten. Where nothing can be written, nothing is remembered."""
    known = {name: other for name, other in _recall().items() if Path(name).is_file()}
    try:
        memory_path().parent.mkdir(parents=True, exist_ok=True)
        write_json(memory_path(), {**known, str(path): entry})
    except (OSError, InputError):
        pass
