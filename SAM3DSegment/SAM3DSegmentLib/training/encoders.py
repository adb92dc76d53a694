"""Where the encoder of a training comes from: SAM's own, one lent by a model, or one that is learnt with the decoder.

The first two are frozen. This is the one place that knows which of the three a training has.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..base.errors import InputError
from ..base.jsonable import to_json
from ..base.watch import Watch
from ..card import PATCH_SIZE, DecoderConfig, EncoderConfig, ModelCard
from ..decoder import Sam3dDecoder
from ..encoder import FrozenEncoder, load_encoder
from ..model_file import Sam3dModel, load_model
from ..model_store import find_model, read_card
from ..network import SliceEncoder
from ..sam.cache import EmbeddingCache
from ..sam.cached_encoder import CachedEncoder
from ..sam.encoders import COMPACT_ENCODER, COMPACT_VIT, SAM_ENCODERS
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


class LoadedEncoder(Protocol):
    """An encoder that is here, on the training's device. sha256: "" of one that is still to be learnt."""

    sha256: str

    def uncached(self) -> SliceEncoder:
        """To be timed."""
        ...

    def check_start(self, name: str, wanted: DecoderConfig, card: ModelCard) -> None:
        """Raises InputError unless a decoder such as `wanted` can begin with the model `name`, which has this card."""
        ...

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
        ...


