"""The few-case benchmark: held-out Dice against the number of training cases, what is painted of them, and minutes.

Our decoder, in one or more settings, and a 3-D U-Net of MONAI train on the same cases, with the same augmentation,
loss, loop and minutes, on the same machine, and are measured on the same test cases. The U-Net sees the volumes on
their own grid.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import Cancelled, require
from ..base.files import write_text
from ..base.jsonable import to_json
from ..base.watch import Watch
from ..settings import TrainingConfig
from ..training.plan import make_plan
from ..training.run import train
from ..training.run_folder import Options
from .fewshot_report import draw_plot, make_table
from .kept_rows import KeptRows
from .painting import every_nth, paint_in_part
from .unet import measure_unet

logger = logging.getLogger(__name__)

ALL = 0  # as a number of cases: all that are not held out
OURS, UNET = "SAM3DSegment", "3-D U-Net"


@dataclass(frozen=True)
class Drawing:
    """What a user has drawn: so many training cases, and of each every `every`th slice."""

    cases: int = ALL
    every: int = 1

    def __post_init__(self) -> None:
        require(self.cases >= 0, f"{self.cases} training cases are not possible; give 1 or more.")
        require(self.every >= 1, f"every {self.every}th slice is not possible; give 1 or more.")


@dataclass(frozen=True)
class Benchmark:
    """What is compared: every network on every drawing, for every time, from every seed.

    Of several settings each has a name of its own; the U-Net takes over those of the first that concern it. Where
    drawings are compared that are not complete, it is left out.
    """

    data: Path
    configs: tuple[TrainingConfig, ...]
    drawings: tuple[Drawing, ...]
    minutes: tuple[float, ...]
    seeds: tuple[int, ...]
    sam_checkpoint: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("configs", "drawings", "minutes", "seeds"):
            require(len(getattr(self, name)) > 0, f"no {name} are given; give at least one.")
        for config in self.configs:
            require(config.test_cases > 0, "test_cases is 0; hold some out to measure on, such as 40.")
            require(config.folds == 1, f"folds {config.folds} are not measured; leave them out.")
        names = [config.name for config in self.configs]
        require(len(set(names)) == len(names), f"the names {names} of the settings must differ; give each its own.")
        held_out = {(config.validation_cases, config.test_cases) for config in self.configs}
        require(len(held_out) == 1, f"settings hold out {sorted(held_out)} cases; hold out the same in all.")
        for name in ("minutes", "seeds"):
            require(min(getattr(self, name)) >= 0, f"{name} {getattr(self, name)} must not be negative.")
        require(min(self.minutes) > 0, f"minutes {self.minutes} must be above 0.")


Measure = Callable[[Benchmark, TrainingConfig, Drawing, Watch], "dict[str, Any]"]


def run_benchmark(benchmark: Benchmark, output: Path, watch: Watch) -> list[dict[str, Any]]:
    """Write `fewshot.json`, `fewshot.md` and `fewshot.png` into the folder `output`; return one row for each training.

    Rows that are there from before are kept, if they are of the same settings. Raises Cancelled.
    """
    networks: list[tuple[str, Measure, TrainingConfig]] = [
        *((_our_name(config), _measure_ours, config) for config in benchmark.configs),
        (UNET, _measure_unet, benchmark.configs[0]),
    ]
    if any(drawing.every > 1 for drawing in benchmark.drawings):
        networks.pop()
    settings: dict[str, Any] = {"data": str(benchmark.data)}
    settings |= {name: to_json(config) for name, _, config in networks}
    rows = KeptRows(output / "fewshot.json", settings, usual={"every": 1})
    output.mkdir(parents=True, exist_ok=True)
    for seed in benchmark.seeds:
        for minutes in benchmark.minutes:
            for drawing in benchmark.drawings:
                for network, measure, config in networks:
                    key = {"network": network, **to_json(drawing), "minutes": minutes, "seed": seed}
                    if rows.has(key):
                        continue
                    began = time.monotonic()
                    timed = replace(config, minutes=minutes, epochs=0, seed=seed)
                    try:
                        found = measure(benchmark, timed, drawing, watch)
                    except Cancelled as error:
                        raise Cancelled("cancelled; the rows so far are kept, and the same command goes on.") from error
                    rows.add({**key, **found, "wall_minutes": round((time.monotonic() - began) / 60, 2)})
                    logger.info("%s: Dice %.4f", key, found["dice"])
    write_text(output / "fewshot.md", make_table(rows.all))
    draw_plot(rows.all, output / "fewshot.png")
    return rows.all


def _measure_ours(benchmark: Benchmark, config: TrainingConfig, drawing: Drawing, watch: Watch) -> dict[str, Any]:
    options = Options(drawing.cases or None, benchmark.sam_checkpoint, benchmark.device)
    with tempfile.TemporaryDirectory() as folder:
        data = benchmark.data
        if drawing.every > 1:
            data = Path(folder) / "painted"
            plan = make_plan(benchmark.data, replace(config, look_twice=False), options.cases)
            painted = {name: every_nth(plan.depths[name], drawing.every) for name in plan.training_names}
            paint_in_part(plan, plan.files, painted, data)
        model = train(data, Path(folder) / "model.sam3d", config, options, watch)
    summary = model.card.training
    return {
        "dice": float(np.mean(list(summary.dice.values()))),
        "dice_by_label": summary.dice,
        "steps": summary.steps,
        "parameters": sum(p.numel() for p in model.decoder.parameters()),
    }


def _measure_unet(benchmark: Benchmark, config: TrainingConfig, drawing: Drawing, watch: Watch) -> dict[str, Any]:
    return measure_unet(benchmark.data, config, drawing.cases or None, benchmark.device, watch)


def _our_name(config: TrainingConfig) -> str:
    return f"{OURS}, {config.name}" if config.name else OURS
