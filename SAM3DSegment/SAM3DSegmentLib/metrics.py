"""Overlap of label maps, by numpy alone."""

from __future__ import annotations

from collections.abc import Iterable

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
