"""Training samples: windows of slices, the same for the same seed and number wherever they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..base.devices import send
from ..preparation import SquareFit
from ..settings import AugmentationConfig, TrainingConfig
from .augmentation import random_view
from .prepared import PreparedCase

_SEED_STRIDE = 1_000_003  # so that the samples of two small seeds never meet


class Sample(NamedTuple):
    """A window of D slices: grey (M, D, *grid) float32 in 0..255, class indices (D, *grid) uint8, and their place.

    M channels; embeddings (E, D, s, s) float16 where they are known; grey is left out where nothing but these is read.
    only_detail: only a detail part is to learn from it.
    """

    fit: SquareFit
    classes: Tensor
    grey: Tensor | None = None
    embeddings: Tensor | None = None
    only_detail: bool = False


class Views(Protocol):
    """Where the windows of a case come from."""

    def sample(self, case: int, start: int, stop: int, step: int, generator: torch.Generator) -> Sample:
        """Slices [start, stop) of the case with this number, for the training step `step`."""
        ...


class FreshViews:
    """A new random view for each window, for an encoder that learns."""

    def __init__(self, cases: list[PreparedCase], config: AugmentationConfig) -> None:
        self._cases = cases
        self._config = config

    def sample(self, case: int, start: int, stop: int, step: int, generator: torch.Generator) -> Sample:
        prepared = self._cases[case]
        grey, classes = random_view(prepared, start, stop, self._config, generator)
        return Sample(prepared.fit, classes, grey)


class Samples(Dataset[Any]):
    """Number -> sample. A pass takes as many windows of each case as cover it, in an order of its own.

    A window has `training_depth` slices, or all of a case that has fewer. `foreground_share` of them are placed on a
    structure of the case, each label as often as the others; the rest lie anywhere where something is known.
    """

    def __init__(
        self,
        cases: list[PreparedCase],
        views: Views,
        config: TrainingConfig,
        step_size: int,
        for_detail: Views | None = None,
    ) -> None:
        """step_size: samples of one training step on all devices.

        for_detail: where every second sample of a batch comes from, for a detail part alone. The first sample of a
        batch is always for the whole network, so that each device has gradients of all weights.
        """
        self._cases = cases
        self._views = views
        self._config = config
        self._step_size = step_size
        self._for_detail = for_detail
        self._windows = np.repeat(
            np.arange(len(cases)), [-(-case.depth // config.training_depth) for case in cases]
        )  # case numbers

    @property
    def per_pass(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> Sample:
        generator = torch.Generator().manual_seed(self._config.seed * _SEED_STRIDE + number)
        index = self._case_of(number)
        start, stop = self._place(self._cases[index], generator)
        step = number // self._step_size
        if self._for_detail is not None and number % self._config.batch_size % 2:
            return self._for_detail.sample(index, start, stop, step, generator)._replace(only_detail=True)
        return self._views.sample(index, start, stop, step, generator)

    def _case_of(self, number: int) -> int:
        which_pass, position = divmod(number, self.per_pass)
        order = np.random.default_rng((self._config.seed, which_pass)).permutation(self.per_pass)
        return int(self._windows[order[position]])

    def _place(self, case: PreparedCase, generator: torch.Generator) -> tuple[int, int]:
        depth = min(self._config.training_depth, case.depth)
        starts = np.flatnonzero(sliding_window_view(case.classes_in_slice.any(1), depth).any(1))
        start = int(starts[_draw(generator, len(starts))])
        present = np.flatnonzero(case.classes_in_slice[:, 1:].any(0)) + 1
        if len(present) and float(torch.rand(1, generator=generator)) < self._config.foreground_share:
            label = present[_draw(generator, len(present))]
            slices = np.flatnonzero(case.classes_in_slice[:, label])
            chosen = int(slices[_draw(generator, len(slices))])
            start = min(max(0, chosen - _draw(generator, depth)), case.depth - depth)
        return start, start + depth


class StepNumbers(Sampler[list[int]]):
    """For each step from `first_step` on, without end, the numbers of the samples of one of `ranks` devices."""

    def __init__(self, first_step: int, batch_size: int, rank: int, ranks: int) -> None:
        self._first_step = first_step
        self._batch_size = batch_size
        self._rank = rank
        self._ranks = ranks

    def __iter__(self) -> Iterator[list[int]]:
        step = self._first_step
        while True:
            first = (step * self._ranks + self._rank) * self._batch_size
            yield list(range(first, first + self._batch_size))
            step += 1


def make_loader(samples: Samples, numbers: StepNumbers, workers: int, pin_memory: bool) -> DataLoader[list[Sample]]:
    """Lists of samples, one for each step; `workers` processes draw ahead, or with 0 each is drawn when it is due."""
    return DataLoader(
        samples,
        batch_sampler=numbers,
        collate_fn=list,  # windows of thin cases have fewer slices, so they cannot be stacked
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )


def stack_on(device: torch.device, tensors: list[Tensor]) -> Tensor:
    """Tensors of one shape as one on `device`, each sent as it is.

    Stacked before, they would no longer lie in the pinned memory from which a GPU takes them beside its work.
    """
    return torch.stack([send(tensor, device) for tensor in tensors])


def _draw(generator: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (1,), generator=generator))
