"""A structure in a large volume: how well its place is found, what that costs in Dice, and what it saves in time.

Labelled volumes are set into larger ones (`set_in`), training and test cases apart; a model is trained on these as by
`train`, and segments each test case with its own coarse look, with the region that the labelled volume had, and whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..base.devices import keep_freed_memory
from ..base.errors import require
from ..base.files import write_json
from ..base.watch import Watch
from ..card import Label
from ..geometry import AUTO_REGION, WHOLE_REGION, Crop
from ..inference import Segmenter
from ..metrics import label_dice, mean_defined
from ..model_file import Sam3dModel, load_model
from ..settings import TrainingConfig
from ..training.dataset import find_dataset
from ..training.plan import make_plan
from ..training.reading import read_case
from ..training.run import train
from ..training.run_folder import Options, RunFolder
from ..training.splits import split_cases
from .measuring import BenchResult, Row, clock, conditions, threads
from .set_in import set_in

INSIDE = 0.99  # of a structure's voxels, for a box that holds it
TIMED_WHOLE = 5  # cases that are segmented whole, which takes long


@dataclass(frozen=True)
class Setting:
    """Where cases come from, and what they are set into: `cases` to train on, config.test_cases to measure on."""

    data: Path
    output: Path
    config: TrainingConfig
    cases: int
    size: int
    device: str


def bench_region(
    data: Path,
    output: Path,
    config: TrainingConfig,
    minutes: float | None,
    cases: int,
    size: int,
    device: str,
    thread_count: int | None,
) -> BenchResult:
    """What is in `output` from before is used again: the volumes, and a model that was trained on them.

    minutes: of the training, unless the settings say so. Raises InputError, Cancelled.
    """
    require(config.test_cases > 0, "test_cases is 0; give settings that hold some out, such as 40.")
    keep_freed_memory()
    config = config if minutes is None else replace(config, minutes=minutes, epochs=0)
    setting = Setting(data, output, config, cases, size, device)
    with threads(thread_count):
        regions = _set_in(setting)
        model = _trained(setting)
        return _measure(setting, model, regions)


def _set_in(setting: Setting) -> dict[str, str]:
    """The regions of the test cases in their volumes."""
    kept = setting.output / "regions.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    plan = make_plan(setting.data, setting.config)
    split = plan.splits[0]
    names = split.training[: setting.cases] + split.validation
    again = split_cases(names, replace(setting.config, test_cases=0))[0]  # as the training will divide them
    for number, group in enumerate((again.training, again.validation)):
        set_in(plan, group, setting.size, setting.output / "training", number, Watch())
    regions = set_in(plan, split.test, setting.size, setting.output / "test", 2, Watch())
    write_json(kept, regions)
    return regions


def _trained(setting: Setting) -> Sam3dModel:
    path = setting.output / "model.sam3d"
    if path.is_file():
        return load_model(path)
    config = replace(setting.config, test_cases=0)
    stopped = RunFolder(path).record.is_file()
    return train(setting.output / "training", path, config, Options(device=setting.device, resume=stopped))


@dataclass
class _Found:
    """Of each test case: the share of the structures inside of the boxes, mean Dice, and seconds."""

    inside: list[float]
    dice: list[float]
    seconds: list[float]


def _measure(setting: Setting, model: Sam3dModel, regions: dict[str, str]) -> BenchResult:
    cases = {case.name: case for case in find_dataset(setting.output / "test", least=1).cases}
    segmenter = Segmenter.load(model, setting.device)
    kind, now = clock(segmenter.network.encoder.device)
    found = {name: _Found([], [], []) for name in ("found", "given", "whole")}
    for number, (name, region) in enumerate(regions.items()):
        image, classes = read_case(cases[name], model.card.labels)
        wanted = {"found": AUTO_REGION, "given": region}
        if number < TIMED_WHOLE:
            wanted["whole"] = WHOLE_REGION
        for way, named in wanted.items():
            began = now()
            labels = segmenter.segment(image.channels, image.ijk_to_ras, region=named)
            found[way].seconds.append(now() - began)
            found[way].inside.append(_share_inside(classes > 0, segmenter.boxes))
            found[way].dice.append(_mean_dice(labels, classes, model.card.labels))
    where = conditions(
        segmenter.network.encoder.device,
        cases=len(regions),
        volumes=f"{setting.size}^3 voxels",
        minutes=model.card.training.minutes,
        seconds=kind,
    )
    return BenchResult("region", where, _rows(found))


def _rows(found: dict[str, _Found]) -> list[Row]:
    whole = found["whole"].seconds
    inside = np.array(found["found"].inside)
    notes = {
        "found": f"{(inside >= INSIDE).sum()} of {len(inside)} boxes hold {INSIDE:.0%} of the structures; least "
        f"{inside.min():.1%}",
        "given": "the region of the labelled volume",
        "whole": f"the first {len(whole)} cases",
    }
    return [
        Row(
            way,
            float(np.mean(one.seconds)),
            ratio=float(np.sum(whole) / np.sum(one.seconds[: len(whole)])),
            dice=float(np.mean(one.dice)),
            note=notes[way],
        )
        for way, one in found.items()
    ]


def _share_inside(mask_kji: np.ndarray, boxes: Sequence[Crop]) -> float:
    return float(sum(np.count_nonzero(box.view(mask_kji)) for box in boxes) / np.count_nonzero(mask_kji))


def _mean_dice(labels_kji: np.ndarray, classes_kji: np.ndarray, labels: Sequence[Label]) -> float:
    values = np.array([0, *(label.value for label in labels)], np.uint8)
    return mean_defined(label_dice(labels_kji, values[classes_kji], values[1:].tolist()))
