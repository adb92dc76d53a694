"""A page of all cases for people to look through, to which several processes may write: pictures beside numbers.

Beside `qc.html` lies the folder `qc_files` with a picture of each case and `cases.json`, of which the page is made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np

from ..base.claims import in_turn
from ..base.errors import InputError
from ..base.files import check_new_file, write_bytes, write_text
from ..formats.pictures import JPEG, encode_picture
from .measuring import Color
from .page_html import MARK, render

SUFFIX = ".html"
_HEAD_BYTES = 1000  # in which `MARK` stands
_KEPT = ("name", "value", "volume_ml", "voxels", "mean", "sd", "mean_confidence", "cut_off")  # of each segment
_FACTS = ("model", "model_sha256", "seconds", "date")  # of the record

Entries = dict[str, dict[str, Any]]  # by case


@dataclass(frozen=True)
class Page:
    """An HTML file and the folder of what it shows. Cases are merged by their names."""

    path: Path

    @property
    def folder(self) -> Path:
        return self.path.with_name(f"{self.path.stem}_files")

    @property
    def _cases(self) -> Path:
        return self.folder / "cases.json"

    def check(self, overwrite: bool, inputs: Iterable[Path]) -> None:
        """Raises InputError if it cannot be written, or a file is there that is no such page, unless `overwrite`."""
        if self.path.suffix.lower() != SUFFIX:
            raise InputError(f"page {str(self.path)!r} does not end in {SUFFIX}, so that no browser would open it.")
        read = list(inputs)
        check_new_file(self.path, overwrite or _is_page(self.path), read)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{str(self.folder)!r}, the folder of the page's pictures, is a file; rename the page.")
        if self.folder.exists():
            check_new_file(self._cases, overwrite or _read(self._cases) is not None, read)

    def without_picture(self, cases: Iterable[str]) -> set[str]:
        """Those of the cases that it shows no picture of."""
        entries = _read(self._cases) or {}
        pictures = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        return {case for case in cases if entries.get(case, {}).get("picture") not in pictures}

    def add(
        self,
        case: str,
        record: Mapping[str, Any],
        colors: Mapping[str, Color],
        picture: np.ndarray,
        mask: Path,
        check: Callable[[], None],
    ) -> None:
        """record: see `results`, of which only the segments must be there; colors: of these, by name; picture: of
        `draw_planes`; mask: the file.

        check: called while another process writes. Raises InputError.
        """
        name = f"{hashlib.sha256(os.fsencode(case)).hexdigest()[:16]}{JPEG}"
        segments = [
            {key: segment[key] for key in (*_KEPT, "channels") if key in segment}
            | {"color": colors.get(segment["name"])}
            for segment in record["segments"]
        ]
        facts = {key: record.get(key) for key in _FACTS}
        entry = {"link": self._link(mask), "picture": name, "misfits": list(record.get("misfits", ())), **facts}
        self.folder.mkdir(exist_ok=True)
        write_bytes(self.folder / name, encode_picture(picture, JPEG))
        self._merge(case, {**entry, "segments": segments}, check)

    def add_failure(self, case: str, reason: str, source: Path, check: Callable[[], None]) -> None:
        """Of a case of which there is no mask."""
        self.folder.mkdir(exist_ok=True)
        self._merge(case, {"link": self._link(source), "failed": reason}, check)

    def restore(self, check: Callable[[], None]) -> None:
        """Write the page anew where somebody has removed it, but not what it is made of."""
        if self._cases.is_file() and not self.path.exists():
            with in_turn(self.path, check):
                self._write(_read(self._cases) or {})

    def _merge(self, case: str, entry: dict[str, Any], check: Callable[[], None]) -> None:
        """The data last: a process that is killed before that leaves a case that the next run finds missing."""
        with in_turn(self.path, check):
            entries = (_read(self._cases) or {}) | {case: entry}
            self._write(entries)
            write_text(self._cases, json.dumps(entries))

    def _write(self, entries: Entries) -> None:
        write_text(self.path, render(entries, f"{_quoted(self.folder.name)}/"))

    def _link(self, path: Path) -> str:
        """From the page, so that both can be moved together; on Windows another drive has no such way."""
        try:
            return _quoted(os.path.relpath(path.absolute(), self.path.absolute().parent))
        except ValueError:
            return path.absolute().as_uri()


def _quoted(path: str) -> str:
    """A relative path as a link: each byte that has a meaning there, or is no text, by its number."""
    return quote_from_bytes(os.fsencode(path.replace(os.sep, "/")))


def _is_page(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return MARK.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False


def _read(path: Path) -> Entries | None:
    """None if there is no file, or it is not what `Page` writes."""
    try:
        entries: Entries = json.loads(path.read_text(encoding="utf-8"))
        return entries if all(_is_whole(entry) for entry in entries.values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_whole(entry: Mapping[str, Any]) -> bool:
    if "failed" in entry:
        return isinstance(entry["failed"], str) and isinstance(entry["link"], str)
    segments = entry["segments"]
    channels = (values for segment in segments for values in segment.get("channels", {}).values())
    return (
        {"link", "picture", "misfits", *_FACTS} <= entry.keys()
        and all({*_KEPT, "color"} <= segment.keys() for segment in segments)
        and all({"mean", "sd"} <= values.keys() for values in channels)
    )
