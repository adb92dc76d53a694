"""What a training came to: its model and card, how well it does on held-out cases, and the report."""

from __future__ import annotations

import datetime
import platform
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..base.files import write_json, write_text
from ..card import ModelCard, TrainingSummary
from ..inference import Segmenter
from ..model_file import Sam3dModel
from ..network import Network
from .learner import TrainedNetwork
from .look import read_case
from .loop import TrainingState
from .plan import Plan
from .report import Picture, draw_case, make_report
from .run_folder import RunFolder
from .scoring import Scores

VALIDATION_NOTE = "mean over the validation cases by which the checkpoint was chosen, so slightly optimistic"
TEST_NOTE = "mean over test cases that neither training nor the choice of the checkpoint has seen"
FOLDS_NOTE = "mean over all cases, each by the decoder that was not trained on it (its checkpoint was chosen by them)"


def make_segmenter(plan: Plan, trained: list[TrainedNetwork]) -> Segmenter:
    """Segments as the model of these networks will."""
    card = make_model(plan, "", trained, TrainingSummary()).card
    return Segmenter(card, Network(trained[0].encoder, [part.decoder for part in trained]))


def make_model(plan: Plan, name: str, trained: list[TrainedNetwork], summary: TrainingSummary) -> Sam3dModel:
    """name: of the model, unless the settings give one."""
    config = plan.config
    card = ModelCard(
        name=config.name or name,
        description=config.description,
        modality=config.modality or plan.dataset.modality,
        labels=plan.labels,
        encoder=trained[0].encoder.config,
        decoder=plan.decoder,
        slicing=config.slicing,
        intensity=config.intensity,
        window=config.window,
        mirror=config.mirror,
        island_share=config.island_share,
        spacing_mm=plan.spacing_mm,
        extent_mm=plan.extent_mm,
        training=summary,
        licence=config.licence or plan.dataset.licence,
        author=config.author,
        date=datetime.date.today().isoformat(),
    )
    decoder, *more = (part.decoder for part in trained)
    return Sam3dModel(card, decoder, trained[0].encoder_tensors, more_decoders=tuple(more))


def make_summary(plan: Plan, states: list[TrainingState], scores: Scores, note: str) -> TrainingSummary:
    return TrainingSummary(
        cases=len(plan.training_names),
        minutes=round(sum(state.seconds for state in states) / 60, 1),
        steps=sum(state.step for state in states),
        seed=plan.config.seed,
        dice={name: round(value, 4) for name, value in scores.by_label().items()},
        dice_cases=len(scores.cases),
        dice_note=note,
        versions={"SAM3DSegment": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )


def describe_result(
    summary: TrainingSummary, states: list[TrainingState], held_out: Scores, test: Scores | None
) -> dict[str, Any]:
    """For `run.json`."""
    return {
        "dice": summary.dice,
        "note": summary.dice_note,
        "validation": held_out.by_case(),
        "test": test.by_case() if test is not None else {},
        "cases": summary.cases,
        "steps": summary.steps,
        "minutes": summary.minutes,
        "history": [state.history for state in states],
        "versions": summary.versions,
    }


def write_report(
    folder: RunFolder, plan: Plan, name: str, record: dict[str, Any], scores: Scores, trained: list[TrainedNetwork]
) -> None:
    """`run.json` with its result, and `report.html` with a picture of the case on which `trained` did worst."""
    write_json(folder.record, record)
    picture = _picture(plan, scores, make_segmenter(plan, trained))
    write_text(folder.report, make_report(name, record, plan.labels, picture))


def _picture(plan: Plan, scores: Scores, segmenter: Segmenter) -> Picture:
    worst = scores.worst()
    image, reference = read_case(plan.files[worst], plan.labels, plan.config.resample)
    found = segmenter.segment(image.array_kji, image.ijk_to_ras)
    indices = np.zeros(256, np.uint8)
    indices[[label.value for label in plan.labels]] = range(1, len(plan.labels) + 1)
    prepared = plan.preparation.prepare(image.array_kji, image.ijk_to_ras)
    png, index = draw_case(prepared, reference, indices[found], plan.labels)
    dice = ", ".join(f"{name} {value:.3f}" for name, value in scores.by_case()[worst].items())
    where = f"Slice {index + 1} of {prepared.depth} ({prepared.slicing.plane}), where the two differ most"
    return Picture(png, f"{worst}: Dice {dice}. {where}: the image, the reference, the model.")
