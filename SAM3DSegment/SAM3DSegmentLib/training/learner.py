"""What is trained, on what: a decoder on a frozen encoder's embeddings, or a compact encoder and a decoder together."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from ..card import EncoderConfig
from ..decoder import Sam3dDecoder
from ..detail import decoder_input
from ..encoder import COMPACT_ENCODER, COMPACT_VIT, FrozenEncoder, SliceEncoder, build_vit, tensors_sha256
from ..intensity import sam_normalise
from .embeddings import ViewEncoder
from .samples import Sample, stack_on


class Trainee(Protocol):
    """The module that learns, and the input that it takes."""

    module: nn.Module

    def inputs(self, samples: list[Sample]) -> Tensor:
        """Of samples of one depth: (N, C, D, h, w), for the module."""
        ...


class Learner(Trainee, Protocol):
    """What learns, and what it becomes in a model."""

    def parts(self, weights: dict[str, Tensor]) -> tuple[Sam3dDecoder, SliceEncoder, dict[str, Tensor]]:
        """With these weights: the decoder, the encoder, and the tensors of an encoder that the model carries."""
        ...


class DecoderLearner:
    """A decoder on the embeddings of a frozen encoder."""

    def __init__(self, decoder: Sam3dDecoder, embeddings: ViewEncoder, carried: dict[str, Tensor]) -> None:
        self.module: nn.Module = decoder
        self._decoder = decoder
        self._embeddings = embeddings
        self._carried = carried

    def inputs(self, samples: list[Sample]) -> Tensor:
        device = self._embeddings.encoder.device
        return torch.stack([self._input(sample, device) for sample in samples])

    def _input(self, sample: Sample, device: torch.device) -> Tensor:
        if sample.embeddings is not None:
            return sample.embeddings.to(device, non_blocking=True).float()
        assert sample.grey is not None
        return self._embeddings.embed(sample.grey)  # evicted, or not yet encoded

    def parts(self, weights: dict[str, Tensor]) -> tuple[Sam3dDecoder, SliceEncoder, dict[str, Tensor]]:
        decoder = copy.deepcopy(self._decoder)
        decoder.load_state_dict(weights)
        return decoder, self._embeddings.encoder, self._carried


class EndToEnd(nn.Module):
    """Grey slices (N, 1, D, S, S) in 0..255 -> the decoder's logits, with an encoder that learns."""

    def __init__(self, encoder: nn.Module, decoder: Sam3dDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, grey: Tensor) -> list[Tensor]:
        slices = grey.transpose(1, 2).flatten(0, 1)
        features = decoder_input(self.encoder(sam_normalise(slices)), slices[:, 0], self.decoder.config)
        return self.decoder(features.unflatten(0, (len(grey), -1)).transpose(1, 2))


class CompactLearner:
    """A compact encoder and a decoder; in the model the encoder is frozen, and carried."""

    def __init__(self, vit: nn.Module, decoder: Sam3dDecoder, image_size: int, device: torch.device) -> None:
        self.module: nn.Module = EndToEnd(vit, decoder)
        self._end_to_end = self.module
        self._image_size = image_size
        self._device = device

    def inputs(self, samples: list[Sample]) -> Tensor:
        return stack_on(self._device, [sample.grey for sample in samples if sample.grey is not None])[:, None]

    def parts(self, weights: dict[str, Tensor]) -> tuple[Sam3dDecoder, SliceEncoder, dict[str, Tensor]]:
        module = copy.deepcopy(self._end_to_end)
        module.load_state_dict(weights)
        assert isinstance(module, EndToEnd)
        # Half precision halves the part of the file that nobody will train again.
        tensors = {key: value.half().cpu() for key, value in module.encoder.state_dict().items()}
        config = EncoderConfig(COMPACT_ENCODER, self._image_size, tensors_sha256(tensors), COMPACT_VIT)
        vit = build_vit(COMPACT_VIT, self._image_size)
        vit.load_state_dict(tensors)
        return module.decoder, FrozenEncoder(vit, config, self._device, torch.float32), tensors
