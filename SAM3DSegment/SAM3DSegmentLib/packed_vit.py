"""SAM's image encoder in the form in which it runs fastest, on every processor; the weights cannot be trained any more.

What differs from `segment_anything` changes nothing but rounding:

- Linear layers and norms see real tokens only. Where windows stick out of the image, q, k and v of the empty places are
  the layer's bias, because upstream pads with zeros.
- Positions: q.k * scale + q.R_row + q.R_column. In a "folded" attention they are part of a longer dot product,
  [q * scale, q.R_row, q.R_column] with [k, onehot(row), onehot(column)], so that any attention kernel can be used. In an
  "added" one they are written into the logits before q.k is added, which spares two thirds of the multiplications of
  attention over a whole image of 1024 pixels.
- The kernel is "fused" (torch's `scaled_dot_product_attention`) or "chunked": plain matrix products of as many logits as
  stay in the cache. Which is faster depends on the processor: see `AttentionPlan.best`.
- Linear layers on the CPU keep their weights in oneDNN's own order, with GELU or the residual sum in the same pass.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .card import EMBEDDING_CHANNELS, PATCH_SIZE
from .devices import cpu_has_amx

CHUNK_BYTES = 2**21  # of logits at a time; about a core's second-level cache
# Logits are rounded to the encoder's type. A block whose logits are expected to be larger than this (root of the mean
# square) keeps them, and q and k, in float32: bf16 has 8 bits, so 16 is rounded by up to 1/16, and exp(1/16) is 6 % off.
LARGEST_ROUNDED_LOGITS = 8.0


@dataclass(frozen=True)
class AttentionPlan:
    """How attention is computed: kernel "fused" or "chunked"; positions folded over the whole image, or added."""

    kernel: str
    fold_global: bool
    packed_linear: bool

    @classmethod
    def best(cls, device: torch.device, dtype: torch.dtype) -> AttentionPlan:
        """The fastest on this processor, as measured (docs/benchmarks.md)."""
        fused = device.type != "cpu" or (dtype != torch.float32 and cpu_has_amx())
        return cls(
            kernel="fused" if fused else "chunked",
            fold_global=fused,
            packed_linear=device.type == "cpu" and has_packed_linear(),
        )

    def __str__(self) -> str:
        positions = "folded" if self.fold_global else "folded in windows, added over the whole image"
        return f"{self.kernel} attention, positions {positions}, {'packed' if self.packed_linear else 'plain'} linear layers"


class PackedVit:
    """`ImageEncoderViT` for inference: slices (B, 3, S, S) -> (B, 256, S/16, S/16), both of the type `dtype`."""

    def __init__(
        self, vit: nn.Module, device: torch.device, dtype: torch.dtype, plan: AttentionPlan | None = None
    ) -> None:
        self.plan = plan or AttentionPlan.best(device, dtype)
        self._device, self._dtype = device, dtype
        position = vit.pos_embed.detach()
        self._side, self._width = position.shape[1], position.shape[-1]
        tokens = self._side**2
        pack = functools.partial(_Linear, rows=tokens, device=device, dtype=dtype, packed=self.plan.packed_linear)
        patch = vit.patch_embed.proj
        self._patch = pack(patch.weight.flatten(1), patch.bias)
        self._position = position.reshape(tokens, self._width).to(device, dtype)
        spaces: dict[Any, _Workspace] = {}
        self._blocks = [_Block(block, self._side, self.plan, pack, spaces) for block in vit.blocks]
        projection, norm1, convolution, norm2 = vit.neck
        self._neck = pack(projection.weight.flatten(1), None)
        self._neck_norms = [_Norm(norm, device, dtype) for norm in (norm1, norm2)]
        self._convolution = convolution.weight.detach().to(device, dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, slices: Tensor) -> Tensor:
        if self._device.type == "cpu":  # one at a time stays in the cache, and is no slower
            return torch.cat([self._encode(one) for one in slices.split(1)])
        return self._encode(slices)

    def _encode(self, slices: Tensor) -> Tensor:
        batch, side = len(slices), self._side
        patches = slices.to(self._device, self._dtype).view(batch, 3, side, PATCH_SIZE, side, PATCH_SIZE)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch * side * side, -1)
        x = self._patch(patches, add=self._position.repeat(batch, 1))
        for block in self._blocks:
            x = block(x, batch)
        norm1, norm2 = self._neck_norms
        features = norm1(self._neck(x)).view(batch, side, side, -1).permute(0, 3, 1, 2)
        features = F.conv2d(features, self._convolution, padding=1)
        return norm2(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class _Linear:
    """(rows, in) -> (rows, out), with GELU of it, or the sum with another tensor, in the same pass where packed."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, rows: int, device: torch.device, dtype: torch.dtype, packed: bool
    ) -> None:
        self.bias = None if bias is None else bias.detach().to(device, dtype)
        self._weight = weight.detach().to(device, dtype).contiguous()
        self._packed = packed
        if packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, rows)

    def __call__(self, x: Tensor, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        if not self._packed:
            y = F.linear(x, self._weight, self.bias)
            y = F.gelu(y) if gelu else y
            return y if add is None else y.add_(add)
        if add is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, add, self._weight, self.bias, "add")
        activation, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, activation, [], algorithm)


