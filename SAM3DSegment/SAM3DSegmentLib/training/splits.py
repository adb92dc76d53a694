"""Which cases a training learns from, which choose its best weights, and which do neither."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..base.errors import InputError, require
from ..settings import TrainingConfig


@dataclass(frozen=True)
class Split:
    """Names of the cases: to train on, to choose the checkpoint by, and for neither."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


def split_cases(names: Iterable[str], config: TrainingConfig, most_training: int | None = None) -> tuple[Split, ...]:
    """Shuffle by the seed and cut: first the test cases, then the validation cases, the rest is for training.

    One split, or one for each of `config.folds`: every case that is not a test case is then a validation case once.
    Of the training cases at most `most_training` are kept. Raises InputError if none are left.
    """
    if most_training is not None and most_training < 1:
        raise InputError(
            f"{most_training} training cases are too few; use at least 1, or leave the option out for all."
        )
    names = sorted(names)
    shuffled = [names[i] for i in np.random.default_rng(config.seed).permutation(len(names))]
    test, rest = tuple(shuffled[: config.test_cases]), shuffled[config.test_cases :]
    if config.folds > 1:
        return _folds(rest[:most_training], test, config.folds)
    validation = config.validation_cases or max(1, len(rest) // 5)
    if validation >= len(rest):
        raise InputError(
            f"{config.test_cases} test and {validation} validation cases leave none of {len(names)} to train on; "
            "ask for fewer."
        )
    return (Split(tuple(rest[validation:][:most_training]), tuple(rest[:validation]), test),)


def share_out(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Numbers of the items of each of `ranks` processes, in their order: the next goes to the one with least so far."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0] * ranks
    for number, size in enumerate(sizes):
        least = sums.index(min(sums))
        shares[least].append(number)
        sums[least] += size
    return shares


def _folds(names: list[str], test: tuple[str, ...], folds: int) -> tuple[Split, ...]:
    require(
        len(names) >= folds,
        f"{len(names)} cases cannot be divided into {folds} folds; give fewer folds, or more cases.",
    )
    return tuple(
        Split(
            tuple(name for i, name in enumerate(names) if i % folds != fold),
            tuple(names[fold::folds]),
            test,
        )
        for fold in range(folds)
    )
