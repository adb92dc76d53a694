"""The light residual 3-D decoder: up to four layers, each doubling the in-plane size of a stacked slice embedding.

Source of the formulas: docs/loss_and_decoder.md; the paper behind them is Bui et al., "SAM3D: Segment Anything Model
in Volumetric Medical Images", ISBI 2024, arXiv:2309.03493. The paper's public code projects with 1x1x1, upsamples with
"nearest" and has three heads of two convolutions; `DecoderConfig` names these differences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base.errors import InputError
from .card import DecoderConfig
from .detail import NEGATIVE_SLOPE, GreyDetail, cost_of_convolutions


class ResDualConv3d(nn.Module):
    """Residual dual convolution on (N, C, D, H, W).

    With phi(g) = IN(W2 * LeakyReLU(IN(W1 * g))):

    - shortcut "projection": y = LeakyReLU(phi(g) + IN(W0 * g)), the body of a decoder layer;
    - shortcut "identity":   y = g + phi(g), whose gradient is I + dphi/dg, so that it cannot vanish.

    W1 and W2 are 3x3x3; W0 is `projection_kernel` cubed, 3 by default. Convolutions have no bias, because the
    instance norm (IN) that follows would remove it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, shortcut: str = "projection", projection_kernel: int = 3
    ) -> None:
        super().__init__()
        if shortcut not in ("projection", "identity"):
            raise InputError(f"shortcut {shortcut!r} is unknown; use 'projection' or 'identity'.")
        if shortcut == "identity" and in_channels != out_channels:
            raise InputError(
                f"an identity shortcut cannot turn {in_channels} channels into {out_channels}; use 'projection'."
            )
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = _instance_norm(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = _instance_norm(out_channels)
        self.projection: nn.Module | None = None
        if shortcut == "projection":
            self.projection = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, projection_kernel, padding=projection_kernel // 2, bias=False),
                _instance_norm(out_channels),
            )

    def forward(self, g: Tensor) -> Tensor:
        phi = self.norm2(self.conv2(F.leaky_relu(self.norm1(self.conv1(g)), NEGATIVE_SLOPE)))
        if self.projection is None:
            return g + phi
        return F.leaky_relu(phi + self.projection(g), NEGATIVE_SLOPE)


def _instance_norm(channels: int) -> nn.Module:
    """Instance norm as a group norm of one channel a group, which unlike torch's own copies no channels_last tensor."""
    return nn.GroupNorm(channels, channels)


def _head(kind: str, channels: int, num_classes: int) -> nn.Module:
    if kind == "linear":
        return nn.Conv3d(channels, num_classes, 1)
    half = channels // 2
    return nn.Sequential(
        nn.Conv3d(channels, half, 3, padding=1, bias=False),
        _instance_norm(half),
        nn.LeakyReLU(NEGATIVE_SLOPE),
        nn.Conv3d(half, num_classes, 1),
    )


