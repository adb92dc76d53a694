"""An optional part of the decoder that reads the grey slices beside the embeddings: an addition of this project.

A token stands for 16 x 16 pixels of an encoder's slice, so the embeddings alone say little of where exactly a border
runs. Here a small 3-D U-Net (Cicek et al., MICCAI 2016, arXiv:1606.06650; normalised as in nnU-Net, arXiv:1809.10486)
reads the grey values themselves, on the slices' own pixels (`preparation.SquareFit.grid`). Its logits are added to
those that the embeddings gave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.01  # of every LeakyReLU
# Multiplications that take as long as what comes with each value that a convolution gives: norm, activation, copies.
# Fitted to the times of all convolutions on a CPU: 280 in bfloat16, 140 in float32.
OF_A_VALUE = 250
LEAST_DEPTH = 3  # slices of the coarsest grid, so that its convolutions see something


class GreyDetail(nn.Module):
    """Grey slices of M channels (N, M, D, h, w) in 0..255 -> what is added to the logits (N, num_classes, D, h, w).

    Of any size. `channels` are those of the features on the slices' own grid, on one of half its depth, height and
    width, and so on.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, grey_channels: int = 1) -> None:
        super().__init__()
        pairs = list(zip(channels, channels[1:]))
        self.least_depth = (LEAST_DEPTH - 1) * 2 ** len(pairs) + 1  # slices; fewer take as long
        self.first = _two_convolutions(grey_channels, channels[0])
        self.down = nn.ModuleList(_two_convolutions(fine, coarse, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(_Upward(coarse, fine) for fine, coarse in reversed(pairs))
        self.head = nn.Conv3d(channels[0], num_classes, 1)

    def forward(self, grey: Tensor) -> Tensor:
        depth = grey.shape[2]
        missing = max(0, self.least_depth - depth)
        last = grey[:, :, -1:].expand(-1, -1, missing, -1, -1)
        features = [self.first(torch.cat([grey, last], dim=2) / 127.5 - 1)]
        for layer in self.down:
            features.append(layer(features[-1]))
        g = features.pop()
        for layer in self.up:
            g = layer(g, features.pop())
        return self.head(g[:, :, :depth])

    def cost(self, depth: int, grid: tuple[int, int]) -> float:
        """As `cost_of_convolutions`, for so many slices of this grid."""
        sizes = [(max(depth, self.least_depth), *grid)]
        for _ in self.down:
            sizes.append(tuple(-(-length // 2) for length in sizes[-1]))  # type: ignore[arg-type]
        places = [math.prod(size) for size in sizes]
        parts = [self.first, *self.down, *reversed(self.up)]
        of_parts = sum(map(cost_of_convolutions, parts, [*places, *places[:-1]]))
        return of_parts + cost_of_convolutions(self.head, depth * math.prod(grid))


def cost_of_convolutions(module: nn.Module, places: int) -> float:
    """Multiplications of all convolutions in a module that gives so many places, and what else takes as long as some.

    By it the time that parts of the work take is compared.
    """
    cost = 0.0
    for part in module.modules():
        if isinstance(part, nn.ConvTranspose3d):  # each place of the input gives several
            cost += places * (part.weight.numel() / math.prod(part.stride) + part.out_channels * OF_A_VALUE)
        elif isinstance(part, nn.Conv3d):
            cost += places * (part.weight.numel() + part.out_channels * OF_A_VALUE)
    return cost


class _Upward(nn.Module):
    """To twice the size, or one less where that was odd, and with the finer features there through two convolutions."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose3d(before, after, 2, stride=2, bias=False)
        self.convolutions = _two_convolutions(2 * after, after)

    def forward(self, g: Tensor, finer: Tensor) -> Tensor:
        depth, height, width = finer.shape[2:]
        enlarged = self.enlarge(g)[:, :, :depth, :height, :width]
        return self.convolutions(torch.cat([enlarged, finer], dim=1))


def _two_convolutions(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(after, after),
        nn.LeakyReLU(NEGATIVE_SLOPE),
        nn.Conv3d(after, after, 3, padding=1, bias=False),
        nn.GroupNorm(after, after),
        nn.LeakyReLU(NEGATIVE_SLOPE),
    )
