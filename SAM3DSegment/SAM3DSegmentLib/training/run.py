"""The recipe of a training: plan, prepared cases, encoder, loop, model; and its folder, from which it can go on.

Beside MODEL.sam3d lies the folder MODEL.training with `run.json` (settings, split, fingerprint of the data, history),
`report.html`, the best and the last weights as models, logs for TensorBoard, and, until the training has ended, its
checkpoint and prepared cases.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from .. import __version__
from ..base.devices import resolve_device
from ..base.errors import Cancelled, InputError, TrainingError
from ..base.files import check_new_file, write_json, write_text
from ..base.watch import UNWATCHED, Watch
from ..card import ModelCard, TrainingSummary
from ..decoder import Sam3dDecoder
from ..encoder import load_encoder
from ..inference import Segmenter
from ..model_file import Sam3dModel, load_model, save_model
from ..model_store import SUFFIX
from ..network import Network, SliceEncoder
from ..preparation import Preparation
from ..sam.cache import EmbeddingCache
from ..sam.cached_encoder import CachedEncoder
from ..sam.encoders import COMPACT_ENCODER, COMPACT_VIT, SAM_ENCODERS
from ..sam.vit import build_vit, load_vit_state
from ..settings import TrainingConfig
from .callbacks import Checkpoint, EncodeMore, ReportProgress, TensorBoardLog, Validation, read_checkpoint
from .dataset import Split, read_case
from .embeddings import StoredViews, ViewEncoder
from .learner import CompactLearner, DecoderLearner, Learner
from .loop import Budget, Loop, TrainingState, make_fabric
from .plan import Plan, describe_changes, find_warnings, make_plan
from .prepared import PreparedCase, prepare_case
from .report import Picture, draw_case, make_report
from .samples import FreshViews, Samples, StepNumbers, Views, make_loader
from .scoring import Scores, score_cases

logger = logging.getLogger(__name__)

VALIDATION_NOTE = "mean over the validation cases by which the checkpoint was chosen, so slightly optimistic"
TEST_NOTE = "mean over test cases that neither training nor the choice of the checkpoint has seen"
FOLDS_NOTE = "mean over all cases, each by the decoder that was not trained on it (its checkpoint was chosen by them)"
GPU_WORKERS = 4  # processes that draw samples ahead for a GPU; a CPU has no core to spare for them


@dataclass(frozen=True)
class Options:
    """How a training is run, beside its settings."""

    cases: int | None = None  # use at most so many training cases
    sam_checkpoint: Path | None = None
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class TrainedNetwork:
    """A decoder with the encoder that it reads, and the encoder's tensors if the model is to carry them."""

    decoder: Sam3dDecoder
    encoder: SliceEncoder
    carried: dict[str, Tensor]


@dataclass(frozen=True)
class FoldResult:
    """What one fold came to: the best weights, their scores on its validation cases, and its way there."""

    trained: TrainedNetwork
    scores: Scores
    state: TrainingState


def train(
    data: str | Path,
    output: str | Path,
    config: TrainingConfig,
    options: Options | None = None,
    watch: Watch = UNWATCHED,
) -> Sam3dModel:
    """Train on the folder `data` (see `find_dataset`), write the model to `output`, and return it.

    When it should finish, training steps end, and the model is made of the best weights so far; not heard with folds.

    Raises the errors of `errors.py`; on `Cancelled` and TrainingError the folder beside `output` keeps what was done.
    """
    options = options or Options()
    output = Path(output)
    if output.suffix != SUFFIX:
        raise InputError(f"model {str(output)!r} has an unknown ending; use {SUFFIX}.")
    folder = RunFolder(output.with_suffix(".training"))
    folder.check(options)
    check_new_file(output, options.overwrite or options.resume)  # a training that goes on was allowed to before
    plan = make_plan(data, config, options.cases)
    if plan.problems:
        more = f" ({len(plan.problems)} cases cannot be used; --check lists them)" if len(plan.problems) > 1 else ""
        raise InputError(plan.problems[0].problem + more)
    fabric = make_fabric(resolve_device(options.device))
    if not fabric.is_global_zero:
        logging.getLogger(__package__.partition(".")[0]).setLevel(logging.WARNING)  # one process tells
    run = Run(plan, output, folder, fabric, watch, options)
    return run.execute()


