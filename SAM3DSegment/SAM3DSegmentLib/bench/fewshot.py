"""The few-case benchmark: held-out Dice against the number of training cases and against minutes.

Our decoder, in one or more settings, and a 3-D U-Net of MONAI train on the same cases, with the same augmentation,
loss, loop and minutes, on the same machine, and are measured on the same test cases. The U-Net sees the volumes on
their own grid.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.devices import resolve_device
from ..base.errors import Cancelled, InputError, require
from ..base.files import write_json, write_text, written_whole
from ..base.jsonable import to_json
from ..base.watch import UNWATCHED, Watch
from ..geometry import slicing_of
from ..preparation import Preparation
from ..settings import TrainingConfig
from ..training.callbacks import Checkpoint, Validation
from ..training.loop import Budget, Loop, make_fabric
from ..training.plan import Plan, make_plan
from ..training.prepared import prepare_case
from ..training.run import Options, train
from ..training.samples import FreshViews, Sample, Samples, StepNumbers, make_loader, stack_on
from ..training.scoring import Scores, score_cases

logger = logging.getLogger(__name__)

ALL = 0  # as a number of cases: all that are not held out
OURS, UNET = "SAM3DSegment", "3-D U-Net"
# nnU-Net's network, narrow enough for minutes of a CPU. Its first convolutions are at full resolution: MONAI's `UNet`,
# which halves it at once, was 0.02 of Dice worse after as many minutes.
UNET_CHANNELS = (16, 32, 64, 128)
UNET_LEARNING_RATE = 3e-3
PATCH = (48, 64, 64)  # slices, rows, columns that the U-Net sees at once
_MULTIPLE = 8  # its three halvings


@dataclass(frozen=True)
class Benchmark:
    """What is compared: every network on every number of cases, for every time, from every seed.

    Of several settings each has a name of its own; the U-Net takes over those of the first that concern it.
    """

    data: Path
    configs: tuple[TrainingConfig, ...]
    cases: tuple[int, ...]
    minutes: tuple[float, ...]
    seeds: tuple[int, ...]
    sam_checkpoint: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("configs", "cases", "minutes", "seeds"):
            require(len(getattr(self, name)) > 0, f"no {name} are given; give at least one.")
        for config in self.configs:
            require(config.test_cases > 0, "test_cases is 0; hold some out to measure on, such as 40.")
            require(config.folds == 1, f"folds {config.folds} are not measured; leave them out.")
        names = [config.name for config in self.configs]
        require(len(set(names)) == len(names), f"the names {names} of the settings must differ; give each its own.")
        held_out = {(config.validation_cases, config.test_cases) for config in self.configs}
        require(len(held_out) == 1, f"settings hold out {sorted(held_out)} cases; hold out the same in all.")
        for name in ("cases", "minutes", "seeds"):
            require(min(getattr(self, name)) >= 0, f"{name} {getattr(self, name)} must not be negative.")
        require(min(self.minutes) > 0, f"minutes {self.minutes} must be above 0.")


Measure = Callable[[Benchmark, TrainingConfig, "int | None", Watch], "dict[str, Any]"]


def run_benchmark(benchmark: Benchmark, output: Path, watch: Watch) -> list[dict[str, Any]]:
    """Write `fewshot.json`, `fewshot.md` and `fewshot.png` into the folder `output`; return one row for each training.

    Rows that are there from before are kept, if they are of the same settings. Raises Cancelled.
    """
    networks: list[tuple[str, Measure, TrainingConfig]] = [
        *((_our_name(config), _measure_ours, config) for config in benchmark.configs),
        (UNET, _measure_unet, benchmark.configs[0]),
    ]
    path = output / "fewshot.json"
    settings: dict[str, Any] = {"data": str(benchmark.data)}
    settings |= {name: json.loads(json.dumps(to_json(config))) for name, _, config in networks}
    settings, rows = _read_rows(path, settings)
    output.mkdir(parents=True, exist_ok=True)
    for seed in benchmark.seeds:
        for minutes in benchmark.minutes:
            for cases in benchmark.cases:
                for network, measure, config in networks:
                    key = {"network": network, "cases": cases, "minutes": minutes, "seed": seed}
                    if any(key.items() <= row.items() for row in rows):
                        continue
                    began = time.monotonic()
                    timed = replace(config, minutes=minutes, epochs=0, seed=seed)
                    try:
                        found = measure(benchmark, timed, cases or None, watch)
                    except Cancelled as error:
                        raise Cancelled("cancelled; the rows so far are kept, and the same command goes on.") from error
                    rows.append({**key, **found, "wall_minutes": round((time.monotonic() - began) / 60, 2)})
                    logger.info(
                        "%s, %s cases, %g min, seed %d: Dice %.4f", network, cases, minutes, seed, found["dice"]
                    )
                    write_json(path, {"settings": settings, "rows": rows})
    write_text(output / "fewshot.md", make_table(rows))
    _plot(rows, output / "fewshot.png")
    return rows


def make_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean Dice over the seeds, and the lowest and highest of them."""
    lines = ["| cases | minutes | network | mean Dice | lowest to highest | seeds | steps |", "|" + "---|" * 7]
    for cases, minutes, network in _groups(rows):
        group = _select(rows, cases, minutes, network)
        dice = [row["dice"] for row in group]
        steps = round(float(np.mean([row["steps"] for row in group])))
        lines.append(
            f"| {_cases_name(cases)} | {minutes:g} | {network} | {np.mean(dice):.4f} "
            f"| {min(dice):.4f} to {max(dice):.4f} | {len(group)} | {steps} |"
        )
    return "\n".join(lines) + "\n"


