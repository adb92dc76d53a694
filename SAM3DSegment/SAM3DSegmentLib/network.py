"""A model's own computation: prepared slices -> embeddings of the frozen encoder -> logits of the decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from .card import PATCH_SIZE, EncoderConfig
from .decoder import Sam3dDecoder
from .detail import cost_of_convolutions
from .intensity import normalise, split_passes


class SliceEncoder(Protocol):
    """What the rest of the engine asks of an encoder of grey slices, whether it computes or remembers."""

    config: EncoderConfig
    device: torch.device
    dtype: torch.dtype

    @property
    def computed(self) -> int: ...  # slices so far, without those that it remembered

    @property
    def multiplications(self) -> float: ...  # of a slice that is computed

    @property
    def image_size(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def __call__(self, slices: Tensor) -> Tensor: ...


OnMultiplied = Callable[[float], None]


class Network:
    """An encoder and one or more decoders on its device; of several decoders the logits are averaged.

    mirror, in what follows, is the axis of (D, H, W) that runs between the patient's sides: a mirrored view is then
    decoded too, and both outputs are averaged. None: no mirrored view.
    """

    def __init__(self, encoder: SliceEncoder, decoders: Sequence[Sam3dDecoder]) -> None:
        self.encoder = encoder
        self._decoders = [copy.deepcopy(d).eval().to(device=encoder.device, dtype=encoder.dtype) for d in decoders]
        self._on_multiplied: OnMultiplied | None = None
        for decoder in self._decoders:
            _after_each_convolution(decoder, self._multiplied)
        self._black: Tensor | None = None  # embedding (1, 1, 256, s, s) of a black slice, once there was one

    @torch.no_grad()
    def encode(self, grey: Tensor, mirror: int | None = None) -> Tensor:
        """Slices of M channels (B, M, S, S) float32 in 0..255 -> embeddings (B, views, E, s, s) float16.

        There is one view, or a second one with an in-plane axis flipped. E is 256 for each of the encoder's passes.
        """
        passes = split_passes(grey, self.encoder.config.channel_layout)
        return torch.cat([self._encode_pass(part, mirror) for part in passes], dim=2)

    def _encode_pass(self, grey: Tensor, mirror: int | None) -> Tensor:
        """(B, 1 or 3, S, S) -> (B, views, 256, s, s). Of all black slices one is encoded, once."""
        black = ~grey.flatten(1).any(1)
        if not black.any():
            return self._encode(grey, mirror)
        if self._black is None:
            self._black = self._encode(torch.zeros_like(grey[:1]), None)
        embeddings = self._black.repeat(len(grey), 2 if mirror else 1, 1, 1, 1)
        if not black.all():
            embeddings[~black.to(embeddings.device)] = self._encode(grey[~black], mirror)
        return embeddings

    def _encode(self, grey: Tensor, mirror: int | None) -> Tensor:
        squares = normalise(grey.to(self.encoder.device), self.encoder.config.normalisation)
        views = [squares, squares.flip(mirror - 3)] if mirror else [squares]
        return torch.stack([self.encoder(view).half() for view in views], dim=1)

    @torch.no_grad()
    def decode(self, embeddings: Tensor, mirror: int | None = None) -> Tensor:
        """Embeddings of a window (D, views, E, s, s) -> logits (D, C, g, g) float32 on the decoder's finest grid.

        Views are decoded one by one, which takes half the memory and no more time.
        """
        views = embeddings.to(self.encoder.dtype).permute(1, 2, 0, 3, 4)
        logits = self._mean_logits(views[:1])
        if mirror is not None:
            # Across slices, the mirrored view is the same slices in reverse order.
            mirrored = views[:1].flip(2) if mirror == 0 else views[1:]
            logits = (logits + self._mean_logits(mirrored).flip(mirror - 3)) / 2
        return logits[0].transpose(0, 1)

    @property
    def has_detail(self) -> bool:
        """Whether there is `detail` to be added to the logits."""
        return self._decoders[0].detail is not None

    @property
    def least_detail_depth(self) -> int:
        """Slices for which `detail` takes no longer than for fewer."""
        return max(decoder.detail.least_depth for decoder in self._decoders if decoder.detail is not None)

    @torch.no_grad()
    def detail(self, grey: Tensor, mirror: int | None = None) -> Tensor:
        """Grey slices of a window (D, M, *grid) in 0..255 -> what is added to their logits, (D, C, *grid) float32."""
        view = grey.to(self.encoder.device).transpose(0, 1)[None]
        logits = self._mean_detail(view)
        if mirror is not None:
            logits = (logits + self._mean_detail(view.flip(mirror - 3)).flip(mirror - 3)) / 2
        return logits[0].transpose(0, 1)

    @contextmanager
    def counted(self, on_multiplied: OnMultiplied) -> Iterator[None]:
        """Meanwhile on_multiplied(its cost) is called after each convolution of decoders and detail parts."""
        self._on_multiplied = on_multiplied
        try:
            yield
        finally:
            self._on_multiplied = None

    def _multiplied(self, multiplications: float) -> None:
        if self._on_multiplied is not None:
            self._on_multiplied(multiplications)

    def decoding_cost(self, depth: int) -> float:
        """Of all decoders, for one view of a window of so many slices."""
        side = self.encoder.image_size // PATCH_SIZE
        return sum(decoder.cost(depth, side) for decoder in self._decoders)

    def detail_cost(self, depth: int, grid: tuple[int, int]) -> float:
        """Of all detail parts, for one view of a window of so many slices of this grid."""
        parts = [decoder.detail for decoder in self._decoders]
        return sum(part.cost(depth, grid) for part in parts if part is not None)

    def _mean_detail(self, view: Tensor) -> Tensor:
        """(1, M, D, *grid) -> (1, C, D, *grid) float32."""
        parts = [decoder.detail for decoder in self._decoders if decoder.detail is not None]
        first, *others = (part(view.to(self.encoder.dtype)).float() for part in parts)
        return sum(others, first) / len(parts)

    def _mean_logits(self, view: Tensor) -> Tensor:
        """(1, E, D, s, s) -> (1, C, D, g, g) float32."""
        first, *others = (decoder(view, only_finest=True)[-1].float() for decoder in self._decoders)
        return sum(others, first) / len(self._decoders)


def _after_each_convolution(module: nn.Module, on_multiplied: OnMultiplied) -> None:
    def count(convolution: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        on_multiplied(cost_of_convolutions(convolution, output[:, 0].numel()))

    for part in module.modules():
        if isinstance(part, (nn.Conv3d, nn.ConvTranspose3d)):
            part.register_forward_hook(count)
