"""What became of the volumes of a run, and the file of `--report` that says it, also of a run that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.claims import in_turn
from ..base.files import write_json


@dataclass
class Summary:
    """What became of many volumes: `records` of the segmented ones, names of the skipped, reasons of the failed.

    left_out: what else was found in a tree of folders, and why it was not taken.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.records)} segmented, {len(self.skipped)} already there, {len(self.failed)} failed"


@dataclass(frozen=True)
class Report:
    """A report file, written after each volume.

    keeps: whether what other runs over the folder wrote there stays, earlier ones and those of other parts that write
    at the same time.
    """

    path: Path | None
    keeps: bool

    def write(self, summary: Summary, check: Callable[[], None]) -> None:
        """The whole file. check: called while another process writes it. Raises InputError if it cannot be written."""
        if self.path is None:
            return
        with in_turn(self.path, check):
            former = (self.keeps and read_report(self.path)) or Summary()
            write_json(self.path, _merge(former, summary))


def _merge(former: Summary, summary: Summary) -> dict[str, Any]:
    made = {record["output"] for record in summary.records}
    met = {*(record["input"] for record in summary.records), *summary.skipped, *summary.failed}
    return {
        "segmented": [*(record for record in former.records if record["output"] not in made), *summary.records],
        "skipped": [*(name for name in former.skipped if name not in met), *summary.skipped],
        "failed": {**{name: why for name, why in former.failed.items() if name not in met}, **summary.failed},
        **({"left_out": summary.left_out} if summary.left_out else {}),
    }


def read_report(path: Path) -> Summary | None:
    """What a report file says; None if there is no file, or it is not a report."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records, skipped, failed = content["segmented"], content["skipped"], content["failed"]
        if not (_are_texts(skipped) and _are_texts(failed.values())):
            return None
        if not all(_are_texts((record["input"], record["output"])) for record in records):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Summary(records, skipped, failed)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
