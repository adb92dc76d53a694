"""Overlap of label maps, of one case and of many, by numpy alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean masks; NaN, not defined, if both are empty: leave it out of means."""
    total = int(np.count_nonzero(mask)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(mask & reference)) / total if total else float("nan")


def label_dice(labels: np.ndarray, reference: np.ndarray, values: list[int]) -> list[float]:
    """Dice of each label value, NaN where neither has it."""
    return [dice(labels == value, reference == value) for value in values]


def mean_defined(values: Iterable[float]) -> float:
    """The mean of the values that are defined; NaN if none is."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


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
