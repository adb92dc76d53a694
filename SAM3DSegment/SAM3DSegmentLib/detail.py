"""An optional part of the decoder that reads the grey slices beside their embeddings: an addition of this project.

A token stands for 16 x 16 pixels of an encoder's slice, so the embeddings alone say little of where exactly a border
runs. Here a few small convolutions read the grey values themselves, on the decoder's own grids (formulas:
docs/loss_and_decoder.md). What a new part adds is zero, so that training may begin with a decoder that had none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .card import PATCH_SIZE, DecoderConfig

NEGATIVE_SLOPE = 0.01  # of every LeakyReLU


def input_channels(config: DecoderConfig) -> int:
    """Channels that a decoder takes: those of the embeddings and, with a detail part, of the folded grey slices."""
    return config.channels[0] + (4**config.levels if config.detail else 0)


def decoder_input(embeddings: Tensor, grey: Tensor, config: DecoderConfig) -> Tensor:
    """Embeddings (B, 256, s, s) and their slices, grey (B, S, S) in 0..255 -> (B, input_channels, s, s)."""
    if not config.detail:
        return embeddings
    return torch.cat([embeddings, fold_grey(grey, config.levels).to(embeddings)], dim=1)


def fold_grey(grey: Tensor, levels: int) -> Tensor:
    """(B, S, S) in 0..255 -> (B, 4^levels, S/16, S/16) in -1..1: the means of the finest grid's cells, each token's."""
    finest = F.avg_pool2d(grey[:, None], PATCH_SIZE >> levels)
    return F.pixel_unshuffle(finest / 127.5 - 1, 2**levels)


def unfold_grey(folded: Tensor, levels: int) -> Tensor:
    """(N, 4^levels, D, s, s) -> (N, 1, D, s 2^levels, s 2^levels)."""
    slices = F.pixel_shuffle(folded.transpose(1, 2), 2**levels)
    return slices.transpose(1, 2)


class GreyDetail(nn.Module):
    """Features of grey slices on the decoder's grids, what they add to its layers' inputs and to its finest logits.

    `channels` are those of the features on the finest grid, on one of half that size, and so on.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int], num_classes: int) -> None:
        """widths: of the decoder's features, from the embeddings' own to the finest level's."""
        super().__init__()
        levels = len(widths) - 1
        self.encoders = nn.ModuleList(
            _two_convolutions(before, after) for before, after in zip((1, *channels), channels)
        )
        # On its way from the finest grid to the coarser ones; the layer `halvings` before the end reads there.
        self.additions = nn.ModuleList(
            _zero_convolution(channels[halvings], widths[levels - halvings]) for halvings in range(1, len(channels))
        )
        self.narrow = nn.Conv3d(widths[-1], channels[0], 1, bias=False)
        self.refine = _two_convolutions(channels[0], channels[0])
        self.head = _zero_convolution(channels[0], num_classes)

    def forward(self, grey: Tensor) -> list[Tensor]:
        """(N, 1, D, g, g) in -1..1 -> features of each grid, fine to coarse."""
        features: list[Tensor] = []
        for encoder in self.encoders:
            grey = encoder(F.max_pool3d(grey, (1, 2, 2)) if features else grey)
            features.append(grey)
        return features

    def add(self, g: Tensor, features: list[Tensor], halvings: int) -> Tensor:
        """The input of the layer whose grid is the finest one, halved so often, with what was seen there."""
        if halvings >= len(features):
            return g
        return g + self.additions[halvings - 1](features[halvings])

    def correct(self, narrowed: Tensor, features: list[Tensor]) -> Tensor:
        """`narrow` of the last layer's features, on the finest grid -> what is added to the logits there."""
        return self.head(self.refine(narrowed + features[0]))


def _two_convolutions(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(before, after, 3, padding=1, bias=False),
        nn.GroupNorm(after, after),
        nn.LeakyReLU(NEGATIVE_SLOPE),
        nn.Conv3d(after, after, 3, padding=1, bias=False),
        nn.GroupNorm(after, after),
        nn.LeakyReLU(NEGATIVE_SLOPE),
    )


def _zero_convolution(before: int, after: int) -> nn.Module:
    convolution = nn.Conv3d(before, after, 1)
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution
