"""Compressed data in pieces; unlike SimpleITK, every checksum is checked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

GZIP_MARK = b"\x1f\x8b"
PIECE = 1 << 20  # bytes that are read at once
LARGEST_RATIO = 1032  # by which DEFLATE can make data larger
_HEAD = 4096  # bytes; the headers of all formats begin within
_AUTODETECT = 47  # zlib's `wbits` for a gzip or a zlib stream, whichever comes


def inflated_head(head: bytes) -> bytes:
    """The first bytes that a gzip file holds which begins like this, or b"" if it is damaged."""
    try:
        return zlib.decompressobj(_AUTODETECT).decompress(head, _HEAD)
    except zlib.error:
        return b""


def inflated(file: BinaryIO) -> Iterator[bytes]:
    """What a gzip file of one or more members, or a zlib stream, holds, in pieces.

    Raises EOFError if it is cut short, zlib.error if it is damaged.
    """
    stream = zlib.decompressobj(_AUTODETECT)
    while data := file.read(PIECE):
        while data:
            if stream.eof:  # another member, or zeros that fill up a block
                data = data.lstrip(b"\0")
                if not data.startswith(GZIP_MARK):
                    break
                stream = zlib.decompressobj(_AUTODETECT)
            yield stream.decompress(data, 16 * PIECE)
            data = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        raise EOFError