class RunFolder:
    """Where a training keeps what it needs to go on, and what is worth reading afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "run.json"
        self.report = path / "report.html"
        self.prepared = path / "prepared"
        self.views = path / "views"
        self.logs = path / "logs"

    def of_fold(self, number: int) -> Path:
        return self.path / f"fold-{number + 1}"

    def checkpoint(self, number: int) -> Path:
        return self.of_fold(number) / "checkpoint.pt"

    def check(self, options: Options) -> None:
        """Raises InputError unless there is a stopped training just where one is to go on."""
        stopped = self.record.is_file() and "result" not in self.read_record()
        if options.resume and not stopped:
            raise InputError(f"there is no stopped training in {str(self.path)!r}; start without --resume.")
        if stopped and not options.resume and not options.overwrite:
            raise InputError(
                f"{str(self.path)!r} holds a stopped training; go on with --resume, or start anew with --overwrite."
            )
        if self.path.exists() and not self.record.is_file() and any(self.path.iterdir()):
            raise InputError(f"folder {str(self.path)!r} is not a training's; move it, or give another output.")

    def read_record(self) -> dict[str, Any]:
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{str(self.record)!r} is damaged ({error}); start anew with --overwrite.") from error

    def clear(self) -> None:
        """Remove what a training writes, and nothing else."""
        self.remove_work()
        for folder in (self.logs, *self.path.glob("fold-*")):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.report, self.record):
            file.unlink(missing_ok=True)

    def remove_work(self) -> None:
        """Remove what only a training that goes on needs."""
        for folder in (self.prepared, self.views):
            shutil.rmtree(folder, ignore_errors=True)
        for checkpoint in self.path.glob("fold-*/checkpoint.pt"):
            checkpoint.unlink(missing_ok=True)

    def make(self, folds: int) -> None:
        for folder in (self.path, self.prepared, self.views, *(self.of_fold(n) for n in range(folds))):
            folder.mkdir(parents=True, exist_ok=True)


class Run:
    """One training, from a plan to a model."""

    def __init__(
        self,
        plan: Plan,
        output: Path,
        folder: RunFolder,
        fabric: Fabric,
        watch: Watch,
        options: Options,
    ) -> None:
        self.plan = plan
        self.config = plan.config
        self.output = output
        self.folder = folder
        self.fabric = fabric
        watch = watch if fabric.is_global_zero else watch.silent()
        self.watch = watch if self.config.folds == 1 else watch.unfinished()  # each fold needs its share
        self.begin = load_model(self.config.start_from) if self.config.start_from else None
        self.encoder: CachedEncoder | None = None  # None where it is trained
        self.carried: dict[str, Tensor] = {}
        self._preparation = Preparation(self.config.slicing, self.config.intensity, plan.image_size)
        self.label_names = tuple(label.name for label in plan.labels)
        if self.config.encoder != COMPACT_ENCODER:
            encoder, self.carried = self._load_encoder(options)
            self.encoder = CachedEncoder(encoder, EmbeddingCache())
        self._check_begin()
        self.record = plan.record(self.encoder.config.sha256 if self.encoder else "")
        self._open_folder(options)

    def execute(self) -> Sam3dModel:
        if self.fabric.is_global_zero:
            for text in find_warnings(self.plan):
                logger.warning("%s", text)
        cases = self._prepare()
        results = [self._train_fold(number, split, cases) for number, split in enumerate(self.plan.splits)]
        return self._finish(results)

    def _load_encoder(self, options: Options) -> tuple[SliceEncoder, dict[str, Tensor]]:
        name, device = self.config.encoder, str(self.fabric.device)
        if name in SAM_ENCODERS:
            return load_encoder(name, options.sam_checkpoint, self.plan.image_size, device), {}
        source = load_model(name)
        return source.load_encoder(device, "auto", options.sam_checkpoint, self.plan.image_size), source.encoder_tensors

    def _check_begin(self) -> None:
        """Raises InputError unless the weights of the model to begin with fit."""
        if self.begin is None:
            return
        name, card = self.config.start_from, self.begin.card
        wanted = self.plan.decoder
        has = dataclasses.replace(card.decoder, levels=wanted.levels, detail=card.decoder.detail or wanted.detail)
        if has != wanted or card.decoder.levels < wanted.levels:
            raise InputError(
                f"the decoder of {name!r}, {card.decoder}, is not the one to train, {wanted}; use its labels, "
                "channels, detail and at most its levels, or do not start from it."
            )
        if self.encoder is None:
            if card.encoder.vit != COMPACT_VIT:
                raise InputError(f"{name!r} carries no encoder such as {COMPACT_ENCODER}; do not start from it.")
        elif card.encoder.sha256 != self.encoder.config.sha256:
            raise InputError(
                f"the decoder of {name!r} reads the encoder {card.encoder.name} {card.encoder.sha256[:16]}..., not "
                f"{self.encoder.config.name} {self.encoder.config.sha256[:16]}...; give `encoder` that of {name!r}, or "
                "do not start from it."
            )

    def _open_folder(self, options: Options) -> None:
        folder = self.folder
        if options.resume:
            _require_same(folder.read_record(), self.record, folder.path)
            for number in range(len(self.plan.splits)):
                if folder.checkpoint(number).is_file():
                    saved = json.loads(read_checkpoint(folder.checkpoint(number))["run"])
                    _require_same(saved, self.record, folder.checkpoint(number))
        if self.fabric.is_global_zero:
            if not options.resume:
                folder.clear()
            folder.make(len(self.plan.splits))
            write_json(folder.record, self.record)
        self.fabric.barrier()

    def _prepare(self) -> dict[str, PreparedCase]:
        """All training cases by name; each device prepares its share."""
        plan, fabric = self.plan, self.fabric
        preparation = self._preparation
        files = plan.files(plan.training_names())
        share = files[fabric.global_rank :: fabric.world_size]
        for number, case in enumerate(share):
            self.watch.check("add --resume to go on.")
            prepare_case(case, plan.labels, preparation, self.config.resample, self.folder.prepared)
            self.watch.progress("prepare", number + 1, len(share))
        fabric.barrier()
        return {
            case.name: prepare_case(case, plan.labels, preparation, self.config.resample, self.folder.prepared)
            for case in files
        }

    def _train_fold(self, number: int, split: Split, prepared: dict[str, PreparedCase]) -> FoldResult:
        config, fabric = self.config, self.fabric
        cases = [prepared[name] for name in split.training]
        torch.manual_seed(config.seed + number)
        decoder = Sam3dDecoder.from_config(self.plan.decoder)
        if self.begin is not None:
            begin = self.begin.decoder.first_levels(self.plan.decoder.levels)
            decoder.load_state_dict({**decoder.state_dict(), **begin.state_dict()})  # a detail part may be new
        learner, views, view_encoder = self._make_learner(decoder, cases)
        for_detail = FreshViews(cases, config.augmentation) if config.trains_detail_alone else None
        samples = Samples(cases, views, config, config.batch_size * fabric.world_size, for_detail)
        steps = -(-config.epochs * samples.per_pass // (config.batch_size * fabric.world_size))
        loop = Loop(fabric, learner, config, Budget(steps, config.minutes * 60 / config.folds))

        checkpoint = Checkpoint(self.folder.checkpoint(number), self.record)
        if checkpoint.path.is_file():
            checkpoint.load(loop)
        log = TensorBoardLog(self.folder.logs / f"fold-{number + 1}") if fabric.is_global_zero else None
        validation = self._make_validation(number, split, learner, checkpoint, log)
        callbacks: list[Callable[[Loop], None]] = [ReportProgress(self.watch), checkpoint, validation]
        if log is not None:
            callbacks.insert(0, log)
        if view_encoder is not None:
            view_encoder.encode_plain(self.watch)
            for _ in range(loop.state.step):
                view_encoder.encode_more()
            callbacks.insert(0, EncodeMore(view_encoder))
            fabric.barrier()
        try:
            validation(loop)  # where it was interrupted
            numbers = StepNumbers(loop.state.step, config.batch_size, fabric.global_rank, fabric.world_size)
            on_gpu = fabric.device.type == "cuda"
            loader = make_loader(samples, numbers, GPU_WORKERS if on_gpu else 0, on_gpu)
            if not loop.run(loader, callbacks, self.watch):
                checkpoint.save(loop)
                raise Cancelled(f"cancelled after {loop.state.step} steps; add --resume to go on.")
        except TrainingError as error:
            raise TrainingError(
                f"{error} The weights before it are in {str(self.folder.of_fold(number))!r}."
            ) from error
        finally:
            if log is not None:
                log.close()
        trained = TrainedNetwork(*learner.parts(checkpoint.best))
        return FoldResult(trained, Scores.from_cases(loop.state.best_cases, self.label_names), loop.state)

    def _make_learner(
        self, decoder: Sam3dDecoder, cases: list[PreparedCase]
    ) -> tuple[Learner, Views, ViewEncoder | None]:
        fabric, alone = self.fabric, self.config.trains_detail_alone
        if self.encoder is None:
            vit = build_vit(COMPACT_VIT, self.plan.image_size)
            if self.begin is not None:
                load_vit_state(vit, self.begin.encoder_tensors, self.config.start_from)
            compact = CompactLearner(vit, decoder, self.plan.image_size, fabric.device, alone)
            return compact, FreshViews(cases, self.config.augmentation), None
        views = StoredViews(cases, self.config, self.encoder.cache, self.folder.views, fabric.world_size)
        view_encoder = ViewEncoder(views, self.encoder, fabric.global_rank, fabric.world_size)
        return DecoderLearner(decoder, view_encoder, self.carried, alone), views, view_encoder

    def _make_validation(
        self, number: int, split: Split, learner: Learner, checkpoint: Checkpoint, log: TensorBoardLog | None
    ) -> Validation:
        folder = self.folder.of_fold(number)

        def on_scores(loop: Loop, weights: dict[str, Tensor], scores: Scores, is_best: bool) -> None:
            if log is None:  # another process tells
                return
            state, dice = loop.state, scores.by_label()
            loss = state.history[-1]["loss"]
            logger.info(
                "step %d, %.1f min: loss %.4f, held-out Dice %.4f (%s)",
                state.step,
                state.seconds / 60,
                loss,
                scores.mean(),
                ", ".join(f"{name} {value:.3f}" for name, value in dice.items()),
            )
            fold = {"fold": number + 1} if self.config.folds > 1 else {}
            rounded = {name: round(value, 4) for name, value in dice.items()}
            self.watch.event(
                "validation", step=state.step, seconds=round(state.seconds, 1), loss=loss, dice=rounded, **fold
            )
            log.validation(state.step, scores)
            trained = TrainedNetwork(*learner.parts(weights))
            model = self._model([trained], self._summary([state], scores, VALIDATION_NOTE))
            save_model(model, folder / f"last{SUFFIX}")
            if is_best:
                save_model(model, folder / f"best{SUFFIX}")

        def score(weights: dict[str, Tensor]) -> Scores:
            return self._score([TrainedNetwork(*learner.parts(weights))], split.validation)

        return Validation(score, checkpoint, on_scores)

    def _score(self, trained: list[TrainedNetwork], names: tuple[str, ...]) -> Scores:
        segmenter = self._segmenter(trained)
        return score_cases(
            segmenter, self.plan.files(names), self.plan.labels, self.config.resample, self.fabric, self.watch
        )

    def _segmenter(self, trained: list[TrainedNetwork]) -> Segmenter:
        card = self._model(trained, TrainingSummary()).card
        return Segmenter(card, Network(trained[0].encoder, [part.decoder for part in trained]))

    def _finish(self, results: list[FoldResult]) -> Sam3dModel:
        """The model of the best weights, measured on the test cases if there are any; and the record of the run."""
        trained = [result.trained for result in results]
        held_out = results[0].scores
        for result in results[1:]:
            held_out = held_out.joined(result.scores)
        note = VALIDATION_NOTE if len(results) == 1 else FOLDS_NOTE
        test_names = self.plan.splits[0].test
        scores = held_out
        if test_names:
            scores, note = self._score(trained, test_names), TEST_NOTE
        states = [result.state for result in results]
        model = self._model(trained, self._summary(states, scores, note))
        if self.fabric.is_global_zero:
            save_model(model, self.output)
            self.record["result"] = {
                "dice": model.card.training.dice,
                "note": note,
                "validation": held_out.by_case(),
                "test": scores.by_case() if test_names else {},
                "cases": model.card.training.cases,
                "steps": model.card.training.steps,
                "minutes": model.card.training.minutes,
                "history": [state.history for state in states],
                "versions": model.card.training.versions,
            }
            write_json(self.folder.record, self.record)
            picture = self._picture(scores, trained if test_names else self._validated(results, scores.worst()))
            write_text(self.folder.report, make_report(model.card.name, self.record, self.plan.labels, picture))
            self.watch.event("report", file=str(self.folder.report))
            self.folder.remove_work()
        return model

    def _validated(self, results: list[FoldResult], case: str) -> list[TrainedNetwork]:
        """The decoder that was not trained on the case."""
        return [result.trained for result in results if case in result.scores.cases]

    def _picture(self, scores: Scores, trained: list[TrainedNetwork]) -> Picture:
        plan, worst = self.plan, scores.worst()
        (files,) = plan.files((worst,))
        image, reference = read_case(files, plan.labels, self.config.resample)
        found = self._segmenter(trained).segment(image.array_kji, image.ijk_to_ras)
        indices = np.zeros(256, np.uint8)
        indices[[label.value for label in plan.labels]] = range(1, len(plan.labels) + 1)
        prepared = self._preparation.prepare(image.array_kji, image.ijk_to_ras)
        png, index = draw_case(prepared, reference, indices[found], plan.labels)
        dice = ", ".join(f"{name} {value:.3f}" for name, value in scores.by_case()[worst].items())
        where = f"Slice {index + 1} of {prepared.depth} ({prepared.slicing.plane}), where the two differ most"
        return Picture(png, f"{worst}: Dice {dice}. {where}: the image, the reference, the model.")

    def _model(self, trained: list[TrainedNetwork], summary: TrainingSummary) -> Sam3dModel:
        plan, config = self.plan, self.config
        card = ModelCard(
            name=config.name or self.output.stem,
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
        return Sam3dModel(card, decoder, trained[0].carried, more_decoders=tuple(more))

    def _summary(self, states: list[TrainingState], scores: Scores, note: str) -> TrainingSummary:
        return TrainingSummary(
            cases=len(self.plan.training_names()),
            minutes=round(sum(state.seconds for state in states) / 60, 1),
            steps=sum(state.step for state in states),
            seed=self.config.seed,
            dice={name: round(value, 4) for name, value in scores.by_label().items()},
            dice_cases=len(scores.cases),
            dice_note=note,
            versions={"SAM3DSegment": __version__, "torch": torch.__version__, "python": platform.python_version()},
        )


def _require_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    if changes := describe_changes(before, now):
        raise InputError(f"{str(path)!r} is of {changes}; use the same, or start anew with --overwrite.")
