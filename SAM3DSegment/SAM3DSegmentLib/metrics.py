"""Overlap of label maps, by numpy alone."""

from __future__ import annotations

import numpy as np


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two boolean masks; 1 if both are empty."""
    total = int(np.count_nonzero(mask)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(mask & reference)) / total if total else 1.0


def label_dice(labels: np.ndarray, reference: np.ndarray, values: list[int]) -> list[float]:
    """Dice of each label value."""
    return [dice(labels == value, reference == value) for value in values]
