"""What is trained, on what: a decoder on a frozen encoder's embeddings, or a compact encoder and a decoder together."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ..base.devices import send
from ..card import EncoderConfig
from ..decoder import Sam3dDecoder
from ..encoder import FrozenEncoder
from ..intensity import normalise, split_passes
from ..network import SliceEncoder
from ..sam.encoders import COMPACT_VIT
from ..sam.vit import build_vit, tensors_sha256
from .embeddings import ViewEncoder
from .samples import Sample, stack_on


class Learner(Protocol):
    """The module that learns, and how it is used on samples that have one depth and one `fit`."""

    module: nn.Module

    def predict(self, module: nn.Module, samples: list[Sample]) -> tuple[list[Tensor], list[Tensor]]:
        """What `module`, which wraps its own, makes of them: logits (N, C, D, h, w), and labels (N, D, h, w) of each.

        From the coarsest level to the finest. All samples are for a detail part alone, or none is.
        """
        ...


@dataclass(frozen=True)
class TrainedNetwork:
    """A decoder with the encoder that it reads, and the encoder's tensors if the model is to carry them."""

    decoder: Sam3dDecoder
    encoder: SliceEncoder
    encoder_tensors: dict[str, Tensor]


class ModelLearner(Learner, Protocol):
    """What learns, and what it becomes in a model."""

    def trained(self, weights: dict[str, Tensor]) -> TrainedNetwork:
        """With these weights of `module`."""
        ...


class OnEmbeddings(nn.Module):
    """Embeddings (N, E, D, s, s), and grey (N, M, D, *grid) for a detail part -> logits, the detail's the last.

    Without embeddings the detail's alone.
    """

    def __init__(self, decoder: Sam3dDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, embeddings: Tensor | None, grey: Tensor | None) -> list[Tensor]:
        levels = [] if embeddings is None else self.decoder(embeddings)
        return levels if grey is None or self.decoder.detail is None else [*levels, self.decoder.detail(grey)]


class DecoderLearner:
    """A decoder on the embeddings of a frozen encoder."""

    def __init__(
        self,
        decoder: Sam3dDecoder,
        embeddings: ViewEncoder,
        encoder_tensors: dict[str, Tensor],
        trains_detail_alone: bool = False,
    ) -> None:
        self.module: nn.Module = OnEmbeddings(decoder)
        self._decoder = decoder
        self._detail_learns_alone = trains_detail_alone
        self._embeddings = embeddings
        self._encoder_tensors = encoder_tensors

    def predict(self, module: nn.Module, samples: list[Sample]) -> tuple[list[Tensor], list[Tensor]]:
        device = self._embeddings.encoder.device
        if samples[0].only_detail:
            return _predict_detail(module, samples, device)
        embeddings = torch.stack([self._embedding(sample, device) for sample in samples])
        grey = _stack_grey(samples, device) if self._decoder.detail is not None else None
        return _with_labels(module(embeddings, grey), samples, self._decoder)

    def _embedding(self, sample: Sample, device: torch.device) -> Tensor:
        if sample.embeddings is not None:
            return send(sample.embeddings, device).float()
        assert sample.grey is not None
        return self._embeddings.embed(sample.grey, sample.fit)  # evicted, or not yet encoded

    def trained(self, weights: dict[str, Tensor]) -> TrainedNetwork:
        module = OnEmbeddings(copy.deepcopy(self._decoder))
        module.load_state_dict(_in_half_precision(weights))
        if self._detail_learns_alone:
            _average_both_outputs(module.decoder)
        return TrainedNetwork(module.decoder, self._embeddings.encoder, self._encoder_tensors)


class OnSlices(OnEmbeddings):
    """Squares (N, M, D, S, S) in 0..255, through an encoder that learns; otherwise as `OnEmbeddings`."""

    def __init__(self, encoder: nn.Module, decoder: Sam3dDecoder, config: EncoderConfig) -> None:
        super().__init__(decoder)
        self.encoder = encoder
        self._config = config

    def forward(self, squares: Tensor | None, grey: Tensor | None) -> list[Tensor]:
        if squares is None:
            return super().forward(None, grey)
        slices = squares.transpose(1, 2).flatten(0, 1)
        passes = split_passes(slices, self._config.channel_layout)
        features = torch.cat([self.encoder(normalise(part, self._config.normalisation)) for part in passes], dim=1)
        return super().forward(features.unflatten(0, (len(squares), -1)).transpose(1, 2), grey)


