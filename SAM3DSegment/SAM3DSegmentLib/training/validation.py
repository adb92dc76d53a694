"""How a training is validated: which weights are kept, when it ends early, what is told and written each time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..metrics import Scores
from ..model_file import save_model
from ..model_store import SUFFIX
from .callbacks import TensorBoardLog, tell_validation
from .checkpoint import Checkpoint
from .learner import ModelLearner
from .loop import Loop
from .open_run import Run
from .outcome import VALIDATION_NOTE, make_model, make_summary
from .scoring import make_segmenter, score_cases
from .splits import Split

Score = Callable[[dict[str, Tensor]], Scores]  # of weights
CHANCE = 0.02  # of the Dice of one case, by which weights that are no worse may seem so; of n cases, by its sqrt(n)th


class Validation:
    """Measures the moving average at even parts of the budget, keeps the best, and ends a training that stands still.

    Of weights between which the cases cannot decide the latest are the best: the learning rate has fallen further.
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
        loop.is_whole = False
        mean = scores.mean()
        state.validations = due
        is_best = mean > state.best_dice - CHANCE / math.sqrt(len(scores.cases))
        state.stale = 0 if mean > state.best_dice else state.stale + 1
        state.best_dice = max(state.best_dice, mean)
        if is_best:
            state.best_step, state.best_cases = state.step, scores.by_case()
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
        loop.is_whole = True
        self._checkpoint.save(loop)


def validate_fold(
    run: Run, number: int, split: Split, learner: ModelLearner, checkpoint: Checkpoint, log: TensorBoardLog | None
) -> Validation:
    """On the fold's validation cases; writes its last and best weights as models. log: None in all but one process."""
    plan, folder = run.plan, run.folder.of_fold(number)
    files = [plan.files[name] for name in split.validation]

    def score(weights: dict[str, Tensor]) -> Scores:
        segmenter = make_segmenter(plan, [learner.trained(weights)], run.finder)
        return score_cases(segmenter, files, plan.labels, plan.rules, run.fabric, run.watch)

    def on_scores(loop: Loop, weights: dict[str, Tensor], scores: Scores, is_best: bool) -> None:
        if log is None:
            return
        tell_validation(run.watch, loop.state, scores, {"fold": number + 1} if plan.config.folds > 1 else {})
        log.validation(loop.state.step, scores)
        summary = make_summary(plan, [loop.state], scores.by_label(), len(scores.cases), VALIDATION_NOTE)
        model = make_model(plan, run.folder.model.stem, [learner.trained(weights)], summary, run.coarse)
        save_model(model, folder / f"last{SUFFIX}")
        if is_best:
            save_model(model, folder / f"best{SUFFIX}")

    return Validation(score, checkpoint, on_scores)
