"""How well a model does on labelled cases: Dice by case and label, on each case's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric

from ..base.watch import UNWATCHED, Watch
from ..card import Label
from ..metrics import label_dice
from .dataset import CaseFiles
from .look import read_case


@dataclass(frozen=True)
class Scores:
    """Dice (cases, labels); NaN where neither the model nor the reference has the label, which no mean counts."""

    cases: tuple[str, ...]
    labels: tuple[str, ...]
    dice: np.ndarray

    def by_label(self) -> dict[str, float]:
        """Mean over the cases; a label that none of them has is left out."""
        columns = {name: column[~np.isnan(column)] for name, column in zip(self.labels, self.dice.T)}
        return {name: float(column.mean()) for name, column in columns.items() if len(column)}

    def mean(self) -> float:
        """Mean over the labels; 0 if there are none."""
        means = list(self.by_label().values())
        return float(np.mean(means)) if means else 0.0

    def by_case(self) -> dict[str, dict[str, float]]:
        return {
            case: {name: float(value) for name, value in zip(self.labels, row) if not np.isnan(value)}
            for case, row in zip(self.cases, self.dice)
        }

    @classmethod
    def from_cases(cls, by_case: dict[str, dict[str, float]], labels: tuple[str, ...]) -> Scores:
        """The inverse of `by_case`."""
        rows = [[row.get(label, np.nan) for label in labels] for row in by_case.values()]
        return cls(tuple(by_case), labels, np.array(rows))

    def worst(self) -> str:
        """The case with the lowest mean over its labels."""
        by_case = {case: np.mean(list(dice.values())) for case, dice in self.by_case().items() if dice}
        return min(by_case, key=lambda case: by_case[case]) if by_case else self.cases[0]

    def joined(self, other: Scores) -> Scores:
        return Scores(self.cases + other.cases, self.labels, np.concatenate([self.dice, other.dice]))


class Segments(Protocol):
    """A `Segmenter`, or what is measured as one."""

    def segment(self, array_kji: np.ndarray, ijk_to_ras: np.ndarray, watch: Watch = UNWATCHED) -> np.ndarray: ...


def score_cases(
    segmenter: Segments,
    cases: list[CaseFiles],
    labels: tuple[Label, ...],
    resample: bool,
    fabric: Fabric,
    watch: Watch,
) -> Scores:
    """Segment the cases, each device its share, one at a time in memory. Raises Cancelled.

    Several devices are not asked to cancel in between: all have to come to the end together.
    """
    dice = np.zeros((len(cases), len(labels)))
    values = np.array([0, *(label.value for label in labels)], np.uint8)
    watch = watch.silent() if fabric.world_size == 1 else UNWATCHED
    for number in range(fabric.global_rank, len(cases), fabric.world_size):
        image, classes = read_case(cases[number], labels, resample)
        found = segmenter.segment(image.array_kji, image.ijk_to_ras, watch)
        dice[number] = label_dice(found, values[classes], values[1:].tolist())
    shared = fabric.all_reduce(torch.from_numpy(dice).to(fabric.device, torch.float32), reduce_op="sum")
    assert isinstance(shared, torch.Tensor)
    return Scores(tuple(c.name for c in cases), tuple(label.name for label in labels), shared.cpu().double().numpy())
