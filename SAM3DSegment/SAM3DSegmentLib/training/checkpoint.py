"""All that a training needs to go on, in one file."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import Cancelled, InputError
from ..base.files import written_whole
from .loop import Loop, TrainingState

CHECKPOINT_SECONDS = 300  # of training, between checkpoints that no validation asks for


class Checkpoint:
    """Written after steps, where a while has passed; `best` are the weights with the best validation.

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
            "scaling": loop.fabric._precision.state_dict(),  # of the loss in float16, else empty
            "best": self.best,
        }
        with written_whole(self.path) as partial:
            torch.save(state, partial)

    @contextmanager
    def kept_when_stopped(self, loop: Loop) -> Iterator[None]:
        """Around a training: a checkpoint is written also where it is cancelled or interrupted, if not amid a step.

        Steps, and the encoding after them, are interrupted where they take too long to wait for their end.
        """
        try:
            yield
        except (Cancelled, KeyboardInterrupt):
            if loop.is_whole:
                self.save(loop)
            raise

    def restore(self, loop: Loop) -> None:
        """Bring the loop to where the checkpoint was written. Raises InputError if it is damaged."""
        state = read_checkpoint(self.path)
        try:
            loop.learner.module.load_state_dict(state["module"])
            loop.average.load_state_dict(state["average"])
            loop.optimiser.load_state_dict(state["optimiser"])
            if scaling := state.get("scaling"):  # none in older files
                loop.fabric._precision.load_state_dict(scaling)
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


def read_run(path: Path) -> dict[str, Any]:
    """The record of the training that a checkpoint is of."""
    return json.loads(read_checkpoint(path)["run"])


def _damaged(path: Path) -> InputError:
    return InputError(f"the checkpoint {str(path)!r} is damaged; start again with --overwrite.")
