"""The training loop: forward, backward, step. It knows no files and no cards, and devices only by its Fabric handle."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..base.devices import resolve_precision
from ..base.errors import TrainingError
from ..base.watch import Watch
from ..losses import DeepSupervisionLoss
from ..preparation import SquareFit
from ..settings import TrainingConfig
from .learner import Learner
from .samples import Sample

WAIT_FOR_OTHERS = timedelta(days=1)  # of devices whose cases take longer to prepare or to encode; usual are 30 minutes
GRADIENT_NORM = 1.0  # larger gradients are scaled down to this norm


@dataclass(frozen=True)
class Budget:
    """How long to train: so many steps, or, where these are 0, so many seconds."""

    steps: int
    seconds: float


@dataclass
class TrainingState:
    """What a training has reached; with the weights it makes a checkpoint.

    seconds are those of steps alone, without encoding and validation. stale counts validations since the best one.
    """

    step: int = 0
    seconds: float = 0.0
    validations: int = 0
    best_dice: float = -1.0  # the highest; that of the best weights is as high, up to chance
    best_step: int = 0
    best_cases: dict[str, dict[str, float]] = field(default_factory=dict)  # Dice by case and label
    stale: int = 0
    is_stopped: bool = False  # by a callback, before the budget was spent
    history: list[dict[str, Any]] = field(default_factory=list)


def make_fabric(device: torch.device) -> Fabric:
    """The handle on this process's device; under torchrun or `fabric run` on all that take part."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    half = resolve_precision("auto", device)
    mixed = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}.get(half, "32-true")
    precision: Any = mixed
    if "LT_CLI_USED" in os.environ:  # `fabric run` has set the rest, and started the processes
        return Fabric(precision=None if "LT_PRECISION" in os.environ else precision)
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        fabric = Fabric(
            accelerator=device.type,
            strategy=DDPStrategy(timeout=WAIT_FOR_OTHERS),
            devices=int(os.environ["LOCAL_WORLD_SIZE"]),
            num_nodes=int(os.environ["GROUP_WORLD_SIZE"]),
            precision=precision,
        )
    else:
        devices = 1 if device.index is None else [device.index]
        fabric = Fabric(accelerator=device.type, devices=devices, precision=precision)
    fabric.launch()
    return fabric


