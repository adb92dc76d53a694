"""What is told of a training while it runs, and what else happens after each of its steps."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..base.watch import Watch
from ..metrics import Scores
from .embeddings import ViewEncoder
from .loop import Loop, TrainingState

logger = logging.getLogger(__name__)


class EncodeMore:
    """Encodes a batch of the cases' copies after each step, until all are there."""

    def __init__(self, encoder: ViewEncoder) -> None:
        self._encoder = encoder

    def __call__(self, loop: Loop) -> None:
        self._encoder.encode_more()


class ReportProgress:
    """Tells how far the training is, in steps or seconds, about once a second; and the loss, a hundred times in all."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._told = -1.0
        self._percent = 0
        self._losses: list[float] = []  # since it was told

    def __call__(self, loop: Loop) -> None:
        self._losses.append(loop.losses[-1])
        percent = int(100 * loop.fraction)
        if percent != self._percent:
            self._percent = percent
            seconds, loss = round(loop.state.seconds, 1), round(float(np.mean(self._losses)), 4)
            self._watch.event("loss", step=loop.state.step, seconds=seconds, loss=loss)
            self._losses.clear()
        done, total = loop.done_of_total
        if int(done) != self._told:
            self._told = int(done)
            self._watch.progress("train", min(int(done), int(total)), max(1, int(total)))


class TensorBoardLog:
    """Loss, learning rate and validation as TensorBoard reads them; nothing where it is not installed."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def __call__(self, loop: Loop) -> None:
        if self._writer is not None and loop.losses:
            self._writer.add_scalar("loss", loop.losses[-1], loop.state.step)
            self._writer.add_scalar("learning_rate", loop.optimiser.param_groups[0]["lr"], loop.state.step)

    def validation(self, step: int, scores: Scores) -> None:
        if self._writer is not None:
            for name, value in scores.by_label().items():
                self._writer.add_scalar(f"dice/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def tell_validation(watch: Watch, state: TrainingState, scores: Scores, fold: dict[str, int]) -> None:
    """In the log and to the watch; fold: its number, where there are several."""
    dice, loss = scores.by_label(), state.history[-1]["loss"]
    logger.info(
        "step %d, %.1f min: loss %.4f, held-out Dice %.4f (%s)",
        state.step,
        state.seconds / 60,
        loss,
        scores.mean(),
        ", ".join(f"{name} {value:.3f}" for name, value in dice.items()),
    )
    rounded = {name: round(value, 4) for name, value in dice.items()}
    watch.event("validation", step=state.step, seconds=round(state.seconds, 1), loss=loss, dice=rounded, **fold)
