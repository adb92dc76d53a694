"""The report of a training: one page that needs nothing else, made from the run's record and a picture."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.files import write_text
from ..card import UNKNOWN, Label
from ..formats.pictures import PNG, encode_picture
from ..formats.volumes import Volume
from ..preparation import Prepared
from .plan import Plan

_WIDTH, _HEIGHT, _MARGIN = 500, 240, 44
_PICTURE_PIXELS = 320  # of each panel, at least
_STRIP_PIXELS = 14  # height
_DARK = 0.4  # brightness of what nobody has painted
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; } td, th { padding: .25em .8em; text-align: right; border-bottom: 1px solid #eee; }
td:first-child, th:first-child { text-align: left; } .charts { display: flex; flex-wrap: wrap; gap: 1.5em; }
figure { margin: 0; } figcaption { color: #555; } .value { font-variant-numeric: tabular-nums; }
pre { background: #f6f6f6; padding: 1em; overflow: auto; font-size: 12px; } img { max-width: 100%; }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .35em 0 1em; vertical-align: -0.1em; }
"""


@dataclass(frozen=True)
class Picture:
    """One case beside its reference, as PNG; `caption` says what it shows."""

    png: bytes
    caption: str


def write_report(
    path: Path,
    plan: Plan,
    name: str,
    record: dict[str, Any],
    case: str,
    image: Volume,
    reference_kji: np.ndarray,
    found_kji: np.ndarray,
) -> None:
    """The report of the model `name`; with a picture of a case, of which both maps are class indices (K, J, I)."""
    prepared = plan.preparation.prepare(image.channels, image.ijk_to_ras)
    png, index = draw_case(prepared, reference_kji, found_kji, plan.labels)
    dices = {**record["result"]["validation"], **record["result"]["test"]}[case]
    dice = ", ".join(f"{label} {value:.3f}" for label, value in dices.items())
    where = f"Slice {index + 1} of {prepared.depth} ({prepared.slicing.plane}), where the two differ most"
    caption = f"{case}: Dice {dice}. {where}: the image, the reference, the model."
    if (reference_kji == UNKNOWN).any():
        caption += (
            " Dark in the reference: not painted. Below: the slices of which something is known, this one in red."
        )
    picture = Picture(png, caption)
    write_text(path, make_report(name, record, plan.labels, picture))


