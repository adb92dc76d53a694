"""Train a decoder on frozen embeddings, or a compact encoder and a decoder together, and save one model file.

With a frozen encoder the embeddings of every case and of its augmented copies are computed once and cached. The
compact encoder is trained end to end on views drawn anew at each step, then frozen and carried in the model file.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import logging
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..card import DecoderConfig, EncoderConfig, Label, ModelCard, TrainingSummary
from ..decoder import Sam3dDecoder
from ..devices import resolve_device
from ..encoder import (
    COMPACT_ENCODER,
    COMPACT_VIT,
    SAM_ENCODERS,
    FrozenEncoder,
    SliceEncoder,
    build_vit,
    load_encoder,
    load_vit_state,
    tensors_sha256,
)
from ..errors import Cancelled, InputError
from ..files import check_new_file, written_whole
from ..folders import cache_folder
from ..inference import Segmenter
from ..intensity import sam_normalise
from ..jsonable import to_json
from ..losses import DeepSupervisionLoss
from ..metrics import label_dice
from ..model_file import Sam3dModel, load_model, save_model
from ..model_store import SUFFIX
from ..network import Network
from ..settings import TrainingConfig
from .augmentation import plain_view, random_view
from .cases import Case, Dataset, find_dataset, median_grid_mm, read_case, split_cases
from .embeddings import CachedEncoder, StackedEmbeddings
from .gradients import BatchGradients

logger = logging.getLogger(__name__)

GRADIENT_NORM = 1.0  # larger gradients are scaled down to this norm
OnTrainingProgress = Callable[[str, int, int], None]  # stage, done, total


class TrainedNetwork(Protocol):
    """A decoder with the source of its input."""

    module: nn.Module  # what is trained

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Input of `module` without its batch axis, and classes (D, S, S) int64; of one D for all samples."""
        ...

    def parts(self, module: nn.Module) -> tuple[Sam3dDecoder, SliceEncoder, dict[str, Tensor]]:
        """The decoder and the frozen encoder of `module`, and the tensors of an encoder that the model carries."""
        ...


class FrozenNetwork:
    """A decoder on cached embeddings of a frozen encoder."""

    def __init__(
        self,
        decoder: Sam3dDecoder,
        encoder: FrozenEncoder,
        carried: dict[str, Tensor],
        cases: list[Case],
        config: TrainingConfig,
        on_case: Callable[[int], None],
    ) -> None:
        self.module: nn.Module = decoder.to(encoder.device)
        self._encoder = CachedEncoder(encoder, cache_folder())
        self._carried = carried
        self._depth = min(config.training_depth, *(len(case.grey) for case in cases))
        self._copies: list[tuple[StackedEmbeddings, Tensor]] = []
        generator = torch.Generator().manual_seed(config.seed)
        for number, case in enumerate(cases):
            views = [plain_view(case, encoder.image_size)]
            for _ in range(config.augmented_copies):
                views.append(random_view(case, encoder.image_size, len(case.grey), config.augmentation, generator))
            for grey, classes in views:
                slices = sam_normalise(grey[:, None])
                self._copies.append((StackedEmbeddings(self._encoder, slices), classes.to(torch.uint8)))
            on_case(number + 1)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        stack, classes = self._copies[_draw(generator, len(self._copies))]
        start = _draw(generator, len(classes) - self._depth + 1)
        stop = start + self._depth
        return stack.window(start, stop).float().transpose(0, 1), classes[start:stop].long()

    def parts(self, module: nn.Module) -> tuple[Sam3dDecoder, SliceEncoder, dict[str, Tensor]]:
        assert isinstance(module, Sam3dDecoder)
        return module, self._encoder, self._carried


class EndToEnd(nn.Module):
    """Slices (N, 3, D, S, S), SAM-normalised -> the decoder's logits, with an encoder that learns."""

    def __init__(self, encoder: nn.Module, decoder: Sam3dDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, slices: Tensor) -> list[Tensor]:
        batch, _, depth = slices.shape[:3]
        embeddings = self.encoder(slices.transpose(1, 2).flatten(0, 1))
        return self.decoder(embeddings.unflatten(0, (batch, depth)).transpose(1, 2))


