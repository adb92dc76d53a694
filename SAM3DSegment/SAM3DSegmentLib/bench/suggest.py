"""What `suggest` saves: held-out Dice of cases and slices that it chose, beside ones at random, at equal drawing.

All labels are there, and hidden. Every way begins with the same few cases, of which some slices are painted evenly from
the first to the last one that shows a structure, and with a model that is trained on these. It sees other cases, and
says what to paint next; then it is trained on, with these or with others.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import require
from ..base.files import write_text
from ..base.jsonable import to_json
from ..base.watch import Watch
from ..formats.volumes import read_volume
from ..geometry import slicing_of
from ..inference import Segmenter
from ..model_file import Sam3dModel, load_model, save_model
from ..settings import TrainingConfig
from ..training.execution import train_as_planned
from ..training.plan import make_plan
from ..training.reading import read_case
from ..training.run_folder import Options, RunFolder
from ..training.splits import Split
from .kept_rows import KeptRows
from .painting import paint_in_part
from .suggestion import choose_slices, choose_volumes, embed, see

logger = logging.getLogger(__name__)

AT_RANDOM = "cases at random, slices evenly"
SUGGESTED = "cases and slices suggested"
BLANK_RHYTHM = 4  # of the slices without a structure every fourth is marked as empty, from the nearest ones on


@dataclass(frozen=True)
class Simulation:
    """Training cases to begin with, in all, and of the longer way at random, with so many painted slices in each.

    pool: cases from which is chosen. steps, further: of the first training, and of those that go on from its model; not
    minutes, so that a busy computer changes no result.
    """

    data: Path
    config: TrainingConfig
    start: int
    cases: int
    more: int
    pool: int
    painted: int
    steps: int
    further: int
    seeds: tuple[int, ...]
    sam_checkpoint: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        require(self.config.test_cases > 0, "test_cases is 0; hold some out to measure on, such as 40.")
        require(
            0 < self.start < self.cases < self.more,
            f"{self.start}, {self.cases} and {self.more} cases are no ascending numbers; give such as 5 12 16.",
        )


@dataclass(frozen=True)
class Hidden:
    """A training case's reference: which of its slices show a structure."""

    there: np.ndarray  # numbers
    depth: int

    def evenly(self, count: int) -> list[int]:
        """The middles of `count` equal parts, from the first slice with a structure to the last one."""
        first, last = self.there[0], self.there[-1]
        middles = first + (last - first + 1) * (np.arange(count) + 0.5) / count
        return sorted({int(number) for number in middles})

    def suggested(self, ranked: Sequence[int], count: int) -> list[int]:
        """The first of `ranked` that show a structure, then even ones; what turns out to be blank costs no drawing."""
        found = [number for number in ranked if number in self.there]
        return sorted([*found, *(number for number in self.evenly(count) if number not in found)][:count])

    def blank(self) -> list[int]:
        """Those that are marked as empty."""
        first, last = int(self.there[0]), int(self.there[-1])
        return [*range(first - 1, -1, -BLANK_RHYTHM), *range(last + 1, self.depth, BLANK_RHYTHM)]


