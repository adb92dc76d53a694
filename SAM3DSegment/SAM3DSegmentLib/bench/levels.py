"""What each level of quality costs in Dice, and saves in seconds, on labelled cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..base.devices import keep_freed_memory
from ..base.errors import require
from ..card import UNKNOWN
from ..inference import Segmenter
from ..metrics import label_dice
from ..model_file import load_model
from ..quality import BEST, QUALITIES
from ..settings import TrainingConfig
from ..training.classes import LabelRules
from ..training.dataset import find_dataset
from ..training.reading import read_case
from ..training.splits import split_cases
from .measuring import BenchResult, Row, clock, conditions, threads


def bench_quality(
    data: Path, config: TrainingConfig, model: str, device: str, precision: str, thread_count: int | None = None
) -> BenchResult:
    """Every level on each test case of a training with this `config`, in turn: mean Dice, and seconds a case."""
    require(config.test_cases > 0, "test_cases is 0; give settings that hold some out, such as 40.")
    keep_freed_memory()
    loaded = load_model(model)
    dataset = find_dataset(data)
    cases, rules = {case.name: case for case in dataset.cases}, LabelRules.of(config, dataset)
    names = split_cases(cases, config, patients=dataset.patients)[0].test
    first = Segmenter.load(loaded, device, precision)
    levels = {name: Segmenter(loaded.card, first.network, quality=name) for name in QUALITIES}
    labels = loaded.card.labels
    values = np.array([0, *(label.value for label in labels)], np.uint8)
    dice = {name: np.zeros((len(names), len(labels))) for name in levels}
    seconds = dict.fromkeys(levels, 0.0)
    with threads(thread_count):
        kind, now = clock(first.network.encoder.device)
        for number, case in enumerate(names):
            image, classes = read_case(cases[case], labels, rules)
            known = classes != UNKNOWN
            for name, segmenter in levels.items():
                began = now()
                found = segmenter.segment(image.channels, image.ijk_to_ras)
                seconds[name] += (now() - began) / len(names)
                dice[name][number] = label_dice(found[known], values[classes[known]], values[1:].tolist())
        where = conditions(
            first.network.encoder.device, model=model, precision=precision, cases=len(names), seconds=kind
        )
    rows = [
        Row(name, seconds[name], ratio=seconds[BEST] / seconds[name], dice=float(np.nanmean(dice[name], 0).mean()))
        for name in levels
    ]
    return BenchResult("quality", where, rows)