class CompactNetwork:
    """A compact encoder and a decoder, trained together on views drawn anew at each step."""

    def __init__(
        self,
        vit: nn.Module,
        decoder: Sam3dDecoder,
        cases: list[Case],
        config: TrainingConfig,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = EndToEnd(vit, decoder).to(device)
        self._cases = cases
        self._config = config
        self._depth = min(config.training_depth, *(len(case.grey) for case in cases))
        self._device = device

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        config = self._config
        case = self._cases[_draw(generator, len(self._cases))]
        grey, classes = random_view(case, config.image_size, self._depth, config.augmentation, generator)
        return sam_normalise(grey[:, None]).transpose(0, 1), classes

    def parts(self, module: nn.Module) -> tuple[Sam3dDecoder, SliceEncoder, dict[str, Tensor]]:
        assert isinstance(module, EndToEnd)
        # Half precision halves the part of the file that nobody will train again.
        tensors = {key: value.half().cpu() for key, value in module.encoder.state_dict().items()}
        config = EncoderConfig(COMPACT_ENCODER, self._config.image_size, tensors_sha256(tensors), COMPACT_VIT)
        vit = build_vit(COMPACT_VIT, self._config.image_size)
        vit.load_state_dict(tensors)
        return module.decoder, FrozenEncoder(vit, config, self._device, torch.float32), tensors


@dataclass
class Progress:
    """What a training run has reached; with the weights it makes a checkpoint."""

    step: int = 0
    seconds: float = 0.0
    validations: int = 0
    best_dice: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    data: str | Path,
    output: str | Path,
    config: TrainingConfig,
    cases: int | None = None,
    sam_checkpoint: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    on_progress: OnTrainingProgress | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Sam3dModel:
    """Train on the folder `data` (see `find_dataset`) and write the model to `output`; returns that model.

    cases: use only so many training cases. A checkpoint beside `output` is kept until the end; with `resume` the run
    goes on from it. Raises the errors of `errors.py`; on `Cancelled` the checkpoint stays.
    """
    output = Path(output)
    if output.suffix != SUFFIX:
        raise InputError(f"model {str(output)!r} has an unknown ending; use {SUFFIX}.")
    check_new_file(output, overwrite=True)
    if cases is not None and cases < 1:
        raise InputError(f"{cases} training cases are too few; use at least 1, or leave the option out for all.")
    run = TrainingRun(output, find_dataset(data), config, cases, sam_checkpoint, device, on_progress)
    if resume:
        run.load_checkpoint()
    run.fit(should_cancel)
    model = run.finish()
    save_model(model, output)
    run.checkpoint_path.unlink(missing_ok=True)
    return model


class TrainingRun:
    """One training, from cases on disk to a model."""

    def __init__(
        self,
        output: Path,
        dataset: Dataset,
        config: TrainingConfig,
        cases: int | None,
        sam_checkpoint: str | Path | None,
        device: str,
        on_progress: OnTrainingProgress | None,
    ) -> None:
        self.config = config
        self.output = output
        self.checkpoint_path = output.with_name(output.name + ".checkpoint")
        self.dataset = dataset
        self.labels: tuple[Label, ...] = config.labels or dataset.labels
        self.split = split_cases(dataset.cases, config)
        self._training_paths = self.split.training[:cases]
        self.validation = [read_case(paths, config, self.labels) for paths in self.split.validation]
        self._spacing_mm, self._extent_mm = median_grid_mm(self._training_paths, config.slicing)
        self._on_progress = on_progress or (lambda stage, done, total: None)
        self.device = resolve_device(device)
        torch.manual_seed(config.seed)
        training = [read_case(paths, config, self.labels) for paths in self._training_paths]
        self.network = self._build_network(training, sam_checkpoint)
        self.average = copy.deepcopy(self.network.module)
        self.best: dict[str, Tensor] = {}
        self.optimiser = torch.optim.AdamW(
            self.network.module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.progress = Progress()

    def _build_network(self, training: list[Case], sam_checkpoint: str | Path | None) -> TrainedNetwork:
        config = self.config
        decoder = Sam3dDecoder(len(self.labels) + 1, config.channels)
        begin = load_model(config.start_from) if config.start_from else None
        if begin is not None:
            if begin.card.decoder != decoder.config:
                raise InputError(
                    f"the decoder of {config.start_from!r}, {begin.card.decoder}, is not the one to train, "
                    f"{decoder.config}; use its labels and channels, or do not start from it."
                )
            decoder.load_state_dict(begin.decoder.state_dict())
        if config.encoder == COMPACT_ENCODER:
            vit = build_vit(COMPACT_VIT, config.image_size)
            if begin is not None:
                load_vit_state(vit, begin.encoder_tensors, config.start_from)
            return CompactNetwork(vit, decoder, training, config, self.device)
        if config.encoder in SAM_ENCODERS:
            encoder = load_encoder(config.encoder, sam_checkpoint, config.image_size, str(self.device))
            carried: dict[str, Tensor] = {}
        else:
            source = load_model(config.encoder)
            encoder, carried = source.load_encoder(str(self.device), checkpoint=sam_checkpoint), source.encoder_tensors
        return FrozenNetwork(
            decoder,
            encoder,
            carried,
            training,
            config,
            lambda done: self._on_progress("encode", done, len(training)),
        )

    def fit(self, should_cancel: Callable[[], bool] | None = None) -> None:
        """Train until the time or the epochs are over; validate at even intervals and at the end."""
        config, progress = self.config, self.progress
        module = self.network.module
        gradients = BatchGradients(module, DeepSupervisionLoss(config.dice_per_class), self.device, config.batch_size)
        losses: list[float] = []
        began = time.monotonic() - progress.seconds
        while (fraction := self._fraction()) < 1:
            if should_cancel is not None and should_cancel():
                self.save_checkpoint()
                raise Cancelled(f"cancelled after {progress.step} steps; add --resume to go on.")
            seeds = range(progress.step * config.batch_size, (progress.step + 1) * config.batch_size)
            draws = [self._draw_sample(config.seed * 1_000_003 + seed) for seed in seeds]
            losses.append(gradients.compute(draws))
            nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
            self._set_learning_rate(fraction)
            self.optimiser.step()
            self._update_average()
            progress.step += 1
            progress.seconds = time.monotonic() - began
            self._on_progress("train", *self._done_of_total())
            if self._fraction() >= (progress.validations + 1) / config.validations:
                self._validate(float(np.mean(losses)))
                losses.clear()
                progress.seconds = time.monotonic() - began

    def _draw_sample(self, seed: int) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: self.network.sample(torch.Generator().manual_seed(seed))

    def _fraction(self) -> float:
        done, total = self._done_of_total()
        return done / total

    def _done_of_total(self) -> tuple[int, int]:
        if self.config.epochs:
            return self.progress.step, self.config.epochs * -(-len(self._training_paths) // self.config.batch_size)
        return int(self.progress.seconds), max(1, int(self.config.minutes * 60))

    def _set_learning_rate(self, fraction: float) -> None:
        """Linear warm-up, then half a cosine down to zero."""
        warmup = min(1.0, (self.progress.step + 1) / max(1, self.config.warmup_steps))
        rate = self.config.learning_rate * warmup * (1 + math.cos(math.pi * min(1.0, fraction))) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.averaging, (1 + self.progress.step) / (10 + self.progress.step))
        weights = self.network.module.state_dict()
        for key, mean in self.average.state_dict().items():
            mean.lerp_(weights[key], 1 - decay)

    def _validate(self, mean_loss: float) -> None:
        progress = self.progress
        model, encoder = self._model(self.average.state_dict(), TrainingSummary())
        scores = mean_dice(Segmenter(model.card, Network(encoder, [model.decoder])), self.validation)
        progress.validations += 1
        progress.history.append(
            {"step": progress.step, "seconds": round(progress.seconds), "loss": mean_loss, "dice": scores}
        )
        score = float(np.mean(list(scores.values())))
        logger.info(
            "step %d, %.1f min: loss %.4f, held-out Dice %.4f (%s)",
            progress.step,
            progress.seconds / 60,
            mean_loss,
            score,
            ", ".join(f"{name} {value:.3f}" for name, value in scores.items()),
        )
        if score > progress.best_dice:
            progress.best_dice = score
            self.best = {key: value.detach().cpu().clone() for key, value in self.average.state_dict().items()}
        self.save_checkpoint()

    def finish(self) -> Sam3dModel:
        """The model with the best held-out Dice, measured once more on the test cases if there are any."""
        config, progress = self.config, self.progress
        model, encoder = self._model(self.best, TrainingSummary())
        test = [read_case(paths, config, self.labels) for paths in self.split.test]
        held_out = test or self.validation
        scores = mean_dice(Segmenter(model.card, Network(encoder, [model.decoder])), held_out)
        note = (
            "mean over test cases that neither training nor the choice of the checkpoint has seen"
            if test
            else "mean over the validation cases by which the checkpoint was chosen, so slightly optimistic"
        )
        summary = TrainingSummary(
            cases=len(self._training_paths),
            minutes=round(progress.seconds / 60, 1),
            steps=progress.step,
            seed=config.seed,
            dice={name: round(value, 4) for name, value in scores.items()},
            dice_cases=len(held_out),
            dice_note=note,
            versions={"SAM3DSegment": __version__, "torch": torch.__version__, "python": platform.python_version()},
        )
        return self._model(self.best, summary)[0]

    def _model(self, weights: dict[str, Tensor], summary: TrainingSummary) -> tuple[Sam3dModel, SliceEncoder]:
        config = self.config
        module = copy.deepcopy(self.network.module)
        module.load_state_dict(weights)
        decoder, encoder, tensors = self.network.parts(module)
        card = ModelCard(
            name=config.name or self.output.stem,
            description=config.description,
            modality=config.modality or self.dataset.modality,
            labels=self.labels,
            encoder=encoder.config,
            decoder=DecoderConfig(len(self.labels) + 1, config.channels),
            slicing=config.slicing,
            intensity=config.intensity,
            window=config.window,
            mirror=config.mirror,
            island_share=config.island_share,
            spacing_mm=self._spacing_mm,
            extent_mm=self._extent_mm,
            training=summary,
            licence=config.licence or self.dataset.licence,
            author=config.author,
            date=datetime.date.today().isoformat(),
        )
        return Sam3dModel(card, decoder, tensors), encoder

    def save_checkpoint(self) -> None:
        state = {
            "config": json.dumps(to_json(self.config)),
            "module": self.network.module.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "progress": json.dumps(dataclasses.asdict(self.progress)),
        }
        with written_whole(self.checkpoint_path) as partial:
            torch.save(state, partial)

    def load_checkpoint(self) -> None:
        """Go on where the checkpoint was written; InputError if there is none or it is of another configuration."""
        path = self.checkpoint_path
        if not path.is_file():
            raise InputError(f"there is no checkpoint {str(path)!r} to resume; start without --resume.")
        state = torch.load(path, map_location=self.device, weights_only=True)
        before, now = json.loads(state["config"]), json.loads(json.dumps(to_json(self.config)))
        changed = [
            key for key in now if before.get(key) != now[key] and key not in ("minutes", "epochs", "validations")
        ]
        if changed:
            raise InputError(f"the checkpoint {str(path)!r} has other settings of {', '.join(changed)}; use the same.")
        self.network.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = state["best"]
        self.progress = Progress(**json.loads(state["progress"]))


def mean_dice(segmenter: Segmenter, cases: list[Case]) -> dict[str, float]:
    """Mean Dice per label name over the cases, on each case's own grid."""
    labels = segmenter.card.labels
    values = [label.value for label in labels]
    scores = [
        label_dice(segmenter.segment(case.source.array_kji, case.source.ijk_to_ras), case.labels_kji, values)
        for case in cases
    ]
    return {label.name: float(score) for label, score in zip(labels, np.mean(scores, axis=0))}


def _draw(generator: torch.Generator, count: int) -> int:
    return int(torch.randint(count, (1,), generator=generator))
