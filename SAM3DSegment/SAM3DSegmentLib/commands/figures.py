"""The rows of an evaluation for programs and for people."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from .evaluation import METRICS, Row


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """For JSON, where an undefined metric is null."""
    return [
        {
            "case": row.case,
            "label": row.label,
            **{m: value if np.isfinite(value := getattr(row.metrics, m)) else None for m in METRICS},
            **{f"{m}_cases": row.cases[m] for m in METRICS[:3]},
        }
        for row in rows
    ]


def as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["case", "label", *METRICS, *(f"{m}_cases" for m in METRICS[:3])], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(as_dicts(rows))
    return text.getvalue()


def as_table(rows: list[Row]) -> str:
    """For people, in columns; n is the number of cases that a mean is of."""
    width = max([5, *(len(str(row.label)) for row in rows)])
    header = f"{'case':<24} {'label':>{width}} {'Dice':>7} {'n':>4} {'HD95 mm':>8} {'n':>4} {'surface':>8}"
    lines = [f"{header} {'mL':>9} {'ref. mL':>9}"]
    for row in rows:
        m, n = row.metrics, row.cases
        lines.append(
            f"{row.case:<24} {row.label:>{width}} {m.dice:>7.4f} {n['dice']:>4} {m.hd95_mm:>8.2f} "
            f"{n['hd95_mm']:>4} {m.surface_dice:>8.4f} {m.volume_ml:>9.3f} {m.reference_ml:>9.3f}"
        )
    return "\n".join(lines)
