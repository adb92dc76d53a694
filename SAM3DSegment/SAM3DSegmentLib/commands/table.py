"""A table of measurements as CSV, one row for each label of each case, to which several processes may write."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.claims import in_turn
from ..base.files import check_new_file, write_text

# frame: of a 4-D volume, from 0; mean, sd: of grey values, of the first channel; confidence: mean, in percent; date:
# ISO 8601, UTC.
COLUMNS = (
    *("case", "frame", "label", "value", "volume_ml", "voxels", "mean", "sd", "confidence", "cut_off", "misfits"),
    *("model", "model_sha256", "seconds", "date"),
)
_FORMER_COLUMNS = tuple(column for column in COLUMNS if column != "frame")  # of tables from before there were frames
_OF_CHANNEL = ("mean ", "sd ")  # begin the names of columns that follow for each channel, where there are several
_FORMULA = tuple("=+-@\t\r'")  # begins a formula in a spreadsheet, or, last, is what such a text is marked with

Row = dict[str, str]
Key = tuple[str, str, str]  # case, frame and label


def rows_of_record(case: str, record: Mapping[str, Any]) -> list[Row]:
    """The rows of one case; record: see `results`, of which only the segments must be there."""
    shared = {key: record.get(key) for key in ("model", "model_sha256", "seconds", "date")}
    shared["misfits"] = " ".join(record.get("misfits", ()))
    rows = []
    for segment in record["segments"]:
        values = {
            **shared,
            **segment,
            "case": case,
            "frame": record.get("frame"),
            "label": segment["name"],
            "confidence": segment["mean_confidence"],
            "cut_off": "yes" if segment["cut_off"] else "no",
        }
        of_channels = {
            f"{key} {name}": _as_text(found[key])
            for name, found in segment.get("channels", {}).items()
            for key in ("mean", "sd")
        }
        rows.append({column: _as_text(values[column]) for column in COLUMNS} | of_channels)
    return rows


@dataclass(frozen=True)
class Table:
    """A CSV file in UTF-8 with a dot for decimals. Rows are merged by case, frame and label, and sorted by them."""

    path: Path

    def check(self, overwrite: bool, inputs: Iterable[Path]) -> None:
        """Raises InputError if it cannot be written, or a file is there that is no such table, unless `overwrite`."""
        check_new_file(self.path, overwrite or self._read() is not None, inputs)

    def without_rows(self, cases: Iterable[tuple[str, int | None]]) -> set[tuple[str, int | None]]:
        """Those of the cases, each with its frame, that it has no row of."""
        known = {(case, frame) for case, frame, _ in self._read() or {}}
        return {case for case in cases if (_as_text(case[0]), _as_text(case[1])) not in known}

    def add(self, rows: Iterable[Row], check: Callable[[], None]) -> None:
        """Read, merge and write the file; check: called while another process does. Raises InputError."""
        with in_turn(self.path, check):
            merged = (self._read() or {}) | {_key(row): row for row in rows}
            write_text(self.path, as_csv(merged[key] for key in sorted(merged, key=_order)))

    def _read(self) -> dict[Key, Row] | None:
        """None if there is no file, or it is no such table."""
        try:
            with open(self.path, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                if not _are_columns(tuple(reader.fieldnames or ())):
                    return None
                rows = [{"frame": "", **row} for row in reader]
        except (OSError, ValueError, csv.Error):
            return None
        if any(None in row or None in row.values() for row in rows):  # too many fields, or too few
            return None
        return {_key(row): row for row in rows}


def as_csv(rows: Iterable[Row]) -> str:
    """The columns of channels are those of any row."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, (*COLUMNS, *_more_columns(rows)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_columns(rows: list[Row]) -> str:
    """The most important columns, for people."""
    more = _more_columns(rows)
    shown = ("case", "label", "volume_ml", "voxels", *(more or ("mean", "sd")), "cut_off")
    rows = [dict.fromkeys(shown, "") | row for row in rows]
    widths = [max(len(column), *(len(row[column]) for row in rows)) if rows else len(column) for column in shown]
    lines = [dict(zip(shown, shown)), *rows]
    return "\n".join("  ".join(f"{row[c]:<{width}}" for c, width in zip(shown, widths)).rstrip() for row in lines)


def _more_columns(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(column for row in rows for column in row if column not in COLUMNS))


def _are_columns(names: tuple[str, ...]) -> bool:
    """Whether they are a table's, of today or of before there were frames."""
    known = next((known for known in (COLUMNS, _FORMER_COLUMNS) if names[: len(known)] == known), None)
    return known is not None and all(name.startswith(_OF_CHANNEL) for name in names[len(known) :])


def _key(row: Row) -> Key:
    return row["case"], row["frame"], row["label"]


def _order(key: Key) -> tuple[str, int, str, str]:
    case, frame, label = key
    return case, int(frame) if frame.isdecimal() else -1, frame, label


def _as_text(value: Any) -> str:
    """A text that a spreadsheet would take for a formula gets an apostrophe; a file's name may be bytes, no text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return "'" + text if isinstance(value, str) and text.startswith(_FORMULA) else text
