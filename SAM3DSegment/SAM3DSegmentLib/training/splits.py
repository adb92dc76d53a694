"""Which cases a training learns from, which choose its best weights, and which do neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..base.errors import InputError
from ..settings import TrainingConfig


@dataclass(frozen=True)
class Split:
    """Names of the cases: to train on, to choose the checkpoint by, and for neither."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


def split_cases(
    names: Iterable[str],
    config: TrainingConfig,
    most_training: int | None = None,
    patients: Mapping[str, str] | None = None,
) -> tuple[Split, ...]:
    """Shuffle by the seed and cut: first the test cases, then the validation cases, the rest is for training.

    One split, or one for each of `config.folds`: every case that is not a test case is then a validation case once.
    Of the training cases at most `most_training` are kept. patients: of whom a case is; all cases of one are on the
    same side, so that there may be some more to test and validate on than asked for. A case that is not named counts as
    a patient of its own. Raises InputError if none are left to train on.
    """
    if most_training is not None and most_training < 1:
        raise InputError(
            f"{most_training} training cases are too few; use at least 1, or leave the option out for all."
        )
    groups = by_patient(sorted(names), patients or {})
    total = sum(map(len, groups))
    shuffled = [groups[i] for i in np.random.default_rng(config.seed).permutation(len(groups))]
    test, rest = _cut(shuffled, config.test_cases)
    cases = _flat(rest)
    if config.folds > 1:
        return _folds(by_patient(cases[:most_training], patients or {}), _flat(test), config.folds)
    count = config.validation_cases or max(1, len(cases) // 5)
    validation, training = _cut(rest, count)
    if not training:
        of_patients = f" of {len(groups)} patients" if len(groups) < total else ""
        raise InputError(
            f"{config.test_cases} test and {count} validation cases leave none of {total}{of_patients} to train on; "
            "ask for fewer."
        )
    return (Split(_flat(training)[:most_training], _flat(validation), _flat(test)),)


def by_patient(cases: Iterable[str], patients: Mapping[str, str]) -> list[list[str]]:
    """The cases of each patient, in their order; patients in the order of their first cases.

    A case that `patients` does not name is of a patient of its own.
    """
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in cases:
        groups.setdefault((name in patients, patients.get(name, name)), []).append(name)
    return list(groups.values())


def share_out(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Numbers of the items of each of `ranks` processes, in their order: the next goes to the one with least so far."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    sums = [0] * ranks
    for number, size in enumerate(sizes):
        least = sums.index(min(sums))
        shares[least].append(number)
        sums[least] += size
    return shares


def _cut(groups: Sequence[list[str]], least: int) -> tuple[Sequence[list[str]], Sequence[list[str]]]:
    """The first patients, with at least so many cases if there are, and the others."""
    cases = np.cumsum([0, *map(len, groups)])
    number = min(int(np.searchsorted(cases, least)), len(groups))
    return groups[:number], groups[number:]


def _flat(groups: Iterable[list[str]]) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group)


def _folds(groups: Sequence[list[str]], test: tuple[str, ...], folds: int) -> tuple[Split, ...]:
    total = sum(map(len, groups))
    of_patients = f" of {len(groups)} patients" if len(groups) < total else ""
    if len(groups) < folds:
        raise InputError(
            f"{total} cases{of_patients} cannot be divided into {folds} folds; give fewer folds, or more cases."
        )
    parts = share_out([len(group) for group in groups], folds)
    return tuple(
        Split(
            _flat(group for number, group in enumerate(groups) if number not in part),
            _flat(groups[number] for number in part),
            test,
        )
        for part in parts
    )
