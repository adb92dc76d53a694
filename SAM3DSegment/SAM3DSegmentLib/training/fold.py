"""One fold of a training: its decoder learns from the training cases, and the validation cases choose its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..base.errors import Cancelled, TrainingError
from ..decoder import Sam3dDecoder
from .callbacks import ReportProgress, TensorBoardLog
from .checkpoint import Checkpoint
from .learner import TrainedNetwork
from .loop import Budget, Callback, Loop, TrainingState
from .open_run import Run
from .samples import FreshViews, Samples, StepNumbers, make_loader
from .splits import Split
from .validation import validate_fold

GPU_WORKERS = 4  # processes that draw samples ahead for a GPU; a CPU has no core to spare for them


@dataclass(frozen=True)
class FoldResult:
    """What one fold came to: the best weights, and its way there, with their Dice on its validation cases."""

    trained: TrainedNetwork
    state: TrainingState


def train_fold(run: Run, number: int, split: Split) -> FoldResult:
    """Raises Cancelled and TrainingError; the folder then keeps what was reached."""
    fabric, config = run.fabric, run.plan.config
    cases = [case for name in split.training for case in run.cases[name]]
    torch.manual_seed(config.seed + number)
    lesson = run.encoder.lesson(_make_decoder(run), run.start, cases, config, run.folder.views, fabric)
    for_detail = FreshViews(cases, config.augmentation) if config.trains_detail_alone else None
    samples = Samples(cases, lesson.views, config, config.batch_size * fabric.world_size, for_detail)
    steps = -(-config.epochs * samples.per_pass // (config.batch_size * fabric.world_size))
    loop = Loop(fabric, lesson.learner, config, Budget(steps, run.share * config.minutes * 60 / config.folds))
    log = TensorBoardLog(run.folder.logs / f"fold-{number + 1}") if fabric.is_global_zero else None
    callbacks: list[Callback] = [*lesson.callbacks, *([log] if log else []), ReportProgress(run.watch)]
    checkpoint = Checkpoint(run.folder.checkpoint(number), run.record)
    if checkpoint.path.is_file():
        checkpoint.restore(loop)
    numbers = StepNumbers(loop.state.step, config.batch_size, fabric.global_rank, fabric.world_size)
    on_gpu = fabric.device.type == "cuda"
    loader = make_loader(samples, numbers, GPU_WORKERS if on_gpu else 0, on_gpu)
    validation = validate_fold(run, number, split, lesson.learner, checkpoint, log)
    lesson.before(loop.state.step, run.watch)
    try:
        with checkpoint.kept_when_stopped(loop):
            validation(loop)  # where it was interrupted
            if not loop.run(loader, [*callbacks, checkpoint, validation], run.watch):
                raise Cancelled(f"cancelled after {loop.state.step} steps; add --resume to go on.")
    except TrainingError as error:
        kept = str(run.folder.of_fold(number))
        hint = f" What was best at a validation before it is in {kept!r}." if checkpoint.best else ""
        raise TrainingError(f"{error}{hint}") from error
    finally:
        if log is not None:
            log.close()
    return FoldResult(lesson.learner.trained(checkpoint.best), loop.state)


def _make_decoder(run: Run) -> Sam3dDecoder:
    """Untrained, or with the weights to begin with."""
    decoder = Sam3dDecoder.from_config(run.plan.card.decoder)
    if run.start is not None:
        begun = run.start.decoder.first_levels(run.plan.card.decoder.levels)
        decoder.load_state_dict({**decoder.state_dict(), **begun.state_dict()})  # a detail part may be new
    return decoder
