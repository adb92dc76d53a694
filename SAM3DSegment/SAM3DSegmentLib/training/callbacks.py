"""What happens after a training step beside the training: validation, checkpoints, progress, logs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..base.errors import InputError
from ..base.files import written_whole
from ..base.watch import Watch
from .embeddings import ViewEncoder
from .loop import Loop, TrainingState
from .scoring import Scores

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 300  # of training, between checkpoints that no validation asks for


class Score(Protocol):
    def __call__(self, weights: dict[str, Tensor]) -> Scores: ...


class Checkpoint:
    """All that a training needs to go on, in one file; `best` are the weights with the best validation.

    `run` describes the data and settings, and is compared before anything is loaded.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self.path = path
        self.best: dict[str, Tensor] = {}
        self._run = run
        self._saved_at = 0.0

    def __call__(self, loop: Loop) -> None:
        if loop.state.seconds - self._saved_at >= CHECKPOINT_SECONDS:
            self.save(loop)

    def save(self, loop: Loop) -> None:
        self._saved_at = loop.state.seconds
        if not loop.fabric.is_global_zero:
            return
        state = {
            "run": json.dumps(self._run),
            "state": json.dumps(dataclasses.asdict(loop.state)),
            "losses": json.dumps(loop.losses),
            "module": loop.learner.module.state_dict(),
            "average": loop.average.state_dict(),
            "optimiser": loop.optimiser.state_dict(),
            "best": self.best,
        }
        with written_whole(self.path) as partial:
            torch.save(state, partial)

    def load(self, loop: Loop) -> None:
        """Bring the loop to where the checkpoint was written. Raises InputError if it is damaged."""
        state = read_checkpoint(self.path)
        try:
            loop.learner.module.load_state_dict(state["module"])
            loop.average.load_state_dict(state["average"])
            loop.optimiser.load_state_dict(state["optimiser"])
            loop.state = TrainingState(**json.loads(state["state"]))
            loop.losses = json.loads(state["losses"])
            self.best = state["best"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _damaged(self.path) from error
        self._saved_at = loop.state.seconds


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises InputError if the file is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise _damaged(path) from error
    if not isinstance(state, dict) or "run" not in state:
        raise _damaged(path)
    return state


def _damaged(path: Path) -> InputError:
    return InputError(f"the checkpoint {str(path)!r} is damaged; start anew with --overwrite.")


class Validation:
    """Measures the moving average at even parts of the budget, keeps the best, and ends a training that stands still.

    on_scores: called with the loop, the scores and whether they are the best so far.
    """

    def __init__(
        self, score: Score, checkpoint: Checkpoint, on_scores: Callable[[Loop, dict[str, Tensor], Scores, bool], None]
    ) -> None:
        self._score = score
        self._checkpoint = checkpoint
        self._on_scores = on_scores

    def __call__(self, loop: Loop) -> None:
        state, config = loop.state, loop.config
        due = min(config.validations, int(loop.fraction * config.validations + 1e-9))
        if due <= state.validations:
            return
        self._checkpoint.save(loop)  # a validation that is interrupted is made again
        weights = loop.weights()
        scores = self._score(weights)
        mean = scores.mean()
        state.validations = due
        is_best = mean > state.best_dice
        state.stale = 0 if is_best else state.stale + 1
        if is_best:
            state.best_dice, state.best_step, state.best_cases = mean, state.step, scores.by_case()
            self._checkpoint.best = weights
        state.history.append(
            {
                "step": state.step,
                "seconds": round(state.seconds, 1),
                "loss": float(np.mean(loop.losses)) if loop.losses else None,
                "dice": scores.by_label(),
            }
        )
        loop.losses.clear()
        state.is_stopped = bool(config.patience) and state.stale >= config.patience
        self._on_scores(loop, weights, scores, is_best)
        self._checkpoint.save(loop)


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
