"""The layer that SAM-Med2D adds to each block of SAM's encoder (arXiv:2308.16184, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Upstream

_REDUCTION = 4  # of the width, between the two layers that weigh the channels


class Adapter(nn.Module):
    """Tokens (B, h, w, C), h and w even -> the same shape: LN(x + up(down(x * s(x)))), with ReLU after down and up.

    s = sigmoid(W2 relu(W1 mean(x))) weighs the channels by their mean over the image; `down` and `up` are convolutions
    with a stride of 2 (OpenGVLab/SAM-Med2D, segment_anything/modeling/image_encoder.py, `Adapter_Layer`).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, width // _REDUCTION, bias=False)
        self.widen = nn.Linear(width // _REDUCTION, width, bias=False)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.widen(F.relu(self.narrow(x.mean((1, 2))))))
        scaled = (x * scale[:, None, None]).permute(0, 3, 1, 2)
        return self.norm(x + F.relu(self.up(F.relu(self.down(scaled)))).permute(0, 2, 3, 1))


class AdaptedMlp(nn.Module):
    """A block's MLP with an adapter beside it: both read the normed tokens, and the block adds both to its own."""

    def __init__(self, mlp: Upstream, width: int) -> None:
        super().__init__()
        self.lin1, self.act, self.lin2 = mlp.lin1, mlp.act, mlp.lin2
        self.adapter = Adapter(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x))) + self.adapter(x)
