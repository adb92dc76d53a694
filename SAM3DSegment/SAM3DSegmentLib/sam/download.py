"""Download of a large file: it resumes after a break, is checked by its hash, and appears complete or not at all.

Proxies and certificates are those of the environment (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE), as `requests` reads
them; Slicer ships it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..base.errors import Sam3dError, WeightsError
from ..base.files import last_line
from ..base.hashes import file_sha256
from ..base.watch import UNWATCHED, Watch

if TYPE_CHECKING:
    import requests

TIMEOUT_S = 30.0  # without a byte
WAITS_S = (0.5, 1.0, 2.0, 4.0)  # before each new attempt; starts again whenever more has arrived
_CHUNK = 2**14  # bytes; so much of what has arrived can be lost by a cut
_BEYOND = 2**40  # a position that no file reaches


def partial_path(path: Path) -> Path:
    """Where the received part of `path` is kept until it is complete."""
    return path.with_name(f".{path.name}.partial")


def fetch(
    url: str,
    path: Path,
    sha256: str,
    watch: Watch = UNWATCHED,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Fetch `url` to `path`, continuing what an earlier attempt left; reports bytes done and bytes in all.

    Raises WeightsError saying what to do; Cancelled within a second, also of a server that does not answer. After a
    cut what has arrived is kept for the next attempt, else nothing is left.
    """
    transfer = _Transfer(url, path, sha256, timeout_s)
    transfer.start()
    while transfer.is_alive():
        transfer.join(0.1)
        if watch.cancelled():
            transfer.stop()
        watch.check("nothing was kept.")
        if transfer.total:
            watch.progress("download", transfer.done, transfer.total)
    if transfer.error is not None:
        raise transfer.error


class _Interrupted(Exception):
    """A failure that another attempt may overcome."""


