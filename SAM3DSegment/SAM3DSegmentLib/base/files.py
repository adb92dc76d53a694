"""Files that appear complete or not at all, and what is checked before work whose result goes into one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from .errors import InputError, Sam3dError
from .owners import is_mark_of_the_dead, our_mark

ABANDONED_S = 3600  # a partial file that was not written to for so long is of a process that was killed
_MOST_NAME_BYTES = 255
_DIGITS = 24  # of the mark of a process, and of chance
_partial_files: dict[Path, Callable[[], bool]] = {}  # that are being written, and whether they are ours


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

    Raises InputError with the reason if it cannot be written. What a process that was killed left for `path` is removed
    first.
    """
    partial = partial_path(path)
    with temporary(partial):
        _remove_abandoned(path)
        try:
            yield partial
            os.replace(partial, path)
        except (RuntimeError, OSError) as error:  # ITK and torch raise RuntimeError
            raise InputError(
                f"{str(path)!r} cannot be written ({last_line(error)}); check free space and permissions."
            ) from error


@contextmanager
def temporary(path: Path, is_ours: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Removes the file `path` at the end of the block, if it then `is_ours`; `remove_partial_files` does so before."""
    _partial_files[path] = is_ours
    try:
        yield
    finally:
        _remove(path, is_ours)
        _partial_files.pop(path, None)


def partial_path(path: Path) -> Path:
    """A hidden name beside `path`, with its ending, that no other process takes, be it on another computer."""
    return path.with_name(f".{our_mark()}{secrets.token_hex(4)}{_partial_ending(path)}")


def is_abandoned(partial: Path) -> bool:
    """Whether the process that wrote this partial file was killed.

    A process of another computer or container cannot be asked whether it lives: its files are judged by their age.
    """
    if is_mark_of_the_dead(partial.name[1 : 1 + _DIGITS]):
        return True
    return time.time() - partial.stat(follow_symlinks=False).st_mtime > ABANDONED_S


def _partial_ending(path: Path) -> str:
    """By which the partial files of `path` are known; of a name that is too long, its end."""
    ending = f".partial.{path.name}"
    while len(os.fsencode(ending)) > _MOST_NAME_BYTES - 1 - _DIGITS:  # and the point before them
        ending = f".partial.{ending.removeprefix('.partial.')[1:]}"
    return ending


def is_utf8(path: Path) -> bool:
    """Other names are bytes, which Python keeps as surrogates, and libraries in other languages cannot take."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def openable(path: Path, name: str) -> AbstractContextManager[Path]:
    """The file under a name that libraries in other languages can open: its own, or a link called `name`."""
    return nullcontext(path) if is_utf8(path) else linked(path, name)


@contextmanager
def linked(path: Path, name: str) -> Iterator[Path]:
    """A link of this name to the file `path`, in a folder of its own, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, name)
        link_or_copy(path, link)
        yield link


def link_or_copy(path: Path, link: Path) -> None:
    try:
        link.symlink_to(path.absolute())
    except OSError:  # Windows allows links to some users only
        shutil.copyfile(path, link)


def remove_partial_files() -> None:
    """For a process that ends while another of its threads is still writing."""
    for path, is_ours in list(_partial_files.items()):
        _remove(path, is_ours)


def _remove(path: Path, is_ours: Callable[[], bool]) -> None:
    """Windows removes no file that another process is just reading."""
    for pause_s in (0.02, 0.1, 0.5, 0):
        try:
            if is_ours():
                path.unlink(missing_ok=True)
            return
        except PermissionError:
            time.sleep(pause_s)
        except OSError:
            return


def write_bytes(path: Path, content: bytes) -> None:
    with written_whole(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "backslashreplace"))  # a file's name may be bytes that are no text


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


def one_line(error: Exception, name: str) -> str:
    """Why the work on `name` failed: our own errors say it all, of a library's the last line is taken."""
    return str(error) if isinstance(error, Sam3dError) else f"{name!r} failed: {last_line(error)}."


def _remove_abandoned(path: Path) -> None:
    ending = _partial_ending(path)
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if other.name.endswith(ending) and other.name.startswith("."):
                with contextlib.suppress(OSError):
                    if is_abandoned(other):
                        other.unlink(missing_ok=True)