def make_report(name: str, record: dict[str, Any], labels: tuple[Label, ...], picture: Picture | None) -> str:
    """HTML from what `run.json` holds."""
    result = record["result"]
    colors = {label.name: "#{:02x}{:02x}{:02x}".format(*label.color) for label in labels}
    parts = [f"<h1>{_text(name)}</h1>", _summary(record, colors), "<h2>Course of the training</h2>"]
    for number, history in enumerate(result["history"]):
        fold = f"Fold {number + 1}: " if len(result["history"]) > 1 else ""
        parts.append(f'<div class="charts">{_charts(fold, history, colors)}</div>')
    for what, title in (("test", "Test cases"), ("validation", "Validation cases")):
        if result[what]:
            parts += [f"<h2>{title}: Dice</h2>", _case_table(result[what], tuple(colors), record["painted"])]
    if picture is not None:
        image = base64.b64encode(picture.png).decode()
        parts += [
            "<h2>The worst case</h2>",
            f'<figure><img alt="worst case" src="data:image/png;base64,{image}">'
            f"<figcaption>{_text(picture.caption)}</figcaption></figure>",
        ]
    parts += ["<h2>Split and fingerprint of the data</h2>", _data_table(record), "<h2>Settings</h2>"]
    parts.append(_settings_table(record))
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Training of {_text(name)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def draw_case(
    prepared: Prepared, reference_kji: np.ndarray, found_kji: np.ndarray, labels: tuple[Label, ...]
) -> tuple[bytes, int]:
    """PNG of the slice where two maps of class indices differ most, and its number from 0.

    Left the slice, in the middle the reference, on the right what was found. Where the reference is UNKNOWN it is dark,
    and a strip below has a mark for each slice of which something is known.
    """
    reference, found = (prepared.slicing.to_dhw(indices) for indices in (reference_kji, found_kji))
    known = reference != UNKNOWN
    differs = ((reference != found) & known).sum((1, 2))
    index = int(differs.argmax()) if differs.any() else int(((reference > 0) & known).sum((1, 2)).argmax())
    grey = prepared.squares(index, index + 1)[0, 0]  # of the first channel
    scale = max(1, -(-_PICTURE_PIXELS // len(grey)))
    palette = torch.tensor([(0, 0, 0), *(label.color for label in labels)], dtype=torch.float32)
    panels = [grey[..., None].expand(-1, -1, 3)]
    for indices in (reference_kji, found_kji):
        classes = prepared.fit.place_labels(prepared.classes(indices, index, index + 1))[0].long()
        unknown = classes == UNKNOWN
        classes[unknown] = 0
        panel = torch.where(classes[..., None] > 0, 0.5 * panels[0] + 0.5 * palette[classes], panels[0])
        panels.append(torch.where(unknown[..., None], _DARK * panel, panel))
    row = torch.cat(panels, dim=1).round().to(torch.uint8)
    picture = row.repeat_interleave(scale, 0).repeat_interleave(scale, 1).numpy()
    if not known.all():
        picture = np.concatenate([picture, _strip(known.any((1, 2)), index, picture.shape[1])])
    return encode_picture(picture, PNG), index


def _strip(is_known: np.ndarray, shown: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: all slices from left to right, the known ones bright, the shown one red."""
    colors = np.where(is_known[:, None], 210, 60).repeat(3, 1).astype(np.uint8)
    colors[shown] = (230, 60, 60)
    of_column = np.arange(width) * len(is_known) // width
    strip = colors[of_column]
    strip[np.diff(of_column, prepend=-1) > 0] = 0  # a line between two slices
    return np.repeat(strip[None], _STRIP_PIXELS, 0)


def _summary(record: dict[str, Any], colors: dict[str, str]) -> str:
    result = record["result"]
    cells = "".join(
        f'<tr><td><span class="key" style="background: {colors[name]}"></span>{_text(name)}</td>'
        f'<td class="value">{value:.4f}</td></tr>'
        for name, value in result["dice"].items()
    )
    counts = f"{result['cases']} training cases, {result['steps']} steps in {result['minutes']} minutes"
    return f"<table><tr><th>Label</th><th>Dice</th></tr>{cells}</table><p>{_text(result['note'])}. {counts}.</p>"


def _charts(fold: str, history: list[dict[str, Any]], colors: dict[str, str]) -> str:
    loss = {"loss": [(entry["step"], entry["loss"]) for entry in history if entry["loss"] is not None]}
    dice = {
        name: [(entry["step"], entry["dice"][name]) for entry in history if name in entry["dice"]] for name in colors
    }
    most = max((value for _, value in loss["loss"]), default=1.0)
    return _chart(f"{fold}training loss", loss, {"loss": "#444"}, most) + _chart(
        f"{fold}Dice of the validation cases", dice, colors, 1.0
    )


def _chart(title: str, series: dict[str, list[tuple[int, float]]], colors: dict[str, str], top: float) -> str:
    """An inline SVG of lines over the steps, from 0 to `top`."""
    last = max((step for points in series.values() for step, _ in points), default=1)
    right, bottom = _WIDTH - 12, _HEIGHT - _MARGIN

    def place(step: float, value: float) -> tuple[float, float]:
        return _MARGIN + (right - _MARGIN) * step / last, bottom - (bottom - 12) * value / top

    lines = []
    for part in range(5):
        value = top * part / 4
        _, y = place(0, value)
        lines.append(f'<line x1="{_MARGIN}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        lines.append(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for step in sorted({0, last // 2, last}):
        x, _ = place(step, 0)
        lines.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{step}</text>')
    for name, points in series.items():
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        lines.append(f'<polyline points="{places}" fill="none" stroke="{colors[name]}" stroke-width="2"/>')
        lines += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colors[name]}"/>'
            for x, y in (place(*point) for point in points)
        ]
    keys = "".join(f'<span class="key" style="background: {colors[name]}"></span>{_text(name)}' for name in series)
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" font-size="11" fill="#555" role="img">{"".join(lines)}'
        f'<text x="{(right + _MARGIN) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">step</text></svg>'
        f"<figcaption>{_text(title)} {keys}</figcaption></figure>"
    )


def _case_table(cases: dict[str, dict[str, float]], labels: tuple[str, ...], painted: dict[str, str]) -> str:
    """painted: of cases that are known in part, on what their figures stand."""
    head = "".join(f"<th>{_text(name)}</th>" for name in labels)
    told = {case: painted.get(case, "all slices") for case in cases}
    known = any(case in painted for case in cases)
    rows = "".join(
        f"<tr><td>{_text(case)}</td>"
        + "".join(_dice_cell(dice.get(name)) for name in labels)
        + _dice_cell(_mean(dice) if dice else None)
        + (f"<td>{_text(told[case])}</td>" if known else "")
        + "</tr>"
        for case, dice in sorted(cases.items(), key=lambda item: _mean(item[1]))
    )
    head += "<th>mean</th>" + ("<th>measured where</th>" if known else "")
    return f"<table><tr><th>Case, worst first</th>{head}</tr>{rows}</table>"


def _mean(dice: dict[str, float]) -> float:
    return float(np.mean(list(dice.values()))) if dice else 2.0


def _dice_cell(value: float | None) -> str:
    if value is None:
        return '<td title="neither the reference nor the model has it">-</td>'
    hue = round(120 * min(1.0, max(0.0, (value - 0.4) / 0.6)))
    return f'<td class="value" style="background: hsl({hue}, 60%, 90%)">{value:.3f}</td>'


def _data_table(record: dict[str, Any]) -> str:
    roles: dict[str, list[str]] = {}
    for number, split in enumerate(record["splits"]):
        fold = f" {number + 1}" if len(record["splits"]) > 1 else ""
        for role in ("training", "validation", "test"):
            for case in split[role]:
                roles.setdefault(case, []).append("test" if role == "test" else f"{role}{fold}")
    rows = "".join(
        f"<tr><td>{_text(case)}</td><td>{_text(', '.join(dict.fromkeys(roles.get(case, ['not used']))))}</td>"
        f"<td><code>{sha256[:16]}</code></td></tr>"
        for case, sha256 in record["fingerprint"].items()
    )
    return f"<table><tr><th>Case</th><th>part in</th><th>SHA-256 of its files</th></tr>{rows}</table>"


def _settings_table(record: dict[str, Any]) -> str:
    shown = {key: record[key] for key in ("settings", "labels", "encoder", "decoder")}
    versions = ", ".join(f"{name} {version}" for name, version in record["result"]["versions"].items())
    return f"<p>{_text(versions)}</p><pre>{_text(json.dumps(shown, indent=2))}</pre>"


def _text(text: str) -> str:
    return html.escape(str(text))
