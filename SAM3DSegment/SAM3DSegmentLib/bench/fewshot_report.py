"""The few-case benchmark's rows as a table and as a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..base.files import written_whole


def make_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean Dice over the seeds, and the lowest and highest of them."""
    lines = [
        "| cases | painted | minutes | network | mean Dice | lowest to highest | seeds | steps |",
        "|" + "---|" * 8,
    ]
    for cases, every, minutes, network in _groups(rows):
        group = _select(rows, cases, every, minutes, network)
        dice = [row["dice"] for row in group]
        steps = round(float(np.mean([row["steps"] for row in group])))
        lines.append(
            f"| {_cases_name(cases)} | {_slices_name(every)} | {minutes:g} | {network} | {np.mean(dice):.4f} "
            f"| {min(dice):.4f} to {max(dice):.4f} | {len(group)} | {steps} |"
        )
    return "\n".join(lines) + "\n"


def draw_plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Dice against minutes, a panel for each drawing; a dot for each seed, a line through their means."""
    from matplotlib.figure import Figure

    keys = _groups(rows)
    drawings = list(dict.fromkeys((cases, every) for cases, every, _, _ in keys))
    times = sorted({minutes for _, _, minutes, _ in keys})
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(2 + 3 * len(drawings), 4.5), layout="constrained")
    panels = figure.subplots(1, len(drawings), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (cases, every) in zip(panels, drawings):
        for number, network in enumerate(networks):
            # Beside each other: dots of two networks would hide one another.
            shift = 0.02 * (number - (len(networks) - 1) / 2) * times[-1]
            points = [(minutes + shift, _select(rows, cases, every, minutes, network)) for minutes in times]
            _draw(axes, points, f"C{number}", network)
        title = f"{_cases_name(cases)} training cases" + (f",\n{_slices_name(every)}" if every > 1 else "")
        axes.set(title=title, xlabel="minutes of training", xticks=times)
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mean Dice of the test cases")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=120)


def _draw(axes: Any, points: list[tuple[float, list[dict[str, Any]]]], color: str, label: str) -> None:
    known = [(x, [row["dice"] for row in group]) for x, group in points if group]
    axes.plot([x for x, _ in known], [np.mean(dice) for _, dice in known], "_-", color=color, label=label)
    for x, dice in known:
        axes.plot([x] * len(dice), dice, ".", color=color)


def _groups(rows: list[dict[str, Any]]) -> list[tuple[int, int, float, str]]:
    keys = {(row["cases"], row["every"], row["minutes"], row["network"]) for row in rows}
    return sorted(keys, key=lambda key: (key[0] or math.inf, *key[1:]))


def _select(rows: list[dict[str, Any]], cases: int, every: int, minutes: float, network: str) -> list[dict[str, Any]]:
    wanted = {"cases": cases, "every": every, "minutes": minutes, "network": network}
    return [row for row in rows if wanted.items() <= row.items()]


def _cases_name(cases: int) -> str:
    return str(cases) if cases else "all"


def _slices_name(every: int) -> str:
    return "all slices" if every == 1 else f"1 slice in {every}"