class EndToEndLearner:
    """A compact encoder and a decoder; in the model the encoder is frozen, and carried."""

    def __init__(
        self,
        vit: nn.Module,
        decoder: Sam3dDecoder,
        config: EncoderConfig,
        device: torch.device,
        trains_detail_alone: bool = False,
    ) -> None:
        """config: of the encoder as it will be, but for its hash."""
        self._config = config
        self.module: nn.Module = OnSlices(vit, decoder, config)
        self._on_slices = self.module
        self._decoder = decoder
        self._device = device
        self._detail_learns_alone = trains_detail_alone

    def predict(self, module: nn.Module, samples: list[Sample]) -> tuple[list[Tensor], list[Tensor]]:
        if samples[0].only_detail:
            return _predict_detail(module, samples, self._device)
        grey = _stack_grey(samples, self._device)
        squares = (
            samples[0].fit.place(grey.flatten(0, 2)[:, None]).view(*grey.shape[:3], *[self._config.image_size] * 2)
        )
        outputs = module(squares, grey if self._decoder.detail is not None else None)
        return _with_labels(outputs, samples, self._decoder)

    def trained(self, weights: dict[str, Tensor]) -> TrainedNetwork:
        module = copy.deepcopy(self._on_slices)
        module.load_state_dict(_in_half_precision(weights))
        assert isinstance(module, OnSlices)
        if self._detail_learns_alone:
            _average_both_outputs(module.decoder)
        tensors = {key: value.half().cpu() for key, value in module.encoder.state_dict().items()}
        config = replace(self._config, sha256=tensors_sha256(tensors))
        vit = build_vit(COMPACT_VIT, config.image_size)
        vit.load_state_dict(tensors)
        encoder = FrozenEncoder(vit, config, self._device, torch.float32)
        return TrainedNetwork(module.decoder, encoder, tensors)


def _in_half_precision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rounded, which halves what they take in a model's file; validation and tests measure them as they are kept."""
    return {key: value.half() for key, value in weights.items()}


def _average_both_outputs(decoder: Sam3dDecoder) -> None:
    """Make a decoder whose detail part was also trained alone give the average of both of its trained outputs.

    With a sample's embeddings the output is R(z) + d, without them d, so that the average is R(z) / 2 + d.
    """
    decoder.scale_finest_logits(0.5)


def _stack_grey(samples: list[Sample], device: torch.device) -> Tensor:
    """(N, M, D, *grid)."""
    return stack_on(device, [sample.grey for sample in samples if sample.grey is not None])


def _predict_detail(
    module: nn.Module, samples: list[Sample], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """The detail part's logits as if they were all, and labels of the grid."""
    return module(None, _stack_grey(samples, device)), [_stack_classes(samples, device)]


def _stack_classes(samples: list[Sample], device: torch.device) -> Tensor:
    """(N, D, *grid) int64."""
    return stack_on(device, [sample.classes for sample in samples]).long()


def _with_labels(
    outputs: list[Tensor], samples: list[Sample], decoder: Sam3dDecoder
) -> tuple[list[Tensor], list[Tensor]]:
    """The levels' logits with labels on the square; the finest with a detail's added to it with those of the grid."""
    fit = samples[0].fit
    on_grid = _stack_classes(samples, outputs[0].device)
    on_square = fit.place_labels(on_grid.flatten(0, 1)).unflatten(0, on_grid.shape[:2])
    if decoder.detail is None:
        return outputs, [on_square] * len(outputs)
    *levels, detail = outputs
    labels = [on_square] * len(levels) + [on_grid]
    return [*levels, fit.to_grid(levels[-1].float()) + detail.float()], labels
