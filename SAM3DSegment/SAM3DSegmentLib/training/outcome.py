"""The model of a training, its summary, and what its record says of both."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from typing import Any

import torch

from .. import __version__
from ..card import TrainingSummary
from ..model_file import Sam3dModel
from .learner import TrainedNetwork
from .loop import TrainingState
from .plan import Plan

VALIDATION_NOTE = "mean over the validation cases by which the checkpoint was chosen, so slightly optimistic"
TEST_NOTE = "mean over test cases that neither training nor the choice of the checkpoint has seen"
PAINTED_NOTE = "; of cases that are painted in part, on their painted slices"
FOLDS_NOTE = "mean over all cases, each by the decoder that was not trained on it (its checkpoint was chosen by them)"


def make_model(
    plan: Plan, name: str, trained: list[TrainedNetwork], summary: TrainingSummary, coarse: Sam3dModel | None = None
) -> Sam3dModel:
    """name: of the model, unless the settings give one; coarse: finds the places for it."""
    card = dataclasses.replace(
        plan.card,
        name=plan.card.name or name,
        encoder=trained[0].encoder.config,
        training=summary,
        date=datetime.date.today().isoformat(),
    )
    decoder, *more = (part.decoder for part in trained)
    return Sam3dModel(card, decoder, trained[0].encoder_tensors, more_decoders=tuple(more), coarse=coarse)


def make_summary(
    plan: Plan, states: list[TrainingState], dice: dict[str, float], dice_cases: int, note: str
) -> TrainingSummary:
    """dice: mean of each label over `dice_cases` held-out cases; note says which."""
    return TrainingSummary(
        cases=len(plan.training_names),
        minutes=round(sum(state.seconds for state in states) / 60, 1),
        steps=sum(state.step for state in states),
        seed=plan.config.seed,
        dice={name: round(value, 4) for name, value in dice.items()},
        dice_cases=dice_cases,
        dice_note=note + (PAINTED_NOTE if any(case.painted for case in plan.facts) else ""),
        versions={"SAM3DSegment": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )


def describe_result(
    summary: TrainingSummary,
    validated: dict[str, dict[str, float]],
    tested: dict[str, dict[str, float]],
    histories: list[list[dict[str, Any]]],
) -> dict[str, Any]:
    """For `run.json`; validated, tested: Dice by case and label."""
    return {
        "dice": summary.dice,
        "note": summary.dice_note,
        "validation": validated,
        "test": tested,
        "cases": summary.cases,
        "steps": summary.steps,
        "minutes": summary.minutes,
        "history": histories,
        "versions": summary.versions,
    }