class _Float32ForTwoSlices(nn.Module):
    """A module, whose inputs are (N, C, D, h, w) or None, computing windows of two slices in float32 on a CPU.

    There oneDNN's bf16 gradient of a 3x3x3 convolution over exactly two slices is read from memory that nobody wrote
    (torch 2.2.2, 2.14.1 and 2.15.0; one slice, or three and more, are right).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor | None) -> list[Tensor]:
        if any(part is not None and part.device.type == "cpu" and part.shape[2] == 2 for part in inputs):
            with torch.autocast("cpu", enabled=False):
                return self.module(*(None if part is None else part.float() for part in inputs))
        return self.module(*inputs)


Callback = Callable[["Loop"], None]  # after each step


class Loop:
    """Trains a learner. `state`, `average` (the weights to validate and keep) and the optimiser make a checkpoint."""

    def __init__(
        self,
        fabric: Fabric,
        learner: Learner,
        config: TrainingConfig,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fabric = fabric
        self.learner = learner
        self.config = config
        self.budget = budget
        self.state = TrainingState()
        self.losses: list[float] = []  # since the last validation
        self.is_whole = True  # whether state, weights and optimiser are of one step, so that a checkpoint can be made
        learner.module.to(fabric.device)
        self.average = AveragedModel(learner.module, multi_avg_fn=_moving_average(config.average_decay))
        self.optimiser = torch.optim.AdamW(
            learner.module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._module, self._fabric_optimiser = fabric.setup(_Float32ForTwoSlices(learner.module), self.optimiser)
        self._loss_of = DeepSupervisionLoss(config.dice_per_class)
        self._clock = clock
        self._elapsed = 0.0

    def run(
        self,
        batches: Iterable[list[Sample]],
        callbacks: Sequence[Callback],
        watch: Watch,
    ) -> bool:
        """Train on one batch a step, and call back after each, until the budget is spent or a callback stops it.

        When it should finish, the budget counts as spent after this step. False if it was cancelled. Raises
        TrainingError if the loss or a gradient is not finite; the weights are then those of the step before.
        """
        source = iter(batches)
        while self.fraction < 1 and not self.state.is_stopped:
            began = self._clock()
            if not self._step(next(source), watch.cancelled(), watch.finishing()):
                return False
            self._elapsed = self._clock() - began
            self.state.step += 1
            self.is_whole = True
            for callback in callbacks:
                callback(self)
        return True

    @property
    def fraction(self) -> float:
        """How much of the budget is spent."""
        done, total = self.done_of_total
        return done / total

    @property
    def done_of_total(self) -> tuple[float, float]:
        """Steps or seconds."""
        budget = self.budget
        return (self.state.step, budget.steps) if budget.steps else (self.state.seconds, budget.seconds)

    def weights(self) -> dict[str, Tensor]:
        """The moving average, on the CPU."""
        return {key: value.detach().cpu().clone() for key, value in self.average.module.state_dict().items()}

    def _step(self, samples: list[Sample], cancel: bool, finish: bool) -> bool:
        module, optimiser = self._module, self._fabric_optimiser
        module.train()
        optimiser.zero_grad()
        groups = _group_by_shape(samples)
        loss = torch.zeros((), device=self.fabric.device)
        for number, group in enumerate(groups):
            with self.fabric.no_backward_sync(module, enabled=number + 1 < len(groups)):
                part = self._loss(group) * (len(group) / len(samples))
                self.fabric.backward(part)
            loss += part.detach()
        shared = torch.stack([loss, *map(loss.new_tensor, (float(cancel), float(finish), self._elapsed))])
        mean_loss, cancelled, finished, elapsed = self._mean_over_ranks(shared)
        self.state.seconds += elapsed  # of the step before, the same on all devices
        self._elapsed = 0.0
        if cancelled:
            return False
        if finished:
            self.budget = Budget(self.state.step + 1, 0.0)
        self._require_finite(mean_loss, "loss")
        norm = self.fabric.clip_gradients(module, optimiser, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        if not self._is_scaled and norm is not None:
            self._require_finite(float(norm), "gradient")
        for parameters in self.optimiser.param_groups:
            parameters["lr"] = self._learning_rate()
        self.is_whole = False
        optimiser.step()
        self.average.update_parameters(self.learner.module)
        self.losses.append(mean_loss)
        return True

    def _loss(self, samples: list[Sample]) -> Tensor:
        levels, labels = self.learner.predict(self._module, samples)
        return self._loss_of([level.float() for level in levels], labels)

    def _mean_over_ranks(self, values: Tensor) -> list[float]:
        mean = self.fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean.tolist()

    @property
    def _is_scaled(self) -> bool:
        """In float16 gradients overflow now and then; Fabric then leaves the step out and scales them less."""
        return self.fabric._precision.precision == "16-mixed"

    def _require_finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} became {value} in step {self.state.step + 1}; use a smaller learning_rate than "
                f"{self.config.learning_rate}, and check the data with --check."
            )

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        warmup = min(1.0, (self.state.step + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmup * (1 + math.cos(math.pi * min(1.0, self.fraction))) / 2


def _group_by_shape(samples: list[Sample]) -> list[list[Sample]]:
    """By their number of slices and the size of these; padding them would change what instance norms measure.

    Those for a detail part alone come first: several devices share gradients with the last group, which then has all.
    """
    groups: dict[tuple[int, SquareFit, bool], list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: not sample.only_detail):
        groups.setdefault((len(sample.classes), sample.fit, sample.only_detail), []).append(sample)
    return list(groups.values())


def _moving_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    """With a decay that rises to its value, so that the first, random weights are soon forgotten.

    Of all parameters at once: the count of steps comes from the device, and asking for it once a step is enough.
    """

    def average(means: Any, weights: Any, count: Tensor | int) -> None:
        steps = int(count)
        now = min(decay, (1 + steps) / (10 + steps))
        for mean, weight in zip(means, weights):
            mean.lerp_(weight, 1 - now)

    return average
