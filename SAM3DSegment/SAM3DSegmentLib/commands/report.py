"""What became of the volumes of a run, and the file of `--report` that says it, also of a run that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.claims import in_turn
from ..base.files import write_json, write_text
from ..base.page import chart, page, text
from ..card import Label

PAGE_SUFFIX = ".html"
_RECORD = '<script type="application/json">', "</script>"  # around what the page was made from


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
    """A report file, written after each volume: JSON, or for the frames of a volume a page that has the JSON inside.

    keeps: whether what other runs over the folder wrote there stays, earlier ones and those of other parts that write
    at the same time.
    """

    path: Path | None
    keeps: bool
    labels: tuple[Label, ...] = ()

    def write(self, summary: Summary, check: Callable[[], None]) -> None:
        """The whole file. check: called while another process writes it. Raises InputError if it cannot be written."""
        if self.path is None:
            return
        with in_turn(self.path, check):
            former = (self.keeps and read_report(self.path)) or Summary()
            merged = _merge(former, summary)
            if self.path.suffix.lower() == PAGE_SUFFIX:
                write_text(self.path, _make_page(merged, self.labels))
            else:
                write_json(self.path, merged)


def frame_title(path: str, frame: int) -> str:
    """How a frame of a 4-D volume is called."""
    return f"{path}, frame {frame}"


def _merge(former: Summary, summary: Summary) -> dict[str, Any]:
    made = {record["output"] for record in summary.records}
    inputs = (
        frame_title(record["input"], record["frame"]) if "frame" in record else record["input"]
        for record in summary.records
    )
    met = {*inputs, *summary.skipped, *summary.failed}
    return {
        "segmented": [*(record for record in former.records if record["output"] not in made), *summary.records],
        "skipped": [*(name for name in former.skipped if name not in met), *summary.skipped],
        "failed": {**{name: why for name, why in former.failed.items() if name not in met}, **summary.failed},
        **({"left_out": summary.left_out} if summary.left_out else {}),
    }


def _make_page(content: dict[str, Any], labels: tuple[Label, ...]) -> str:
    """The volumes of a 4-D volume's segments over time, as a chart and a table, and the report itself."""
    records = sorted(content["segmented"], key=lambda record: record["frame"])
    names = [label.name for label in labels]
    colors = {label.name: "#{:02x}{:02x}{:02x}".format(*label.color) for label in labels}
    volumes = [{segment["name"]: segment["volume_ml"] for segment in record["segments"]} for record in records]
    frames = [record["frame"] for record in records]
    series = {name: [(frame, ml[name]) for frame, ml in zip(frames, volumes)] for name in names}
    most = max((value for ml in volumes for value in ml.values()), default=0)
    title = f"Volumes over time: {Path(records[0]['input']).name}" if records else "Volumes over time"
    head = "".join(f"<th>{text(name)}, mL</th>" for name in names)
    rows = "".join(
        f"<tr><td>{frame}</td>" + "".join(f'<td class="value">{ml[name]:.3f}</td>' for name in names) + "</tr>"
        for frame, ml in zip(frames, volumes)
    )
    made = sorted({f"{record['model']}, {record['device']}, quality {record['quality']}" for record in records})
    failed = [f"<p>{text(why)}</p>" for why in content["failed"].values()]
    stored = json.dumps(content).replace("<", "\\u003c")  # so that nothing in it ends the element
    return page(
        title,
        [
            f"<h1>{text(title)}</h1>",
            chart("volume in mL", series, colors, 1.05 * most or 1.0, axis="frame", first=min(frames, default=0)),
            f"<table><tr><th>Frame</th>{head}</tr>{rows}</table>",
            *(f"<p>Made by {text(line)}.</p>" for line in made),
            *failed,
            stored.join(_RECORD),
        ],
    )


def _as_json(path: Path, content: str) -> str:
    """What a report file has of JSON."""
    return content.partition(_RECORD[0])[2].partition(_RECORD[1])[0] if path.suffix.lower() == PAGE_SUFFIX else content


def read_report(path: Path) -> Summary | None:
    """What a report file says; None if there is no file, or it is not a report."""
    try:
        content = json.loads(_as_json(path, path.read_text(encoding="utf-8")))
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