class TrainingEncoder(Protocol):
    """What a training's plan asks of its encoder."""

    def settings(self) -> dict[str, Any]:
        """Settings of a training that are the encoder's unless the user gives others."""
        ...

    def check(self, config: TrainingConfig) -> None:
        """Raises InputError for settings that it cannot be used with."""
        ...

    def image_size(self, spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> int:
        """Pixels of the square for cases of this median spacing and extent, slicing axis first."""
        ...

    def kept_views(self, config: TrainingConfig) -> int:
        """Views of each case whose embeddings are computed once and kept."""
        ...

    def load_for_training(self, image_size: int, device: torch.device, sam_checkpoint: Path | None) -> LoadedEncoder:
        """Raises WeightsError, ModelFileError."""
        ...


def find_encoder(name: str) -> TrainingEncoder:
    """By the setting `encoder`: a name of SAM's, "compact_vit", or a model. Raises InputError, ModelFileError."""
    if name == COMPACT_ENCODER:
        return LearntEncoder()
    if name in SAM_ENCODERS:
        return SamEncoder(name)
    return LentEncoder(name, read_card(find_model(name)))


@dataclass(frozen=True)
class SamEncoder:
    """SAM's own, frozen, from its checkpoint."""

    name: str

    def settings(self) -> dict[str, Any]:
        return {}

    def check(self, config: TrainingConfig) -> None:
        pass

    def image_size(self, spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> int:
        return DEFAULT_IMAGE_SIZE

    def kept_views(self, config: TrainingConfig) -> int:
        return 1 + config.augmented_copies

    def load_for_training(self, image_size: int, device: torch.device, sam_checkpoint: Path | None) -> LoadedEncoder:
        return FrozenForTraining(load_encoder(self.name, sam_checkpoint, image_size, device), {})


@dataclass(frozen=True)
class LentEncoder:
    """That of a model, frozen; the new model carries it too, if that one does."""

    name: str
    lender: ModelCard

    def settings(self) -> dict[str, Any]:
        lent: dict[str, Any] = {name: to_json(getattr(self.lender, name)) for name in ("slicing", "intensity")}
        lent |= {name: list(getattr(self.lender.decoder, name)) for name in ("channels", "detail")}
        if self.lender.encoder.in_model_file:
            lent["augmented_copies"] = COPIES_FOR_A_COMPACT_ENCODER
        return lent

    def check(self, config: TrainingConfig) -> None:
        pass

    def image_size(self, spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> int:
        """The lender's own, or up to 256 what shows slices pixel by pixel."""
        pixels = max(extent_mm[1:]) / min(spacing_mm[1:])  # of a square that holds a slice
        as_fine = PATCH_SIZE * math.ceil(round(pixels, 3) / PATCH_SIZE)
        return max(self.lender.encoder.image_size, min(as_fine, DEFAULT_IMAGE_SIZE))

    def kept_views(self, config: TrainingConfig) -> int:
        return 1 + config.augmented_copies

    def load_for_training(self, image_size: int, device: torch.device, sam_checkpoint: Path | None) -> LoadedEncoder:
        lender = load_model(self.name)
        encoder = lender.load_encoder(str(device), "auto", sam_checkpoint, image_size)
        return FrozenForTraining(encoder, lender.encoder_tensors)


@dataclass(frozen=True)
class LearntEncoder:
    """A compact one, trained with the decoder and frozen in the model, which carries it."""

    def settings(self) -> dict[str, Any]:
        return {}

    def check(self, config: TrainingConfig) -> None:
        if config.folds > 1:
            raise InputError(
                f"folds {config.folds} need one encoder for all of them, and {COMPACT_ENCODER!r} would be trained anew "
                "in each; give another encoder."
            )

    def image_size(self, spacing_mm: Sequence[float], extent_mm: Sequence[float]) -> int:
        return DEFAULT_IMAGE_SIZE

    def kept_views(self, config: TrainingConfig) -> int:
        return 0

    def load_for_training(self, image_size: int, device: torch.device, sam_checkpoint: Path | None) -> LoadedEncoder:
        return UntrainedForTraining(image_size, device)


class FrozenForTraining:
    """A frozen encoder on a device, and its tensors if the model is to carry them."""

    def __init__(self, encoder: FrozenEncoder, tensors: dict[str, Tensor]) -> None:
        self.sha256 = encoder.config.sha256
        self._encoder = encoder
        self._tensors = tensors

    @functools.cached_property
    def _cached(self) -> CachedEncoder:
        return CachedEncoder(self._encoder, EmbeddingCache())

    def uncached(self) -> SliceEncoder:
        return self._encoder

    def check_start(self, name: str, wanted: DecoderConfig, card: ModelCard) -> None:
        _check_decoder(name, wanted, card)
        if card.encoder.sha256 != self.sha256:
            raise InputError(
                f"the decoder of {name!r} reads the encoder {card.encoder.name} {card.encoder.sha256[:16]}..., not "
                f"{self._encoder.config.name} {self.sha256[:16]}...; give `encoder` that of {name!r}, or do not start "
                "from it."
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
    """An encoder that will be trained on slices of image_size x image_size pixels."""

    sha256 = ""

    def __init__(self, image_size: int, device: torch.device) -> None:
        self._image_size = image_size
        self._device = device

    def uncached(self) -> SliceEncoder:
        config = EncoderConfig(COMPACT_ENCODER, self._image_size)
        return FrozenEncoder(build_vit(COMPACT_VIT, self._image_size), config, self._device, torch.float32)

    def check_start(self, name: str, wanted: DecoderConfig, card: ModelCard) -> None:
        _check_decoder(name, wanted, card)
        if card.encoder.vit != COMPACT_VIT:
            raise InputError(f"{name!r} carries no encoder such as {COMPACT_ENCODER}; do not start from it.")

    def lesson(
        self,
        decoder: Sam3dDecoder,
        start: Sam3dModel | None,
        cases: list[PreparedCase],
        config: TrainingConfig,
        folder: Path,
        fabric: Fabric,
    ) -> Lesson:
        vit = build_vit(COMPACT_VIT, self._image_size)
        if start is not None:
            load_vit_state(vit, start.encoder_tensors, config.start_from)
        learner = EndToEndLearner(vit, decoder, self._image_size, fabric.device, config.trains_detail_alone)
        return Lesson(learner, FreshViews(cases, config.augmentation))


def _check_decoder(name: str, wanted: DecoderConfig, card: ModelCard) -> None:
    has = dataclasses.replace(card.decoder, levels=wanted.levels, detail=card.decoder.detail or wanted.detail)
    if has != wanted or card.decoder.levels < wanted.levels:
        raise InputError(
            f"the decoder of {name!r}, {card.decoder}, is not the one to train, {wanted}; use its labels, "
            "channels, detail and at most its levels, or do not start from it."
        )
