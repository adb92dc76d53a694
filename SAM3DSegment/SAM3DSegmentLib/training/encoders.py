"""Where the encoder of a training comes from: published weights, a model that lends it, or learnt with the decoder.

The first two are frozen. This is the one place that knows which of the three a training has.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..base.errors import InputError
from ..base.halving import RetryInHalves
from ..base.jsonable import to_json
from ..base.watch import Watch
from ..card import EMBEDDING_CHANNELS, LEAST_IMAGE_SIZE, PATCH_SIZE, DecoderConfig, EncoderConfig, ModelCard
from ..decoder import Sam3dDecoder
from ..encoder import FrozenEncoder, load_encoder
from ..model_file import Sam3dModel, load_model
from ..model_store import find_model, read_card
from ..network import SliceEncoder
from ..sam.cache import EmbeddingCache
from ..sam.cached_encoder import CachedEncoder
from ..sam.encoders import COMPACT_ENCODER, COMPACT_VIT, ENCODERS, has_sams_weights
from ..sam.vit import build_vit, load_vit_state
from ..settings import TrainingConfig
from .callbacks import EncodeMore
from .embeddings import StoredViews, ViewEncoder
from .learner import DecoderLearner, EndToEndLearner, ModelLearner
from .loop import Callback
from .prepared import PreparedCase
from .samples import FreshViews, Views

DEFAULT_IMAGE_SIZE = 256
COPIES_FOR_A_COMPACT_ENCODER = 16  # of each case: it encodes hundreds of slices a second, where SAM's takes minutes


@dataclass(frozen=True)
class Lesson:
    """What one fold trains: the learner, where its samples come from, and what has to be encoded for them.

    before(steps, watch): what is encoded before the loop, which has done `steps` already; callbacks: during it.
    """

    learner: ModelLearner
    views: Views
    before: Callable[[int, Watch], None] = lambda steps, watch: None
    callbacks: tuple[Callback, ...] = ()


class TrainingEncoder:
    """What a training's plan asks of its encoder; what is here holds for a published one."""

    def settings(self) -> dict[str, Any]:
        """Settings of a training that are the encoder's unless the user gives others."""
        return {}

    def describe(self) -> str:
        """For people: which it is, and why."""
        raise NotImplementedError

    def check(self, config: TrainingConfig) -> None:
        """Raises InputError for settings that it cannot be used with."""

    def image_size(self, spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> int:
        """Pixels of the square for cases of this median spacing and extent, slicing axis first."""
        return DEFAULT_IMAGE_SIZE

    def coarse_image_size(self, pixels: int) -> int:
        """Of the square for slices of so many pixels, of which places are to be seen, not borders."""
        return 128

    def kept_views(self, config: TrainingConfig) -> int:
        """Views of each case whose embeddings are computed once and kept."""
        return 1 + config.augmented_copies

    def load_for_training(
        self, wanted: EncoderConfig, device: torch.device, sam_checkpoint: Path | None
    ) -> LoadedEncoder:
        """wanted: its image size, and how several channels reach it. Raises WeightsError, ModelFileError."""
        raise NotImplementedError


def find_encoder(name: str) -> TrainingEncoder:
    """By the setting `encoder`: a published one's name, "compact_vit", a model. Raises InputError, ModelFileError."""
    if name == COMPACT_ENCODER:
        return LearntEncoder()
    if name in ENCODERS:
        return FrozenFromFile(name)
    return LentEncoder(name, read_card(find_model(name)))


@dataclass(frozen=True)
class FrozenFromFile(TrainingEncoder):
    """A published one, frozen, from its checkpoint."""

    name: str

    def describe(self) -> str:
        return f"{self.name}, frozen"

    def load_for_training(
        self, wanted: EncoderConfig, device: torch.device, sam_checkpoint: Path | None
    ) -> LoadedEncoder:
        encoder = load_encoder(
            self.name, sam_checkpoint, wanted.image_size, device, channel_layout=wanted.channel_layout
        )
        return FrozenForTraining(encoder, {})


@dataclass(frozen=True)
class LentEncoder(TrainingEncoder):
    """That of a model, frozen; the new model carries it too, if that one does."""

    name: str
    lender: ModelCard

    def describe(self) -> str:
        return f"that of the model {self.lender.name!r}, frozen"

    def settings(self) -> dict[str, Any]:
        lent: dict[str, Any] = {name: to_json(getattr(self.lender, name)) for name in ("slicing", "intensity")}
        decoder = self.lender.decoder
        lent |= {"channels": [EMBEDDING_CHANNELS, *decoder.channels[1:]], "detail": list(decoder.detail)}
        if self.lender.encoder.in_model_file:
            lent["augmented_copies"] = COPIES_FOR_A_COMPACT_ENCODER
        return lent

    def image_size(self, spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> int:
        """The lender's own, or up to 256 what shows slices pixel by pixel."""
        return max(self.lender.encoder.image_size, _size_for(spacing_mm, extent_mm))

    def load_for_training(
        self, wanted: EncoderConfig, device: torch.device, sam_checkpoint: Path | None
    ) -> LoadedEncoder:
        lender = load_model(self.name)
        encoder = lender.load_encoder(str(device), "auto", sam_checkpoint, wanted.image_size, wanted.channel_layout)
        return FrozenForTraining(encoder, lender.encoder_tensors)


@dataclass(frozen=True)
class LearntEncoder(TrainingEncoder):
    """A compact one, trained with the decoder and frozen in the model, which carries it."""

    def settings(self) -> dict[str, Any]:
        """What was best with few cases (docs/benchmarks.md)."""
        return {
            "channels": [EMBEDDING_CHANNELS, 32, 16, 16, 16],
            "detail": [16, 32, 64, 128],
            "window": None,
            "training_depth": 0,
            "learning_rate": 3e-3,
            "warmup_steps": 20,
            "augmentation": {"flip_left_right": None},
            "mirror": None,
        }

    def describe(self) -> str:
        why = "" if has_sams_weights() else " (SAM's weights are not on this computer)"
        return f"{COMPACT_ENCODER}, trained with the decoder{why}"

    def image_size(self, spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> int:
        """Up to 256, two pixels for one of the slices: the decoder's third level then is as fine as these."""
        return max(LEAST_IMAGE_SIZE, _size_for(spacing_mm, extent_mm, pixels_for_one=2))

    def coarse_image_size(self, pixels: int) -> int:
        """One pixel for one of the slices."""
        return min(max(LEAST_IMAGE_SIZE, PATCH_SIZE * math.ceil(pixels / PATCH_SIZE)), DEFAULT_IMAGE_SIZE)

    def check(self, config: TrainingConfig) -> None:
        if config.folds > 1:
            raise InputError(
                f"folds {config.folds} need one encoder for all of them, but {COMPACT_ENCODER!r} would be trained anew "
                "in each; choose another encoder."
            )

    def kept_views(self, config: TrainingConfig) -> int:
        return 0

    def load_for_training(
        self, wanted: EncoderConfig, device: torch.device, sam_checkpoint: Path | None
    ) -> LoadedEncoder:
        return UntrainedForTraining(wanted, device)


def _size_for(spacing_mm: Sequence[float], extent_mm: Sequence[float], pixels_for_one: int = 1) -> int:
    """Up to 256, the square that shows slices of this spacing and extent with so many pixels for one of theirs."""
    pixels = pixels_for_one * max(extent_mm[1:]) / min(spacing_mm[1:])
    return min(PATCH_SIZE * math.ceil(round(pixels, 3) / PATCH_SIZE), DEFAULT_IMAGE_SIZE)


class _InHalves:
    """A `SliceEncoder` that encodes fewer slices at a time once memory has run out."""

    def __init__(self, encoder: SliceEncoder) -> None:
        self.config = encoder.config
        self.device = encoder.device
        self.dtype = encoder.dtype
        self.image_size = encoder.image_size
        self.batch_size = encoder.batch_size
        self.multiplications = encoder.multiplications
        self._encoder = encoder
        self._encode = RetryInHalves(encoder, "continuing with {count} slices at a time.")

    @property
    def computed(self) -> int:
        return self._encoder.computed

    def __call__(self, slices: Tensor) -> Tensor:
        return self._encode(slices)


class FrozenForTraining:
    """A frozen encoder on the training's device, and its tensors if the model is to carry them."""

    def __init__(self, encoder: FrozenEncoder, tensors: dict[str, Tensor]) -> None:
        self.sha256 = encoder.config.sha256
        self._encoder = encoder
        self._tensors = tensors

    @functools.cached_property
    def _cached(self) -> CachedEncoder:
        return CachedEncoder(_InHalves(self._encoder), EmbeddingCache())

    def uncached(self) -> SliceEncoder:
        """To be timed."""
        return self._encoder

    def check_start(self, name: str, wanted: DecoderConfig, card: ModelCard) -> None:
        """Raises InputError unless a decoder such as `wanted` can begin with the model `name`, which has this card."""
        _check_decoder(name, wanted, card)
        has, own = card.encoder, self._encoder.config
        if (has.sha256, has.normalisation) != (own.sha256, own.normalisation):
            raise InputError(
                f"{name!r} was trained on the encoder {has.name} {has.sha256[:16]}... with slices normalised as "
                f"{has.normalisation!r}, not {own.name} {own.sha256[:16]}... as {own.normalisation!r}; use the encoder "
                f"of {name!r}, or do not start from it."
            )

    def lesson(
        self,
        decoder: Sam3dDecoder,
        start: Sam3dModel | None,
        cases: list[PreparedCase],
        config: TrainingConfig,
        folder: Path,
        fabric: Fabric,
    ) -> Lesson:
        """start: the model to begin with; folder: for what is kept of the cases' views."""
        views = StoredViews(cases, config, self._cached.cache, folder, fabric.world_size)
        encoder = ViewEncoder(views, self._cached, fabric.global_rank, fabric.world_size)

        def before(steps: int, watch: Watch) -> None:
            encoder.encode_plain(watch)
            for _ in range(steps):
                watch.check("add --resume to go on.")
                encoder.encode_more()
            fabric.barrier()

        learner = DecoderLearner(decoder, encoder, self._tensors, config.trains_detail_alone)
        return Lesson(learner, views, before, (EncodeMore(encoder),))


class UntrainedForTraining:
    """An encoder that will be trained as it is wanted."""

    sha256 = ""

    def __init__(self, wanted: EncoderConfig, device: torch.device) -> None:
        self._config = replace(wanted, name=COMPACT_ENCODER, vit=COMPACT_VIT)
        self._device = device

    def uncached(self) -> SliceEncoder:
        vit = build_vit(COMPACT_VIT, self._config.image_size)
        return FrozenEncoder(vit, self._config, self._device, torch.float32)

    def check_start(self, name: str, wanted: DecoderConfig, card: ModelCard) -> None:
        _check_decoder(name, wanted, card)
        if card.encoder.vit != COMPACT_VIT:
            raise InputError(
                f"{name!r} does not contain an encoder of the kind {COMPACT_ENCODER}; do not start from it."
            )

    def lesson(
        self,
        decoder: Sam3dDecoder,
        start: Sam3dModel | None,
        cases: list[PreparedCase],
        config: TrainingConfig,
        folder: Path,
        fabric: Fabric,
    ) -> Lesson:
        vit = build_vit(COMPACT_VIT, self._config.image_size)
        if start is not None:
            load_vit_state(vit, start.encoder_tensors, config.start_from)
        learner = EndToEndLearner(vit, decoder, self._config, fabric.device, config.trains_detail_alone)
        return Lesson(learner, FreshViews(cases, config.augmentation))


def _check_decoder(name: str, wanted: DecoderConfig, card: ModelCard) -> None:
    has = replace(card.decoder, levels=wanted.levels, detail=card.decoder.detail or wanted.detail)
    if has != wanted or card.decoder.levels < wanted.levels:
        raise InputError(
            f"the decoder of {name!r}, {card.decoder}, differs from the one to train, {wanted}; use its labels, "
            "channels, detail and at most its levels, or do not start from it."
        )


LoadedEncoder = FrozenForTraining | UntrainedForTraining