class _Transfer(threading.Thread):
    """A thread of its own, because a waiting socket cannot react to anything else.

    `done` and `total` are bytes, total 0 while it is not known; `error` is what ended it too early.
    """

    def __init__(self, url: str, path: Path, sha256: str, timeout_s: float) -> None:
        super().__init__(daemon=True)
        self.done, self.total = 0, 0
        self.error: Exception | None = None
        self._url, self._path, self._sha256, self._timeout_s = url, path, sha256, timeout_s
        self._partial = partial_path(path)
        self._stopped = threading.Event()
        self._is_ours = False  # what has arrived

    def stop(self) -> None:
        """Ask it to end and remove what has arrived."""
        self._stopped.set()
        self.join(0.5)  # Windows does not remove what a waiting thread has open
        self._discard()

    def run(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._partial, "ab") as file:
                _lock(file, self._path)
                self._is_ours = True
                if not self._path.exists():  # else another process has just finished
                    self._fetch(file)
            if not self._stopped.is_set() and not self._path.exists():
                os.replace(self._partial, self._path)
        except Sam3dError as error:
            self.error = error
        except OSError as error:
            self._discard()
            self.error = WeightsError(
                f"{str(self._path)!r} cannot be written ({last_line(error)}); check free space and permissions, or "
                "set SAM3DSEGMENT_WEIGHTS to another folder."
            )
        except Exception as error:  # else the thread would end in silence
            self.error = error
        finally:
            if self._partial.exists() and self._partial.stat().st_size == 0:
                self._discard()

    def _discard(self) -> None:
        """Remove what has arrived, unless it is another process that fetches it."""
        if self._is_ours:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _fetch(self, file: IO[bytes]) -> None:
        import requests

        began_anew = file.tell() == 0
        with requests.Session() as session:
            while not self._stopped.is_set():
                self._receive_all(session, file)
                if self._stopped.is_set() or file_sha256(self._partial) == self._sha256:
                    return
                _empty(file)
                if began_anew:
                    raise WeightsError(
                        f"the file from {self._url} is not the published file: its SHA-256 is not {self._sha256}; "
                        "try again later, or from another address."
                    )
                began_anew = True  # what an earlier attempt left was of another file

    def _receive_all(self, session: requests.Session, file: IO[bytes]) -> None:
        waits, furthest = iter(WAITS_S), file.tell()
        while not self._stopped.is_set():
            try:
                self._receive(session, file)
                return
            except _Interrupted as error:
                if file.tell() > furthest:
                    waits, furthest = iter(WAITS_S), file.tell()
                wait = next(waits, None)
                if wait is None:
                    kept = f"; {file.tell() / 1e6:.1f} MB are kept and the next download continues from there"
                    raise WeightsError(
                        f"{self._url} could not be downloaded ({error}){kept if file.tell() else ''}; check the "
                        f"network or proxy and try again, or copy the file to {str(self._path)!r} by hand."
                    ) from error
                self._stopped.wait(wait)

    def _receive(self, session: requests.Session, file: IO[bytes]) -> None:
        """One request for what is still missing. Raises _Interrupted for what a later request may give."""
        import requests

        offset = file.tell()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
        try:
            with session.get(self._url, headers=headers, stream=True, timeout=self._timeout_s) as response:
                if offset and response.status_code == requests.codes.requested_range_not_satisfiable:
                    return  # there is no more; the hash says whether it is right
                _check_status(response, self._url, self._path)
                if response.status_code != requests.codes.partial_content:
                    _empty(file)
                self._receive_body(response, file)
        except requests.exceptions.SSLError as error:
            raise WeightsError(
                f"{self._url} is not trusted ({_reason(error)}); if your network uses its own certificate, name its "
                "file in REQUESTS_CA_BUNDLE."
            ) from error
        except requests.exceptions.ChunkedEncodingError as error:
            raise _Interrupted("the connection was cut") from error
        except (requests.exceptions.Timeout, requests.exceptions.ConnectionError) as error:
            raise _Interrupted(_reason(error)) from error
        except requests.exceptions.RequestException as error:
            raise WeightsError(f"{self._url} could not be downloaded ({_reason(error)}); check the address.") from error

    def _receive_body(self, response: requests.Response, file: IO[bytes]) -> None:
        self.done = file.seek(0, os.SEEK_END)
        length = int(response.headers.get("Content-Length", 0))
        self.total = self.done + length if length else 0
        free = shutil.disk_usage(self._path.parent).free
        if length > free:
            _empty(file)
            raise WeightsError(
                f"{length / 1e6:.0f} MB more are needed in {str(self._path.parent)!r}, where {free / 1e6:.0f} MB are "
                "free; free some space, or move the folder with SAM3DSEGMENT_WEIGHTS."
            )
        for chunk in response.iter_content(_CHUNK):
            if self._stopped.is_set():
                return
            file.write(chunk)
            file.flush()
            self.done += len(chunk)
        if self.done < self.total:
            raise _Interrupted("the connection was cut")


def _check_status(response: requests.Response, url: str, path: Path) -> None:
    answer = f"{response.status_code} {response.reason}".strip()
    if response.status_code >= 500 or response.status_code == 429:
        raise _Interrupted(f"the server answered {answer}")
    if not response.ok:
        raise WeightsError(
            f"{url} could not be downloaded (the server answered {answer}); check the address, or copy the file to "
            f"{str(path)!r} by hand."
        )


def _reason(error: Exception) -> str:
    """The innermost cause in one line: what `requests` wraps it in names objects and their addresses."""
    cause: Any = error
    while True:
        inner = getattr(cause, "reason", None) or next((a for a in cause.args if isinstance(a, Exception)), None)
        if not isinstance(inner, Exception):
            break
        cause = inner
    return str(cause).rpartition(">: ")[2].replace("\n", " ") or type(cause).__name__


def _empty(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _lock(file: IO[bytes], path: Path) -> None:
    """Take `file` for this process alone, until it is closed or the process dies; WeightsError if another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_BEYOND)  # a locked byte cannot be read, so one is taken that is never there
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0, os.SEEK_END)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise WeightsError(f"{str(path)!r} is already being downloaded; wait until that has finished.") from error
    except OSError:
        pass  # a file system without locks
