"""The HTML of the page of `--page`: one group of rows a case, sorted by what deserves a look."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from .. import __version__
from ..results import date_now
from .planes import HEIGHT, WIDTH
from .remarks import RULE, Entry, Remarks, by_look, find_remarks

MARK = '<meta name="generator" content="SAM3DSegment page">'

_STYLE = """
:root { color-scheme: light dark; --line: #ddd; --soft: #666; --paper: #fff; --ink: #222; --note: #a33c00; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a3a3a; --soft: #a0a0a0; --paper: #1c1c1c; --ink: #e4e4e4; --note: #f0a060; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1.5em; }
h1 { font-size: 1.4em; margin: 0; } summary, small, .soft { color: var(--soft); } details { max-width: 60em; }
table { border-collapse: collapse; margin-top: 1em; } tbody { border-top: 1px solid var(--line); }
th, td { padding: .2em .5em; text-align: right; vertical-align: top; font-weight: normal; }
.case, .label, .rest { text-align: left; overflow-wrap: break-word; } .case { width: 11em; max-width: 11em; }
.label { min-width: 8em; max-width: 14em; } small { display: block; } tr { height: 1px; } tr.rest { height: auto; }
td { font-variant-numeric: tabular-nums; } img { display: block; background: #000; }
thead th { position: sticky; top: 0; background: var(--paper); }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; white-space: nowrap; }
th button { cursor: pointer; } th button:hover { text-decoration: underline; }
[aria-sort=ascending] button::after { content: " \\25B2"; }
[aria-sort=descending] button::after { content: " \\25BC"; }
a { color: inherit; } ul { margin: 0 0 .3em; padding-left: 1.2em; color: var(--note); }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .5em; }
"""

# A first click sorts as `data-first` says; what has no value stays last.
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, table = head.closest("table"), key = head.dataset.key;
  const up = head.ariaSort ? head.ariaSort != "ascending" : head.dataset.first != "descending";
  for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
  head.ariaSort = up ? "ascending" : "descending";
  const compare = (a, b) => {
    const x = a.dataset[key], y = b.dataset[key];
    if (x === "" || y === "") return (x === "") - (y === "");
    return (up ? 1 : -1) * (isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y);
  };
  table.append(...[...table.tBodies].sort(compare));
};
"""

# Title, key of a case's data, order of the first click, and by which of a case's numbers it is sorted.
_COLUMNS = (
    ("Look", "look", "ascending", "by what deserves a look"),
    ("Case", "case", "ascending", "by name"),
    ("Axial, coronal, sagittal", "", "", ""),
    ("Label", "", "", ""),
    ("Volume, mL", "volume", "descending", "by the sum of the labels"),
    ("Confidence, %", "confidence", "ascending", "by the least of the labels"),
    ("Mean", "mean", "descending", "by the largest of the labels"),
    ("SD", "sd", "descending", "by the largest of the labels"),
    ("Cut off", "cut", "descending", "by the number of labels"),
)


def render(entries: Mapping[str, Entry], pictures: str) -> str:
    """The page of these cases; pictures: the link of the folder with their pictures, which ends in /."""
    remarks = find_remarks(entries)
    order = by_look(entries, remarks)
    failed = sum("failed" in entry for entry in entries.values())
    remarked = sum(bool(remarks[case].texts) for case in order) - failed
    counts = f"{len(order)} cases, {remarked} with remarks" + (f", {failed} failed" if failed else "")
    bodies = (_case(number + 1, case, entries[case], remarks[case], pictures) for number, case in enumerate(order))
    heads = "".join(_head(*column) for column in _COLUMNS)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        f'<meta name="viewport" content="width=device-width"><title>Segmentations</title>\n'
        f"<style>{_STYLE}</style></head>\n"
        f"<body><h1>{_text(counts)}</h1>\n"
        f'<div class="soft">SAM3DSegment {_text(__version__)}, {_text(date_now())}. The patient\'s right is on the '
        f"left of axial and coronal pictures. A click on a column sorts.</div>\n"
        f"<details><summary>How the cases are sorted</summary>{_text(RULE)}</details>\n"
        f"<table><thead><tr>{heads}</tr></thead>\n{''.join(bodies)}</table>\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _head(title: str, key: str, first: str, explanation: str) -> str:
    if not key:
        return f'<th class="label">{_text(title)}</th>'
    order = ' aria-sort="ascending"' if key == "look" else ""
    kind = ' class="case"' if key == "case" else ""
    button = f'<button title="sorts {_text(explanation)}">{_text(title)}</button>'
    return f'<th{kind} data-key="{key}" data-first="{first}"{order}>{button}</th>'