class Sam3dDecoder(nn.Module):
    """Stacked slice embeddings to class logits.

    forward: (N, channels[0], D, h, w) -> list of logits (N, num_classes, D, h * 2^l, w * 2^l) for the levels l = 1, 2
    up to `levels`, coarse to fine; the fourth has SAM's patch size of 16 undone. D is never resampled. With fewer
    `heads` than levels only the finest levels are given. Compute and memory are O(D H W).

    `detail`, a part that reads the grey slices, is not run here: `network.Network` adds its logits.
    """

    def __init__(
        self,
        num_classes: int,
        channels: Sequence[int] = (256, 128, 64, 32, 16),
        projection_kernel: int = 3,
        upsampling: str = "trilinear",
        heads: int = 4,
        levels: int = 4,
        head: str = "linear",
        detail: Sequence[int] = (),
        grey_channels: int = 1,
    ) -> None:
        super().__init__()
        self.config = DecoderConfig(
            num_classes,
            tuple(channels),
            projection_kernel,
            upsampling,
            heads,
            levels,
            head,
            tuple(detail),
            grey_channels,
        )
        self._first_head = max(0, levels - heads)
        widths = self.config.channels[: levels + 1]
        self.layers = nn.ModuleList(
            ResDualConv3d(before, after, projection_kernel=projection_kernel)
            for before, after in zip(widths, widths[1:])
        )
        self.heads = nn.ModuleList(_head(head, width, num_classes) for width in widths[1 + self._first_head :])
        self.detail = GreyDetail(detail, num_classes, grey_channels) if detail else None

    @classmethod
    def from_config(cls, config: DecoderConfig) -> Sam3dDecoder:
        return cls(**vars(config))

    def first_levels(self, levels: int) -> Sam3dDecoder:
        """A decoder that stops at an earlier level, with a copy of this one's weights."""
        decoder = Sam3dDecoder.from_config(dataclasses.replace(self.config, levels=levels))
        weights = self.state_dict()
        decoder.load_state_dict({key: weights[key] for key in decoder.state_dict()})
        return decoder

    @torch.no_grad()
    def scale_finest_logits(self, factor: float) -> None:
        """Multiply what the last head gives, by way of its weights."""
        head = self.heads[-1]
        last = head[-1] if isinstance(head, nn.Sequential) else head
        for parameter in last.parameters():
            parameter.mul_(factor)

    def forward(self, embeddings: Tensor, only_finest: bool = False) -> list[Tensor]:
        """`only_finest`: a list of the finest level's logits alone, which is all that inference needs."""
        channels = self.config.channels[0]
        if embeddings.ndim != 5 or embeddings.shape[1] != channels:
            raise InputError(
                f"embeddings of shape {tuple(embeddings.shape)} do not fit; the decoder takes (N, {channels}, D, h, w)."
            )
        g = self._in_fast_layout(embeddings)
        finest = len(self.layers) - 1
        first_wanted = finest if only_finest else self._first_head
        logits = []
        for level, layer in enumerate(self.layers):
            g = layer(g)
            if level >= first_wanted:
                logits.append(self._logits(g, self.heads[level - self._first_head]))
            if level < finest:
                g = self._upsample(g)
        return logits

    def cost(self, depth: int, side: int) -> float:
        """As `cost_of_convolutions`, for a window of so many slices of side x side tokens; of the heads the finest."""
        places = [depth * side**2 * 4**level for level in range(len(self.layers))]
        of_head = places[-1] * (4 if self.config.head == "convolutional" else 1)
        return sum(map(cost_of_convolutions, self.layers, places)) + cost_of_convolutions(self.heads[-1], of_head)

    def _in_fast_layout(self, tensor: Tensor) -> Tensor:
        """On a CPU channels_last is up to 1.3 times as fast at inference, and as slow in training.

        Its group norm, whose variance is a difference of means of squares, is accurate enough only for half precision.
        """
        fast = not self.training and tensor.dtype != torch.float32
        return tensor.contiguous(memory_format=torch.channels_last_3d if fast else torch.contiguous_format)

    def _logits(self, g: Tensor, head: nn.Module) -> Tensor:
        if self.config.head == "convolutional":
            return head(self._upsample(g))
        # A linear head mixes channels only and U2's weights sum to 1, so head(U2(g)) = U2(head(g)): the widest feature
        # map, at the output's own size, need not be made.
        # Planes of a few classes are resized faster when each class is contiguous.
        return self._upsample(head(g).contiguous())

    def _upsample(self, g: Tensor) -> Tensor:
        """U2: double H and W and leave D alone.

        With D's factor at 1, trilinear is bilinear in each slice, and torch's 2-D kernels are twice as fast.
        """
        slices = g.transpose(1, 2).flatten(0, 1)
        mode, corners = ("bilinear", False) if self.config.upsampling == "trilinear" else ("nearest", None)
        doubled = F.interpolate(slices, scale_factor=2, mode=mode, align_corners=corners)
        return doubled.unflatten(0, (len(g), -1)).transpose(1, 2)
