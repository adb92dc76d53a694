"""One fold of a training: its decoder learns from the training cases, and the validation cases choose its weights."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..base.errors import Cancelled, InputError, TrainingError
from ..base.watch import Watch
from ..decoder import Sam3dDecoder
from ..model_file import Sam3dModel, save_model
from ..model_store import SUFFIX
from .callbacks import Checkpoint, ReportProgress, TensorBoardLog, Validation
from .encoders import LoadedEncoder
from .learner import ModelLearner, TrainedNetwork
from .loop import Budget, Callback, Loop, TrainingState
from .outcome import VALIDATION_NOTE, make_model, make_segmenter, make_summary
from .plan import Plan
from .prepared import PreparedCase
from .run_folder import RunFolder
from .samples import FreshViews, Samples, StepNumbers, make_loader
from .scoring import Scores, score_cases
from .splits import Split

logger = logging.getLogger(__name__)

GPU_WORKERS = 4  # processes that draw samples ahead for a GPU; a CPU has no core to spare for them


@dataclass(frozen=True)
class Run:
    """What all folds of a training share. start: the model whose weights to begin with."""

    plan: Plan
    folder: RunFolder
    record: dict[str, Any]
    encoder: LoadedEncoder
    start: Sam3dModel | None
    fabric: Fabric
    watch: Watch


@dataclass(frozen=True)
class FoldResult:
    """What one fold came to: the best weights, their scores on its validation cases, and its way there."""

    trained: TrainedNetwork
    scores: Scores
    state: TrainingState


def check_start(plan: Plan, encoder: LoadedEncoder, start: Sam3dModel) -> None:
    """Raises InputError unless the weights of the model to begin with fit."""
    name, card, wanted = plan.config.start_from, start.card, plan.decoder
    has = dataclasses.replace(card.decoder, levels=wanted.levels, detail=card.decoder.detail or wanted.detail)
    if has != wanted or card.decoder.levels < wanted.levels:
        raise InputError(
            f"the decoder of {name!r}, {card.decoder}, is not the one to train, {wanted}; use its labels, "
            "channels, detail and at most its levels, or do not start from it."
        )
    encoder.check_start(name, card)


def train_fold(run: Run, number: int, split: Split, cases: list[PreparedCase]) -> FoldResult:
    """Raises Cancelled and TrainingError; the folder then keeps what was reached."""
    plan, fabric, config = run.plan, run.fabric, run.plan.config
    torch.manual_seed(config.seed + number)
    lesson = run.encoder.lesson(_make_decoder(run), run.start, cases, config, run.folder.views, fabric)
    for_detail = FreshViews(cases, config.augmentation) if config.trains_detail_alone else None
    samples = Samples(cases, lesson.views, config, config.batch_size * fabric.world_size, for_detail)
    steps = -(-config.epochs * samples.per_pass // (config.batch_size * fabric.world_size))
    loop = Loop(fabric, lesson.learner, config, Budget(steps, config.minutes * 60 / config.folds))
    checkpoint = Checkpoint(run.folder.checkpoint(number), run.record)
    if checkpoint.path.is_file():
        checkpoint.load(loop)
    log = TensorBoardLog(run.folder.logs / f"fold-{number + 1}") if fabric.is_global_zero else None
    validation = _make_validation(run, number, split, lesson.learner, checkpoint, log)
    lesson.before(loop.state.step, run.watch)
    logs: list[Callback] = [log] if log is not None else []
    callbacks: list[Callback] = [*lesson.callbacks, *logs, ReportProgress(run.watch), checkpoint, validation]
    try:
        validation(loop)  # where it was interrupted
        numbers = StepNumbers(loop.state.step, config.batch_size, fabric.global_rank, fabric.world_size)
        on_gpu = fabric.device.type == "cuda"
        loader = make_loader(samples, numbers, GPU_WORKERS if on_gpu else 0, on_gpu)
        if not loop.run(loader, callbacks, run.watch):
            checkpoint.save(loop)
            raise Cancelled(f"cancelled after {loop.state.step} steps; add --resume to go on.")
    except TrainingError as error:
        kept = str(run.folder.of_fold(number))
        raise TrainingError(f"{error} The weights before it are in {kept!r}.") from error
    finally:
        if log is not None:
            log.close()
    label_names = tuple(label.name for label in plan.labels)
    scores = Scores.from_cases(loop.state.best_cases, label_names)
    return FoldResult(lesson.learner.trained(checkpoint.best), scores, loop.state)


def _make_decoder(run: Run) -> Sam3dDecoder:
    decoder = Sam3dDecoder.from_config(run.plan.decoder)
    if run.start is not None:
        begun = run.start.decoder.first_levels(run.plan.decoder.levels)
        decoder.load_state_dict({**decoder.state_dict(), **begun.state_dict()})  # a detail part may be new
    return decoder


def _make_validation(
    run: Run, number: int, split: Split, learner: ModelLearner, checkpoint: Checkpoint, log: TensorBoardLog | None
) -> Validation:
    plan, folder = run.plan, run.folder.of_fold(number)

    def score(weights: dict[str, Tensor]) -> Scores:
        segmenter = make_segmenter(plan, [learner.trained(weights)])
        files = [plan.files[name] for name in split.validation]
        return score_cases(segmenter, files, plan.labels, plan.config.resample, run.fabric, run.watch)

    def on_scores(loop: Loop, weights: dict[str, Tensor], scores: Scores, is_best: bool) -> None:
        if log is None:  # another process tells
            return
        _tell(run.watch, loop.state, scores, {"fold": number + 1} if plan.config.folds > 1 else {})
        log.validation(loop.state.step, scores)
        summary = make_summary(plan, [loop.state], scores, VALIDATION_NOTE)
        model = make_model(plan, run.folder.model.stem, [learner.trained(weights)], summary)
        save_model(model, folder / f"last{SUFFIX}")
        if is_best:
            save_model(model, folder / f"best{SUFFIX}")

    return Validation(score, checkpoint, on_scores)


def _tell(watch: Watch, state: TrainingState, scores: Scores, fold: dict[str, int]) -> None:
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