class _Seed:
    """One seed: its cases, and the trainings on what is painted of them."""

    def __init__(self, simulation: Simulation, seed: int, output: Path, rows: KeptRows, watch: Watch) -> None:
        self.simulation = simulation
        self.seed = seed
        self.first = output / f"first-{seed}.sam3d"
        self.rows = rows
        self.watch = watch
        self.config = replace(simulation.config, seed=seed, minutes=1, epochs=1, look_twice=False)
        self.plan = make_plan(simulation.data, self.config, watch=watch)
        self.order = self.plan.splits[0].training  # at random
        require(
            len(self.order) >= simulation.more,
            f"{str(simulation.data)!r} has {len(self.order)} training cases, not {simulation.more}; ask for fewer.",
        )
        self._hidden: dict[str, Hidden] = {}

    def run(self) -> None:
        """Measure each way of which there is no row yet. Raises Cancelled."""
        simulation, order = self.simulation, self.order
        start = self.evenly(order[: simulation.start])
        self.measure(AT_RANDOM, simulation.start, lambda: start)
        self.measure(SUGGESTED, simulation.cases, lambda: {**start, **self.suggest()})
        for cases in (simulation.cases, simulation.more):
            self.measure(AT_RANDOM, cases, partial(self.evenly, order[:cases]))

    def measure(self, way: str, cases: int, choose: Callable[[], Mapping[str, Collection[int]]]) -> None:
        """Train on what is chosen, and add a row, unless there is one. The first model is kept."""
        key = {"way": way, "cases": cases, "seed": self.seed}
        if self.rows.has(key):
            return
        began = time.process_time()
        painted = choose()
        found, model = self.train(painted)
        if cases == self.simulation.start:
            save_model(model, self.first)
        self.rows.add({**key, **found, "chosen": sorted(painted), "seconds": round(time.process_time() - began)})
        logger.info("%s: Dice %.4f", key, found["dice"])

    def hidden(self, name: str) -> Hidden:
        if name not in self._hidden:
            image, classes = read_case(self.plan.files[name], self.plan.labels, self.plan.rules)
            axis = slicing_of(image.ijk_to_ras, self.config.slicing).kji_axes[0]
            there = np.asarray(np.moveaxis(classes, axis, 0).any((1, 2)))
            require(bool(there.any()), f"the case {name!r} shows no structure; leave it out.")
            self._hidden[name] = Hidden(np.flatnonzero(there), len(there))
        return self._hidden[name]

    def evenly(self, names: Collection[str]) -> dict[str, list[int]]:
        return {name: self.hidden(name).evenly(self.simulation.painted) for name in names}

    def train(self, painted: Mapping[str, Collection[int]]) -> tuple[dict[str, Any], Sam3dModel]:
        """On these slices of these cases alone; the other cases are as in the plan of all. Raises Cancelled."""
        split = self.plan.splits[0]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with_blanks = {case: [*numbers, *self.hidden(case).blank()] for case, numbers in painted.items()}
            paint_in_part(self.plan, [*painted, *split.validation, *split.test], with_blanks, folder / "data")
            plan = make_plan(folder / "data", self._for_steps(painted), hashed=True, watch=self.watch.silent())
            plan = replace(plan, splits=(Split(tuple(painted), split.validation, split.test),))
            options = Options(None, self.simulation.sam_checkpoint, self.simulation.device)
            model = train_as_planned(plan, RunFolder(folder / "model.sam3d"), options, self.watch)
        summary = model.card.training
        return {
            "drawn": sum(map(len, painted.values())),
            "dice": float(np.mean(list(summary.dice.values()))),
            "dice_by_label": summary.dice,
            "steps": summary.steps,
        }, model

    def _for_steps(self, names: Collection[str]) -> TrainingConfig:
        """With as many passes over these cases as take the steps of the simulation."""
        simulation, config = self.simulation, self.config
        is_first = len(names) == simulation.start
        windows = sum(-(-self.plan.depths[name] // self.plan.config.training_depth) for name in names)
        steps = simulation.steps if is_first else simulation.further
        epochs = max(1, round(steps * config.batch_size / windows))
        return replace(config, epochs=epochs, start_from="" if is_first else str(self.first))

    def suggest(self) -> dict[str, list[int]]:
        """The cases that the first model asks for, with the slices to paint of each."""
        simulation = self.simulation
        segmenter = Segmenter.load(load_model(self.first), simulation.device, "auto", simulation.sam_checkpoint)
        start, rest = self.order[: simulation.start], self.order[simulation.start :]
        pool = rest[: simulation.pool]
        known = [embed(segmenter, read_volume(self.plan.files[name].image)) for name in start]
        silent = self.watch.silent()
        images = (read_volume(self.plan.files[name].image) for name in self.watch.each("suggest", pool))
        seen = [see(segmenter, image, silent) for image in images]
        chosen = choose_volumes(seen, known, simulation.cases - simulation.start)
        return {
            pool[number]: self.hidden(pool[number]).suggested(choose_slices(seen[number]), simulation.painted)
            for number in chosen
        }


def run_simulation(simulation: Simulation, output: Path, watch: Watch) -> list[dict[str, Any]]:
    """Write `suggest.json` and `suggest.md` into the folder `output`; return one row for each training.

    Rows that are there from before are kept, if they are of the same settings. Raises Cancelled.
    """
    output.mkdir(parents=True, exist_ok=True)
    settings = {**to_json(simulation), "data": str(simulation.data)}
    for how in ("seeds", "sam_checkpoint", "device"):
        del settings[how]
    rows = KeptRows(output / "suggest.json", settings)
    for seed in simulation.seeds:
        _Seed(simulation, seed, output, rows, watch).run()
    write_text(output / "suggest.md", make_table(rows.all))
    return rows.all


def make_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: of each way the slices that were drawn, the mean Dice over the seeds, and each seed's."""
    keys = sorted({(row["cases"], row["way"]) for row in rows}, key=lambda key: (key[0], key[1] != AT_RANDOM, key[1]))
    lines = ["| cases | chosen | slices drawn | mean Dice | seeds |", "|" + "---|" * 5]
    for cases, way in keys:
        group = sorted((row for row in rows if (row["cases"], row["way"]) == (cases, way)), key=lambda r: r["seed"])
        drawn = np.mean([row["drawn"] for row in group])
        each = ", ".join(f"{row['dice']:.4f}" for row in group)
        lines.append(f"| {cases} | {way} | {drawn:.0f} | {np.mean([row['dice'] for row in group]):.4f} | {each} |")
    return "\n".join(lines) + "\n"