def _read_rows(path: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rows from before, of these settings or of other names, and the settings of all."""
    if not path.is_file():
        return settings, []
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        known, rows = dict(before["settings"]), list(before["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is not a benchmark's; give another folder.") from error
    changed = [name for name in settings if name in known and known[name] != settings[name]]
    if changed:
        raise InputError(f"{str(path)!r} is of another {', '.join(changed)}; give another folder.")
    return {**known, **settings}, rows


def _measure_ours(benchmark: Benchmark, config: TrainingConfig, cases: int | None, watch: Watch) -> dict[str, Any]:
    options = Options(cases, benchmark.sam_checkpoint, benchmark.device)
    with tempfile.TemporaryDirectory() as folder:
        model = train(benchmark.data, Path(folder) / "model.sam3d", config, options, watch)
    summary = model.card.training
    return {
        "dice": float(np.mean(list(summary.dice.values()))),
        "dice_by_label": summary.dice,
        "steps": summary.steps,
        "parameters": sum(p.numel() for p in model.decoder.parameters()),
    }


def _measure_unet(benchmark: Benchmark, config: TrainingConfig, cases: int | None, watch: Watch) -> dict[str, Any]:
    config = replace(config, learning_rate=UNET_LEARNING_RATE, training_depth=PATCH[0], mirror=False)
    plan = make_plan(benchmark.data, config, cases)
    if plan.problems:
        raise InputError(plan.problems[0].problem)
    (split,) = plan.splits
    fabric = make_fabric(resolve_device(benchmark.device))
    torch.manual_seed(config.seed)
    learner = UnetLearner(len(plan.labels) + 1, fabric.device)
    loop = Loop(fabric, learner, config, Budget(0, config.minutes * 60))

    def score(names: tuple[str, ...], weights: dict[str, Tensor]) -> Scores:
        segmenter = UnetSegmenter(plan, learner.with_weights(weights), fabric.device)
        return score_cases(segmenter, plan.files(names), plan.labels, config.resample, fabric, watch)

    with tempfile.TemporaryDirectory() as folder:
        prepared = [
            prepare_case(
                case.files,
                plan.labels,
                _native(config, case.shape_kji, case.ijk_to_ras),
                config.resample,
                Path(folder),
            )
            for case in plan.facts
            if case.files.name in split.training
        ]
        samples = Samples(prepared, _Patches(prepared, config.augmentation), config, config.batch_size)
        checkpoint = Checkpoint(Path(folder) / "checkpoint.pt", {})
        validation = Validation(
            lambda weights: score(split.validation, weights), checkpoint, lambda loop, weights, scores, is_best: None
        )
        loader = make_loader(samples, StepNumbers(0, config.batch_size, 0, 1), 0, False)
        if not loop.run(loader, [validation], watch):
            raise Cancelled("cancelled while the U-Net was trained.")
        scores = score(split.test, checkpoint.best)
    return {
        "dice": scores.mean(),
        "dice_by_label": {name: round(value, 4) for name, value in scores.by_label().items()},
        "steps": loop.state.step,
        "parameters": sum(p.numel() for p in learner.module.parameters()),
    }


class PaddedUnet(nn.Module):
    """MONAI's U-Net as nnU-Net has it, on grey volumes (N, 1, D, H, W) of any size -> a list of one level of logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        halvings = len(UNET_CHANNELS) - 1
        self.unet = DynUNet(
            3,
            1,
            num_classes,
            kernel_size=[3] * len(UNET_CHANNELS),
            strides=[1] + [2] * halvings,
            upsample_kernel_size=[2] * halvings,
            filters=UNET_CHANNELS,
        )

    def forward(self, grey: Tensor) -> list[Tensor]:
        missing = [-size % _MULTIPLE for size in grey.shape[2:]]
        padded = F.pad(grey, [part for size in reversed(missing) for part in (0, size)])
        depth, height, width = grey.shape[2:]
        return [self.unet(padded)[:, :, :depth, :height, :width]]


class UnetLearner:
    """The U-Net in the place of an encoder and a decoder, for the same loop."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.module: nn.Module = PaddedUnet(num_classes)
        self._num_classes = num_classes
        self._device = device

    def compare(self, module: nn.Module, samples: list[Sample]) -> tuple[list[Tensor], list[Tensor]]:
        grey = stack_on(self._device, [sample.grey for sample in samples if sample.grey is not None])
        classes = stack_on(self._device, [sample.classes for sample in samples])
        return module(_as_input(grey[:, None])), [classes.long()]

    def with_weights(self, weights: dict[str, Tensor]) -> PaddedUnet:
        unet = PaddedUnet(self._num_classes)
        unet.load_state_dict(weights)
        return unet.to(self._device).eval()


class UnetSegmenter:
    """A trained U-Net, used as a `Segmenter` is."""

    def __init__(self, plan: Plan, unet: PaddedUnet, device: torch.device) -> None:
        self._plan = plan
        self._unet = unet
        self._device = device

    @torch.no_grad()
    def segment(self, array_kji: np.ndarray, ijk_to_ras: np.ndarray, watch: Watch = UNWATCHED) -> np.ndarray:
        prepared = _native(self._plan.config, array_kji.shape, ijk_to_ras).prepare(array_kji, ijk_to_ras)
        grey = _as_input(prepared.grey(0, prepared.depth).to(self._device)[None, None])
        patch = tuple(min(part, size) for part, size in zip(PATCH, grey.shape[2:]))
        logits = sliding_window_inference(grey, patch, 1, lambda part: self._unet(part)[0], overlap=0.5)
        assert isinstance(logits, Tensor)
        classes = prepared.fit.enlarge(logits[0].transpose(0, 1)).argmax(1).cpu().numpy()
        values = np.array([0, *(label.value for label in self._plan.labels)], np.uint8)
        return prepared.slicing.to_kji(values[classes])


class _Patches(FreshViews):
    """Random views as for our network, cut at random to what the U-Net sees at once."""

    def window(self, case: int, start: int, stop: int, step: int, generator: torch.Generator) -> Sample:
        view = super().window(case, start, stop, step, generator)
        assert view.grey is not None
        cut = []
        for size, most in zip(view.classes.shape[1:], PATCH[1:]):
            first = int(torch.randint(max(0, size - most) + 1, (1,), generator=generator))
            cut.append(slice(first, first + most))
        return Sample(view.fit, view.classes[:, cut[0], cut[1]], view.grey[:, cut[0], cut[1]])


def _native(config: TrainingConfig, shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray) -> Preparation:
    """The preparation whose square has as many pixels as the volume's own slice, which then is its grid."""
    slicing = slicing_of(ijk_to_ras, config.slicing)
    return Preparation(config.slicing, config.intensity, max(shape_kji[axis] for axis in slicing.kji_axes[1:]))


def _as_input(grey: Tensor) -> Tensor:
    return grey / 127.5 - 1


def _groups(rows: list[dict[str, Any]]) -> list[tuple[int, float, str]]:
    keys = {(row["cases"], row["minutes"], row["network"]) for row in rows}
    return sorted(keys, key=lambda key: (key[0] or math.inf, key[1], key[2]))


def _select(rows: list[dict[str, Any]], cases: int, minutes: float, network: str) -> list[dict[str, Any]]:
    wanted = {"cases": cases, "minutes": minutes, "network": network}
    return [row for row in rows if wanted.items() <= row.items()]


def _our_name(config: TrainingConfig) -> str:
    return f"{OURS}, {config.name}" if config.name else OURS


def _cases_name(cases: int) -> str:
    return str(cases) if cases else "all"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Dice against minutes, a panel for each number of cases; a dot for each seed, a line through their means."""
    from matplotlib.figure import Figure

    keys = _groups(rows)
    numbers = list(dict.fromkeys(cases for cases, _, _ in keys))
    times = sorted({minutes for _, minutes, _ in keys})
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(2 + 3 * len(numbers), 4.5), layout="constrained")
    for axes, cases in zip(figure.subplots(1, len(numbers), sharex=True, sharey=True, squeeze=False)[0], numbers):
        for number, network in enumerate(networks):
            # Beside each other: dots of two networks would hide one another.
            shift = 0.02 * (number - (len(networks) - 1) / 2) * times[-1]
            points = [(minutes + shift, _select(rows, cases, minutes, network)) for minutes in times]
            _draw(axes, points, f"C{number}", network)
        axes.set(title=f"{_cases_name(cases)} training cases", xlabel="minutes of training", xticks=times)
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