@functools.cache
def has_packed_linear() -> bool:
    """True where torch's own, unpublished oneDNN operations are there and give what the public ones give."""
    x, weight, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    device, dtype = torch.device("cpu"), torch.float32
    try:
        found = _Linear(weight, bias, 3, device, dtype, packed=True)(x, gelu=True)
        summed = _Linear(weight, bias, 3, device, dtype, packed=True)(x, add=found)
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = F.gelu(F.linear(x, weight, bias))
    return torch.allclose(found, expected, atol=1e-5) and torch.allclose(
        summed, F.linear(x, weight, bias) + expected, atol=1e-5
    )


class _Norm:
    """Layer norm over the last axis."""

    def __init__(self, norm: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._weight = norm.weight.detach().to(device, dtype)
        self._bias = norm.bias.detach().to(device, dtype)
        self._eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class _Workspace:
    """Tensors that every block of one shape of attention uses in turn: q, k and v, with their constant parts filled."""

    def __init__(
        self, items: int, size: int, head_dim: int, folded: bool, fused: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        tokens = size * size
        width = -(-(head_dim + 2 * size) // 32) * 32 if folded else head_dim
        self.q = torch.zeros(items, tokens, width, device=device, dtype=dtype)
        self.k = torch.zeros_like(self.q)
        # Fused kernels want q, k and v of one width.
        self.v = torch.zeros(items, tokens, width if fused else head_dim, device=device, dtype=dtype)
        if folded:
            place = torch.arange(tokens, device=device)
            self.k[:, place, head_dim + place // size] = 1
            self.k[:, place, head_dim + size + place % size] = 1
        if not fused:
            self.out = torch.empty_like(self.v)
            rows = max(1, min(size, CHUNK_BYTES // (size * tokens * dtype.itemsize)))  # of the image, per chunk
            self.chunk_tokens = rows * size
            self.group = max(1, min(items, CHUNK_BYTES // (tokens * tokens * dtype.itemsize))) if rows == size else 1
            self.logits = torch.empty(self.group, self.chunk_tokens, tokens, device=device, dtype=dtype)
            self.shares = torch.empty_like(self.logits)


class _Block:
    """One transformer block on tokens (B * side * side, C)."""

    def __init__(
        self, block: nn.Module, side: int, plan: AttentionPlan, pack: Any, spaces: dict[Any, _Workspace]
    ) -> None:
        attention, mlp = block.attn, block.mlp
        device, dtype = pack.keywords["device"], pack.keywords["dtype"]
        self._norm1, self._norm2 = (_Norm(norm, device, dtype) for norm in (block.norm1, block.norm2))
        self._projection = pack(attention.proj.weight, attention.proj.bias)
        self._widen, self._narrow = (pack(layer.weight, layer.bias) for layer in (mlp.lin1, mlp.lin2))
        scale = torch.ones(3, 1, device=attention.qkv.weight.device)
        scale[0] = attention.scale
        scale = scale.expand(3, attention.proj.in_features).reshape(-1)
        self._qkv = pack(attention.qkv.weight.detach() * scale[:, None], attention.qkv.bias.detach() * scale)
        self._side, self._heads = side, attention.num_heads
        self._window = block.window_size or side
        self._fused = plan.kernel == "fused"
        self._folded = bool(block.window_size) or plan.fold_global
        rounded = dtype == torch.float32 or expected_logits(block, self._window) <= LARGEST_ROUNDED_LOGITS
        self._dtype = dtype if rounded else torch.float32
        self._tables = [
            _by_query_and_key(table.detach(), self._window).div(attention.scale).to(device, self._dtype)
            for table in (attention.rel_pos_h, attention.rel_pos_w)
        ]
        self._spaces = spaces

    def __call__(self, x: Tensor, batch: int) -> Tensor:
        attended = self._attend(self._qkv(self._norm1(x)), batch)
        x = self._projection(attended, add=x)
        return self._narrow(self._widen(self._norm2(x), gelu=True), add=x)

    def _attend(self, qkv: Tensor, batch: int) -> Tensor:
        """(B * side * side, 3 C) -> (B * side * side, C)."""
        side, window, heads = self._side, self._window, self._heads
        head_dim = qkv.shape[-1] // 3 // heads
        across = -(-side // window)  # windows along each axis
        qkv = qkv.view(batch, side, side, -1)
        if across * window > side:
            padded = self._qkv.bias.expand(batch, across * window, across * window, -1).contiguous()
            padded[:, :side, :side] = qkv
            qkv = padded
        parts = qkv.view(batch, across, window, across, window, 3, heads, head_dim).permute(5, 0, 1, 3, 6, 2, 4, 7)
        space = self._workspace(batch * across * across * heads, head_dim)
        for whole, part in zip((space.q, space.k, space.v), parts):
            whole[..., :head_dim].view(part.shape).copy_(part)
        rows, columns = self._positions(space.q[..., :head_dim])
        if self._folded:
            grid = space.q.view(-1, window, window, space.q.shape[-1])
            grid[..., head_dim : head_dim + window] = rows
            grid[..., head_dim + window : head_dim + 2 * window] = columns
        if self._fused:
            by_head = [part.unflatten(0, (-1, heads)) for part in (space.q, space.k, space.v)]
            out = F.scaled_dot_product_attention(*by_head, scale=1.0)[..., :head_dim]
        else:
            out = _attend_in_chunks(space, None if self._folded else (rows, columns))
        out = out.reshape(batch, across, across, heads, window, window, head_dim).permute(0, 1, 4, 2, 5, 3, 6)
        out = out.reshape(batch, across * window, across * window, -1)[:, :side, :side]
        return out.reshape(batch * side * side, -1).to(qkv.dtype)

    def _positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """q (items, tokens, head_dim) -> its products with the row and the column tables (items, row, column, key)."""
        by_row, by_column = self._tables
        size = self._window
        grid = q.unflatten(1, (size, size))
        rows = torch.bmm(grid.transpose(0, 1).reshape(size, -1, q.shape[-1]), by_row)
        columns = torch.bmm(grid.permute(2, 0, 1, 3).reshape(size, -1, q.shape[-1]), by_column)
        return rows.view(size, -1, size, size).transpose(0, 1), columns.view(size, -1, size, size).permute(1, 2, 0, 3)

    def _workspace(self, items: int, head_dim: int) -> _Workspace:
        key = (items, self._window, head_dim, self._folded, self._dtype)
        if key not in self._spaces:
            device = self._tables[0].device
            self._spaces[key] = _Workspace(
                items, self._window, head_dim, self._folded, self._fused, device, self._dtype
            )
        return self._spaces[key]


def _attend_in_chunks(space: _Workspace, positions: tuple[Tensor, Tensor] | None) -> Tensor:
    """softmax(q k^T + positions) v, a chunk of the logits at a time."""
    q, k, v, out = space.q, space.k.transpose(1, 2), space.v, space.out
    items, tokens, _ = q.shape
    for i in range(0, items, space.group):
        some = slice(i, i + space.group)
        for t in range(0, tokens, space.chunk_tokens):
            queries = q[some, t : t + space.chunk_tokens]
            logits = space.logits[: len(queries), : queries.shape[1]]
            shares = space.shares[: len(queries), : queries.shape[1]]
            if positions is None:
                torch.bmm(queries, k[some], out=logits)
            else:
                rows, columns = positions
                size = rows.shape[-1]
                image_rows = slice(t // size, (t + space.chunk_tokens) // size)
                grid = logits.view(len(queries), -1, size, size, size)
                torch.add(rows[some, image_rows, :, :, None], columns[some, image_rows, :, None], out=grid)
                torch.baddbmm(logits, queries, k[some], out=logits)
            torch.softmax(logits, -1, out=shares)
            torch.bmm(shares, v[some], out=out[some, t : t + space.chunk_tokens])
    return out


def _by_query_and_key(table: Tensor, size: int) -> Tensor:
    """A table of relative positions (2 * size - 1, head_dim) -> (query, head_dim, key)."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1].transpose(1, 2).contiguous()


@torch.no_grad()
def expected_logits(block: nn.Module, size: int) -> float:
    """Root of the mean square of a block's attention logits, from its weights alone; the largest of its heads.

    For tokens that the layer norm leaves with independent entries of mean 0 and variance 1.
    """
    attention, norm = block.attn, block.norm1
    heads, width = attention.num_heads, attention.proj.in_features
    weight = attention.qkv.weight[: 2 * width].float()
    bias = attention.qkv.bias[: 2 * width].float()
    spread = (weight * norm.weight).view(2, heads, -1, width)
    mean = (weight @ norm.bias + bias).view(2, heads, -1, 1)
    q, k = spread @ spread.transpose(-1, -2) + mean @ mean.transpose(-1, -2)  # second moments (heads, dim, dim)
    content = (q * k).sum((1, 2)) * attention.scale**2
    tables = torch.stack((attention.rel_pos_h, attention.rel_pos_w)).float()
    position = torch.einsum("tnd,hde,tne->htn", tables, q, tables).mean(2).sum(1)
    return math.sqrt((content + position).max().item())
