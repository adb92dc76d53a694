"""Which process works on a file: a claim, a small hidden file beside it, that one process alone can make.

Processes of several computers may share the folder. A claim appears by a hard link, which succeeds for one of them, on
NFS too, and changes hands by a rename; file locks are not used, since not every network disk has them. A claim says
whose it is, and is refreshed while its process lives. Where that process has died, another one takes the claim over: on
the same computer at once, else when the claim has not been refreshed for EXPIRY_S.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .files import is_abandoned, last_line, partial_path, temporary
from .owners import Owner, this_computer

SUFFIX = ".claim"
REFRESH_S = 30.0  # a claim is as old as the time since it was refreshed
EXPIRY_S = 300.0  # from this age on, the process of another computer is taken to be dead
_PAUSES_S = 0.01, 0.2  # shortest and longest between two attempts


def claim_path(path: Path) -> Path:
    """A hidden name beside `path`, short however long its name is."""
    return path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}{SUFFIX}")


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether the file `path` is this process's own until the end of the block; if not, a living one has claimed it.

    Raises InputError if nothing can be written beside `path`.
    """
    with _held(claim_path(path), path.name) as is_ours:
        yield is_ours


@contextmanager
def in_turn(path: Path, check: Callable[[], None]) -> Iterator[None]:
    """As `claimed`, but waits until the file is ours, and calls `check` meanwhile. For what takes a moment."""
    pause = _PAUSES_S[0]
    while True:
        with claimed(path) as is_ours:
            if is_ours:
                yield
                return
        check()
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, _PAUSES_S[1])


def owner_of(path: Path) -> Owner | None:
    """Who has claimed the file `path`; None if nobody has."""
    return _owner(_content(claim_path(path)))


def remove_dead_claims(folder: Path) -> None:
    """Those of processes that were killed when they had done their work and before they gave it back."""
    for path in list(folder.glob(f".*{SUFFIX}")):
        with contextlib.suppress(OSError, InputError):
            if ".partial." not in path.name:
                with _held(path, ""):
                    pass
            elif is_abandoned(path):
                path.unlink(missing_ok=True)


@contextmanager
def _held(claim: Path, name: str) -> Iterator[bool]:
    """name: of the file that is claimed, for people who read the claim."""
    owner = {"computer": this_computer(), "process_id": os.getpid(), "of": name, "token": secrets.token_hex(8)}
    content = json.dumps(owner)
    with temporary(claim, lambda: _content(claim) == content):
        try:
            is_ours = _make(claim, content)
        except OSError as error:
            raise InputError(
                f"{str(claim.parent)!r} cannot be written to ({last_line(error)}); check free space and permissions."
            ) from error
        ended = threading.Event()
        if is_ours:
            threading.Thread(target=_refresh, args=(claim, content, ended), name="claim", daemon=True).start()
        try:
            yield is_ours
        finally:
            ended.set()


def _make(claim: Path, content: str) -> bool:
    """Whether the claim is now one of this content."""
    ours = partial_path(claim)
    with temporary(ours):
        ours.write_text(content)
        if _put(ours, claim, content):
            return True
        theirs = _content(claim)
        with contextlib.suppress(FileNotFoundError):  # given back just now
            if theirs is None or not _is_dead(_owner(theirs), ours.stat().st_mtime - claim.stat().st_mtime):
                return False
            return _take_over(ours, claim, theirs)
    return False


def _put(ours: Path, claim: Path, content: str) -> bool:
    """Whether there was no claim, and now there is ours."""
    try:
        os.link(ours, claim)
        return True
    except FileExistsError:
        return ours.stat().st_nlink > 1  # on NFS the answer to the first try may have been lost
    except OSError:  # a file system without hard links, such as exFAT
        try:
            with open(claim, "x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True


def _take_over(ours: Path, claim: Path, dead: str) -> bool:
    """Replace the claim whose content is `dead`. Done under a claim of its own: of several who see it, one does it."""
    mark = hashlib.sha256(dead.encode()).hexdigest()[:16]
    with _held(claim.with_name(f".{mark}.taken{SUFFIX}"), claim.name) as is_ours:
        if not is_ours or _content(claim) != dead:
            return False
        os.replace(ours, claim)
    return True


def _is_dead(owner: Owner | None, age_s: float) -> bool:
    """age_s: by the clock of the disk, since those of two computers differ."""
    return age_s > EXPIRY_S or (owner is not None and owner.is_here() and owner.is_gone())


def _refresh(claim: Path, content: str, ended: threading.Event) -> None:
    while not ended.wait(REFRESH_S):
        with contextlib.suppress(OSError):
            if _content(claim) == content:
                os.utime(claim)


def _content(claim: Path) -> str | None:
    """None if there is no such file."""
    try:
        return claim.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _owner(content: str | None) -> Owner | None:
    """None where a claim does not say it, as one does that is just being written."""
    try:
        fields = json.loads(content or "")
        return Owner(str(fields["computer"]), int(fields["process_id"]))
    except (ValueError, KeyError, TypeError):
        return None
