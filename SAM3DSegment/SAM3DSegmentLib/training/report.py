"""The report of a training: one page that needs nothing else, made from the run's record and a picture."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.files import write_text
from ..base.page import chart, page, text
from ..card import UNKNOWN, Label
from ..formats.pictures import PNG, encode_picture
from ..formats.volumes import Volume
from ..preparation import Prepared
from .plan import Plan

_PICTURE_PIXELS = 320  # of each panel, at least
_STRIP_PIXELS = 14  # height
_DARK = 0.4  # brightness of what nobody has painted


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
    parts = [f"<h1>{text(name)}</h1>", _summary(record, colors), "<h2>Course of the training</h2>"]
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
            f"<figcaption>{text(picture.caption)}</figcaption></figure>",
        ]
    parts += ["<h2>Split and fingerprint of the data</h2>", _data_table(record), "<h2>Settings</h2>"]
    parts.append(_settings_table(record))
    return page(f"Training of {name}", parts)


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
        f'<tr><td><span class="key" style="background: {colors[name]}"></span>{text(name)}</td>'
        f'<td class="value">{value:.4f}</td></tr>'
        for name, value in result["dice"].items()
    )
    counts = f"{result['cases']} training cases, {result['steps']} steps in {result['minutes']} minutes"
    return f"<table><tr><th>Label</th><th>Dice</th></tr>{cells}</table><p>{text(result['note'])}. {counts}.</p>"


def _charts(fold: str, history: list[dict[str, Any]], colors: dict[str, str]) -> str:
    loss = {"loss": [(entry["step"], entry["loss"]) for entry in history if entry["loss"] is not None]}
    dice = {
        name: [(entry["step"], entry["dice"][name]) for entry in history if name in entry["dice"]] for name in colors
    }
    most = max((value for _, value in loss["loss"]), default=1.0)
    return chart(f"{fold}training loss", loss, {"loss": "#444"}, most) + chart(
        f"{fold}Dice of the validation cases", dice, colors, 1.0
    )


def _case_table(cases: dict[str, dict[str, float]], labels: tuple[str, ...], painted: dict[str, str]) -> str:
    """painted: of cases that are known in part, on what their figures stand."""
    head = "".join(f"<th>{text(name)}</th>" for name in labels)
    told = {case: painted.get(case, "all slices") for case in cases}
    known = any(case in painted for case in cases)
    rows = "".join(
        f"<tr><td>{text(case)}</td>"
        + "".join(_dice_cell(dice.get(name)) for name in labels)
        + _dice_cell(_mean(dice) if dice else None)
        + (f"<td>{text(told[case])}</td>" if known else "")
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
        f"<tr><td>{text(case)}</td><td>{text(', '.join(dict.fromkeys(roles.get(case, ['not used']))))}</td>"
        f"<td><code>{sha256[:16]}</code></td></tr>"
        for case, sha256 in record["fingerprint"].items()
    )
    return f"<table><tr><th>Case</th><th>part in</th><th>SHA-256 of its files</th></tr>{rows}</table>"


def _settings_table(record: dict[str, Any]) -> str:
    shown = {key: record[key] for key in ("settings", "labels", "encoder", "decoder")}
    versions = ", ".join(f"{name} {version}" for name, version in record["result"]["versions"].items())
    return f"<p>{text(versions)}</p><pre>{text(json.dumps(shown, indent=2))}</pre>"
