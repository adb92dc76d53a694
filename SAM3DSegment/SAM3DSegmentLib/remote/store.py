"""Files that were received, kept by their hash so that nobody sends them twice: models, weights, training cases."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

from ..base.folders import received_folder

MOST_BYTES = 20 * 10**9  # and at most half of the disk that is free
MOST_AGE_S = 30 * 24 * 3600.0  # since it was used last
_NAME = re.compile(r"[0-9a-f]{64}")


class Store:
    """A folder that only its user can read. What was used longest ago goes first; others may use it meanwhile."""

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = folder or received_folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._limit_bytes = limit_bytes

    def take(self, sha256: str, path: Path) -> bool:
        """Whether the file with this hash is here; then it is at `path` too, and stays if the store removes it."""
        kept = self._path(sha256)
        if kept is None:
            return False
        try:
            link(kept, path)
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):  # removed by another process meanwhile
            os.utime(kept)
        return True

    def keep(self, sha256: str, path: Path) -> None:
        """Keep the file, of which the hash was checked. What cannot be kept is sent again the next time."""
        kept = self._path(sha256)
        if kept is None:
            return
        partial = kept.with_name(f".{sha256}.{os.getpid()}")
        try:
            link(path, partial)
            os.replace(partial, kept)
        except OSError:
            pass
        finally:
            partial.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what is too old, or too much."""
        entries = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
        limit = MOST_BYTES if self._limit_bytes is None else self._limit_bytes
        limit = min(limit, (shutil.disk_usage(self.folder).free + sum(size for _, size, _ in entries)) // 2)
        taken = 0
        for used, size, path in sorted(entries, reverse=True):
            taken += size
            if taken > limit or time.time() - used > MOST_AGE_S:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, sha256: str) -> Path | None:
        return self.folder / sha256 if _NAME.fullmatch(sha256) else None


def clear_store() -> int:
    """Remove all that was received and kept; returns how many bytes."""
    folder = received_folder()
    size = sum(item.stat().st_size for item in os.scandir(folder)) if folder.is_dir() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return size


def link(path: Path, other: Path) -> None:
    """A second name, where the disk is the same; else a copy."""
    try:
        os.link(path, other)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, other)
        other.chmod(0o600)
