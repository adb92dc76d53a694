"""Files that appear complete or not at all, and what is checked before work whose result goes into one."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError

_partial_files: set[Path] = set()  # that are being written


def check_new_file(path: Path, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Raises InputError unless a file may be made at `path`; called before the work whose result goes there.

    It may not be a folder, one of the `inputs`, in a folder that is missing or closed, nor, without `overwrite`, exist.
    """
    if path.is_dir():
        raise InputError(f"output {str(path)!r} is a folder; give a file name.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"folder {str(folder)!r} cannot be written to; choose another, or change its permissions.")
    if not path.exists():
        return
    if any(source.exists() and path.samefile(source) for source in inputs):
        raise InputError(f"output {str(path)!r} is also an input and would be lost; give another name.")
    if not overwrite:
        raise InputError(f"output {str(path)!r} exists already; add --overwrite to replace it.")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path with the same ending beside `path`, renamed to it on success; otherwise nothing is left.

    Raises InputError with the reason if it cannot be written. What a killed process left for `path` is removed first.
    """
    _remove_orphans(path)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    _partial_files.add(partial)
    try:
        yield partial
        os.replace(partial, path)
    except (RuntimeError, OSError) as error:  # ITK and torch raise RuntimeError
        raise InputError(
            f"{str(path)!r} cannot be written ({last_line(error)}); check free space and permissions."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        _partial_files.discard(partial)


def remove_partial_files() -> None:
    """For a process that ends while another of its threads is still writing."""
    for partial in list(_partial_files):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with written_whole(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def last_line(error: Exception) -> str:
    """The last line of a library's message, which names the cause; the lines before it may name source files.

    A "Reason" at the end of ITK's is the last error of the system, whatever that was about.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason:")]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def _remove_orphans(path: Path) -> None:
    import psutil

    name = re.compile(rf"\.(\d+)\.partial\.{re.escape(path.name)}")
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            match = name.fullmatch(other.name)
            if match and not psutil.pid_exists(int(match[1])):
                other.unlink(missing_ok=True)
