"""SAM's image encoder in the form in which it runs fastest, on every processor; its weights are not to be trained.

What differs from `segment_anything` changes nothing but rounding:

- Linear layers and norms see real tokens only, and only those are queries. Where windows stick out of the image, k
  and v of the empty places are the layer's bias, because upstream pads with zeros.
- Positions: the logits are q.k * scale + q.R_row + q.R_column. "Folded", they are one product of longer vectors,
  [q * scale, q.R_row, q.R_column] and [k, onehot(row), onehot(column)], that any attention kernel can take. "Added",
  they are written into the logits before q.k is added to them, which spares two thirds of the multiplications of
  attention over a whole image of 1024 pixels.
- The kernel is "fused" (`scaled_dot_product_attention`) or "chunked": plain matrix products, of as many logits at a
  time as stay in the cache. Which is faster depends on the processor; see `AttentionMethod.best`.
- Linear layers on the CPU keep their weights in oneDNN's own order, and GELU or the residual sum in the same pass.
- What all keys of a query have in common in their logits is left out, because softmax forgets it and rounding does not.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from ..card import PATCH_SIZE
from .attention import Attention
from .layers import AttentionMethod, Frame, Linear, Norm, Upstream

# Part of the name under which an embedding is kept: to be raised with every change of what is computed beyond rounding.
COMPUTATION = 1
TOKENS_AT_ONCE = 2048  # on a CPU; more are no faster, fewer leave small images waiting for Python


class PackedVit:
    """`ImageEncoderViT` for inference: slices (B, 3, S, S) -> (B, 256, S/16, S/16) of type `dtype`, on `device`.

    Its buffers are reused in each call, so one object must not compute in two threads at a time.
    """

    def __init__(
        self, vit: Upstream, device: torch.device, dtype: torch.dtype, method: AttentionMethod | None = None
    ) -> None:
        self._side: int = vit.pos_embed.shape[1]
        self._frame = frame = Frame(device, dtype, method or AttentionMethod.best(device, dtype), self._side)
        patch, (projection, norm1, convolution, norm2) = vit.patch_embed.proj, vit.neck
        self._patch = Linear(patch.weight.flatten(1), patch.bias, frame)
        self._positions = frame.cast(vit.pos_embed.flatten(0, 2))
        self._blocks = [_Block(block, frame) for block in vit.blocks]
        self._neck = Linear(projection.weight.flatten(1), None, frame)
        self._norm1, self._norm2 = Norm(norm1, frame), Norm(norm2, frame)
        self._convolution = frame.cast(convolution.weight).contiguous(memory_format=torch.channels_last)

    @property
    def at_once(self) -> int:
        """Slices that a CPU computes together."""
        return max(1, TOKENS_AT_ONCE // self._side**2)

    @torch.no_grad()
    def __call__(self, slices: Tensor) -> Tensor:
        at_once = self.at_once if self._frame.device.type == "cpu" else len(slices)
        try:
            return torch.cat([self._encode(part) for part in slices.split(at_once)])
        except RuntimeError:
            self._frame.buffers.clear()  # memory may have run out: half the slices shall need half of it
            raise

    def _encode(self, slices: Tensor) -> Tensor:
        batch, side = len(slices), self._side
        patches = self._frame.cast(slices).reshape(batch, 3, side, PATCH_SIZE, side, PATCH_SIZE)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch * side * side, -1)
        x = self._patch(patches, add=self._positions.repeat(batch, 1))
        for block in self._blocks:
            x = block(x)
        features = self._norm1(self._neck(x)).view(batch, side, side, -1).permute(0, 3, 1, 2)
        features = F.conv2d(features, self._convolution, padding=1)
        return self._norm2(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class _Block:
    """One transformer block on tokens (B * side * side, C)."""

    def __init__(self, block: Upstream, frame: Frame) -> None:
        attention, mlp = block.attn, block.mlp
        self._norm1, self._norm2 = Norm(block.norm1, frame), Norm(block.norm2, frame)
        self._attention = Attention(block, frame)
        self._projection = Linear(attention.proj.weight, attention.proj.bias, frame)
        self._widen = Linear(mlp.lin1.weight, mlp.lin1.bias, frame)
        self._narrow = Linear(mlp.lin2.weight, mlp.lin2.bias, frame)
        adapter = getattr(mlp, "adapter", None)
        self._adapter = None if adapter is None else copy.deepcopy(adapter).to(frame.device, frame.dtype)
        self._side = frame.side

    def __call__(self, x: Tensor) -> Tensor:
        x = self._projection(self._attention(self._norm1(x)), add=x)
        normed = self._norm2(x)
        y = self._narrow(self._widen(normed, gelu=True), add=x)
        if self._adapter is None:
            return y
        return y + self._adapter(normed.view(-1, self._side, self._side, normed.shape[1])).flatten(0, 2)