def _case(number: int, case: str, entry: Entry, remarks: Remarks, pictures: str) -> str:
    segments = entry.get("segments", ())
    keys = {
        "look": str(number),
        "case": case,
        "volume": _number(sum(s["volume_ml"] for s in segments) if segments else None),
        "confidence": _number(min(_known(segments, "mean_confidence"), default=None)),
        "mean": _number(max(_known(segments, "mean"), default=None)),
        "sd": _number(max(_known(segments, "sd"), default=None)),
        "cut": str(sum(s["cut_off"] for s in segments)) if segments else "",
    }
    data = "".join(f' data-{key}="{_text(value)}"' for key, value in keys.items())
    # The last row, of remarks, takes the height that the picture leaves.
    span = "" if "failed" in entry else f' rowspan="{max(1, len(segments)) + 1}"'
    name = f'<a href="{_text(entry["link"])}">{_text(case)}</a>'
    head = f'<td{span}>{number}</td><td class="case"{span}>{name}</td>'
    listed = "".join(f"<li>{_text(text)}</li>" for text in remarks.texts)
    told = (f"<ul>{listed}</ul>" if listed else "") + _facts(entry)
    if "failed" in entry:
        return f'<tbody{data}><tr>{head}<td></td><td class="rest" colspan="6">{told}</td></tr></tbody>\n'
    picture = (
        f'<td{span}><img loading="lazy" width="{WIDTH}" height="{HEIGHT}" alt="three planes" '
        f'src="{_text(pictures + entry["picture"])}"></td>'
    )
    rows = [_segment(segment) for segment in segments] or ['<td class="label">no structure</td><td colspan="5"></td>']
    rest = f'<tr class="rest"><td class="rest" colspan="6">{told}</td></tr>'
    return f"<tbody{data}><tr>{head}{picture}{'</tr><tr>'.join(rows)}</tr>{rest}</tbody>\n"


def _facts(entry: Entry) -> str:
    if not entry.get("date"):
        return ""
    model = f"{entry['model']} {entry['model_sha256'][:8]}, " if entry["model"] else ""
    seconds = f", {entry['seconds']:.3g} s" if entry["seconds"] is not None else ""
    return f"<small>{_text(model + entry['date'] + seconds)}</small>"


def _segment(segment: Mapping[str, Any]) -> str:
    color = "#{:02x}{:02x}{:02x}".format(*segment["color"]) if segment["color"] else "transparent"
    key = f'<span class="key" style="background: {color}"></span>'
    cells = "".join(f"<td>{_cell(segment, key)}</td>" for key in ("volume_ml", "mean_confidence", "mean", "sd"))
    cut = "yes" if segment["cut_off"] else ""
    return f'<td class="label">{key}{_text(segment["name"])}</td>{cells}<td>{cut}</td>'


def _cell(segment: Mapping[str, Any], key: str) -> str:
    """A number, or of grey values one a line for each of several channels."""
    channels = segment.get("channels") if key in ("mean", "sd") else None
    if not channels:
        return _number(segment[key])
    return "<br>".join(f"{_text(name)} {_number(values[key])}" for name, values in channels.items())


def _known(segments: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [segment[key] for segment in segments if segment[key] is not None]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _text(text: str) -> str:
    return html.escape(text)
