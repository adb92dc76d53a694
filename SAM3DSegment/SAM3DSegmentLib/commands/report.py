"""What became of the volumes of a run, and the file of `--report` that says it, also of a run that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.files import write_json


@dataclass
class Summary:
    """What became of many volumes: `records` of the segmented ones, names of the skipped, reasons of the failed."""

    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.records)} segmented, {len(self.skipped)} already there, {len(self.failed)} failed"


@dataclass(frozen=True)
class Report:
    """A report file, written after each volume; `former` is what an earlier run over the folder wrote there."""

    path: Path | None
    former: Summary = field(default_factory=Summary)

    @classmethod
    def open(cls, path: Path | None, keep: bool) -> Report:
        """keep: whether the records of a report that is there stay, for masks that this run does not make again."""
        former = read_report(path) if path is not None and keep else None
        return cls(path, former or Summary())

    def write(self, summary: Summary) -> None:
        """The whole file. Raises InputError if it cannot be written."""
        if self.path is None:
            return
        made = {record["output"] for record in summary.records}
        met = {*(record["input"] for record in summary.records), *summary.skipped, *summary.failed}
        kept = [record for record in self.former.records if record["output"] not in made]
        failed = {name: reason for name, reason in self.former.failed.items() if name not in met}
        write_json(
            self.path,
            {
                "segmented": [*kept, *summary.records],
                "skipped": summary.skipped,
                "failed": {**failed, **summary.failed},
            },
        )


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
