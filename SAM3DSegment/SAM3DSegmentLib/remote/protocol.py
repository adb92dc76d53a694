"""What goes over the connection: frames, each a JSON object or a piece of a file, in both directions alike.

A frame is a byte that tells its kind, the length of what follows (4 bytes, big-endian), and that. A file is an object
with its name, its pieces, and an object with the SHA-256 of all of them, which the receiver has computed too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import InputError, Sam3dError

VERSION = 1  # of the protocol; the two ends must have the same
GREETING = b"SAM3DSEGMENT remote\n"  # before the first frame of the far end, after whatever its shell says
PIECE = 2**20  # bytes of a file that are in memory at a time
ALIVE_S = 10.0  # at the latest after so long something is sent, so that the other end knows
SILENCE_S = 60.0  # after so long without a byte the other end has gone
_MOST_BYTES = 2**24  # of an object
_WAITING = 8  # frames before one that sends or receives has to wait
_HEAD = struct.Struct(">cI")
_OBJECT, _PLAIN, _DEFLATED = b"J", b"P", b"Z"

Frame = dict[str, Any] | bytes  # an object, or a piece of a file


class Lost(Sam3dError):
    """The connection has ended, or what came over it makes no sense."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class Writable(Protocol):
    def write(self, data: bytes, /) -> int | None: ...


def read_frame(stream: Readable) -> Frame | None:
    """The next frame; None at the end of the stream. Raises Lost for anything else."""
    head = _read(stream, _HEAD.size)
    if not head:
        return None
    kind, size = _HEAD.unpack(head)
    if kind not in (_OBJECT, _PLAIN, _DEFLATED) or size > _MOST_BYTES:
        raise Lost("what was received is not of this protocol.")
    body = _read(stream, size)
    try:
        if kind == _OBJECT:
            value = json.loads(body)
            if not isinstance(value, dict):
                raise ValueError("no object")
            return value
        return body if kind == _PLAIN else _inflate(body)
    except (ValueError, RecursionError, zlib.error) as error:
        raise Lost("what was received is damaged.") from error


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    piece = inflater.decompress(body, PIECE)
    if not inflater.eof:  # more than a piece may have
        raise ValueError("too large")
    return piece


def _read(stream: Readable, size: int) -> bytes:
    """So many bytes, or none at the end of the stream. Raises Lost if it ends among them."""
    parts, missing = [], size
    while missing:
        part = stream.read(missing)
        if not part:
            if missing == size:
                return b""
            raise Lost("the connection ended in the middle.")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def is_sign_of_life(frame: Frame) -> bool:
    """Whether it says nothing else."""
    return isinstance(frame, dict) and "alive" in frame


def encode(frame: Frame, deflate: bool = False) -> bytes:
    if isinstance(frame, dict):
        return _framed(_OBJECT, json.dumps(frame).encode())
    packed = zlib.compress(frame, 1) if deflate else frame
    return _framed(_DEFLATED, packed) if len(packed) < len(frame) else _framed(_PLAIN, frame)


def _framed(kind: bytes, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body


class Outbox:
    """Sends frames from a thread of its own, so that who sends can be asked to stop meanwhile.

    When there is nothing to send it says that this end is alive. What cannot be sent any more is dropped: whether the
    connection has ended is known to who receives.
    """

    def __init__(self, stream: Writable, wait: Callable[[], None]) -> None:
        """wait: called again and again while there is more to send than the connection takes; may raise."""
        self._stream = stream
        self._wait = wait
        self._waiting: queue.Queue[tuple[Frame, bool] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def send(self, frame: Frame, deflate: bool = False) -> None:
        while self._thread.is_alive():
            try:
                self._waiting.put((frame, deflate), timeout=0.1)
                return
            except queue.Full:
                self._wait()

    def close(self, patience_s: float) -> bool:
        """Send what is waiting, if that takes no longer; whether nothing more will be sent."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=patience_s)
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        is_open = True
        while is_open:
            try:
                item = self._waiting.get(timeout=ALIVE_S)
            except queue.Empty:
                item = ({"alive": True}, False)
            if item is None:
                return
            is_open = self._write(encode(*item))

    def _write(self, data: bytes) -> bool:
        view = memoryview(data)
        try:
            while view:
                view = view[self._stream.write(view) or 0 :]  # type: ignore[arg-type]
        except (OSError, ValueError):
            return False
        return True


def send_file(outbox: Outbox, path: Path, name: str, tell: Callable[[int], None] = lambda _size: None) -> None:
    """The file under this name, in pieces; tell: called with the size of each."""
    digest = hashlib.sha256()
    outbox.send({"file": name})
    with open(path, "rb") as file:
        piece = file.read(PIECE)
        deflate = len(zlib.compress(piece, 1)) < 0.95 * len(piece)  # else it is compressed already
        while piece:
            digest.update(piece)
            outbox.send(piece, deflate)
            tell(len(piece))
            piece = file.read(PIECE)
    outbox.send({"sha256": digest.hexdigest()})


def receive_file(receive: Callable[[], Frame], path: Path, tell: Callable[[int], None] = lambda _size: None) -> str:
    """The pieces after the object that names a file into `path`; returns its SHA-256. Raises Lost, or InputError."""
    digest = hashlib.sha256()
    with open(path, "xb", opener=_private) as file:
        while isinstance(frame := receive(), bytes):
            digest.update(frame)
            file.write(frame)
            tell(len(frame))
    if frame.get("sha256") != digest.hexdigest():
        raise Lost(f"{path.name!r} did not arrive as it was sent.")
    return digest.hexdigest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def place_in(folder: Path, name: Any) -> Path:
    """The path of `name` in a folder. Raises InputError for one that leads out of it: the other end is not believed."""
    base = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(base, name)) if isinstance(name, str) and name else base
    if not path.startswith(base + os.sep) or "\0" in path:
        raise InputError(f"the file name {name!r} cannot be used on both computers; rename it.")
    return Path(path)
