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

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base.devices import cpu_has_amx, resolve_device, resolve_precision
from ..card import PATCH_SIZE

Upstream = Any  # a module of segment_anything, which has no types

TOKENS_AT_ONCE = 2048  # on a CPU; more are no faster, fewer leave small images waiting for Python
CHUNK_BYTES = 2**21  # of logits; half or twice as much is no faster (with 1 MB of second-level cache)
# A block whose logits are to be expected so large (`expected_logits`) that rounding them to the encoder's type would
# change them by more than this computes its attention in float32. For bf16 the limit is a logit of 2.5: at 1.4 rounding
# did not raise the encoder's error, at 3.0 it did from 1.3 % to 1.5 %.
LARGEST_ROUNDING = 0.02


@dataclass(frozen=True)
class AttentionMethod:
    """How attention is computed: by which kernel, where positions are folded, and whether linear layers are packed."""

    kernel: str  # "fused" or "chunked"
    fold_global: bool  # over the whole image too, not in windows only
    packed_linear: bool

    @classmethod
    def best(cls, device: torch.device, dtype: torch.dtype) -> AttentionMethod:
        """The fastest on this device, as far as it was measured; `bench encoder` measures it."""
        fused = device.type != "cpu" or (dtype != torch.float32 and cpu_has_amx())
        packed = device.type == "cpu" and has_packed_linear()
        return cls(kernel="fused" if fused else "chunked", fold_global=fused, packed_linear=packed)

    def __str__(self) -> str:
        folded = "folded" if self.fold_global else "folded in windows and added over whole images"
        linear = "packed" if self.packed_linear else "plain"
        return f"{self.kernel} attention, positions {folded}, {linear} linear layers"


def attention_method() -> str:
    """What the encoder does on this computer's automatic device and precision, in words."""
    device = resolve_device("auto")
    return str(AttentionMethod.best(device, resolve_precision("auto", device)))


class PackedVit:
    """`ImageEncoderViT` for inference: slices (B, 3, S, S) -> (B, 256, S/16, S/16) of type `dtype`, on `device`.

    Its buffers are used anew in each call, so one object must not compute in two threads at a time.
    """

    def __init__(
        self, vit: Upstream, device: torch.device, dtype: torch.dtype, plan: AttentionMethod | None = None
    ) -> None:
        self._side: int = vit.pos_embed.shape[1]
        self._frame = frame = _Frame(device, dtype, plan or AttentionMethod.best(device, dtype), self._side)
        patch, (projection, norm1, convolution, norm2) = vit.patch_embed.proj, vit.neck
        self._patch = _Linear(patch.weight.flatten(1), patch.bias, frame)
        self._positions = frame.place(vit.pos_embed.flatten(0, 2))
        self._blocks = [_Block(block, frame) for block in vit.blocks]
        self._neck = _Linear(projection.weight.flatten(1), None, frame)
        self._norm1, self._norm2 = _Norm(norm1, frame), _Norm(norm2, frame)
        self._convolution = frame.place(convolution.weight).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, slices: Tensor) -> Tensor:
        at_once = max(1, TOKENS_AT_ONCE // self._side**2) if self._frame.device.type == "cpu" else len(slices)
        return torch.cat([self._encode(part) for part in slices.split(at_once)])

    def _encode(self, slices: Tensor) -> Tensor:
        batch, side = len(slices), self._side
        patches = self._frame.place(slices).reshape(batch, 3, side, PATCH_SIZE, side, PATCH_SIZE)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch * side * side, -1)
        x = self._patch(patches, add=self._positions.repeat(batch, 1))
        for block in self._blocks:
            x = block(x)
        features = self._norm1(self._neck(x)).view(batch, side, side, -1).permute(0, 3, 1, 2)
        features = F.conv2d(features, self._convolution, padding=1)
        return self._norm2(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


@dataclass
class _Frame:
    """What all parts of one encoder have in common: where and how they compute, on images of side x side tokens."""

    device: torch.device
    dtype: torch.dtype
    plan: AttentionMethod
    side: int
    buffers: dict[tuple[int, ...], _Buffers] = field(default_factory=dict)

    def place(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, self.dtype)


class _Linear:
    """(tokens, in) -> (tokens, out), or GELU of it, or the sum with another tensor."""

    def __init__(self, weight: Tensor, bias: Tensor | None, frame: _Frame) -> None:
        self._bias = None if bias is None else frame.place(bias)
        self._weight = frame.place(weight).contiguous()
        self._packed = frame.plan.packed_linear
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, frame.side**2)

    def __call__(self, x: Tensor, gelu: bool = False, add: Tensor | None = None) -> Tensor:
        if not self._packed:
            y = F.linear(x, self._weight, self._bias)
            y = F.gelu(y) if gelu else y
            return y if add is None else y.add_(add)
        if add is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, add, self._weight, self._bias, "add")
        activation, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, activation, [], algorithm)


@functools.cache
def has_packed_linear() -> bool:
    """True where torch's oneDNN operations, which it does not publish, are there and agree with those that it does."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((4, 8), (8, 8), (8,)))
    cpu, kinds = torch.device("cpu"), (AttentionMethod("chunked", False, packed) for packed in (True, False))
    try:
        packed, plain = (_Linear(weight, bias, _Frame(cpu, torch.float32, plan, side=2)) for plan in kinds)
        pairs = [
            (packed(x), plain(x)),
            (packed(x, gelu=True), plain(x, gelu=True)),
            (packed(x, add=x), plain(x, add=x)),
        ]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(found, expected, atol=1e-5) for found, expected in pairs)


class _Norm:
    """Layer norm over the last axis."""

    def __init__(self, norm: Upstream, frame: _Frame) -> None:
        self._weight, self._bias = frame.place(norm.weight), frame.place(norm.bias)
        self._eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class _Block:
    """One transformer block on tokens (B * side * side, C)."""

    def __init__(self, block: Upstream, frame: _Frame) -> None:
        attention, mlp = block.attn, block.mlp
        self._norm1, self._norm2 = _Norm(block.norm1, frame), _Norm(block.norm2, frame)
        self._attention = _Attention(block, frame)
        self._projection = _Linear(attention.proj.weight, attention.proj.bias, frame)
        self._widen = _Linear(mlp.lin1.weight, mlp.lin1.bias, frame)
        self._narrow = _Linear(mlp.lin2.weight, mlp.lin2.bias, frame)

    def __call__(self, x: Tensor) -> Tensor:
        x = self._projection(self._attention(self._norm1(x)), add=x)
        return self._narrow(self._widen(self._norm2(x), gelu=True), add=x)


class _Attention:
    """Attention of all heads in windows, or over the whole image: (B * side * side, C) -> the same shape."""

    def __init__(self, block: Upstream, frame: _Frame) -> None:
        attention = block.attn
        self._heads: int = attention.num_heads
        self._head_dim = attention.proj.in_features // self._heads
        self._size = block.window_size or frame.side  # tokens along each axis that attend to one another
        self._frame = frame
        self._folded = frame.plan.fold_global or self._size != frame.side
        weight, bias = _scaled_and_centred(block)
        self._qkv = _Linear(weight, bias, frame)
        rounding = expected_logits(block) * torch.finfo(frame.dtype).eps
        self._dtype = frame.dtype if rounding <= LARGEST_ROUNDING else torch.float32
        # Of a token in an empty place: 3 x (heads, 1, head_dim), the same for all.
        self._empty = bias.view(3, self._heads, 1, self._head_dim).to(frame.device, self._dtype)
        self._tables = [
            _by_query_and_key(table.detach(), self._size).to(frame.device, self._dtype)
            for table in (attention.rel_pos_h / attention.scale, attention.rel_pos_w / attention.scale)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        side = self._frame.side
        qkv = self._qkv(x).view(-1, side, side, 3, self._heads, self._head_dim)
        attended = x.new_empty(len(qkv), side, side, self._heads, self._head_dim)
        # Windows that stick out of the image have fewer queries than the others, and are computed apart from them.
        for rows, height in self._bands():
            for columns, width in self._bands():
                grid = attended[:, rows, columns].unflatten(2, (-1, width)).unflatten(1, (-1, height))
                by_window = grid.permute(0, 1, 3, 5, 2, 4, 6)  # (B, down, across, heads, height, width, head_dim)
                by_window.copy_(self._attend(qkv[:, rows, columns], height, width).view(by_window.shape))
        return attended.view(len(x), -1)

    def _bands(self) -> list[tuple[slice, int]]:
        """Along one axis of the image: the whole windows, and what is left; with a window's number of tokens."""
        whole = self._frame.side // self._size * self._size
        bands = [(slice(0, whole), self._size), (slice(whole, self._frame.side), self._frame.side - whole)]
        return [(place, length) for place, length in bands if place.start < place.stop]

    def _attend(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """(B, rows, columns, 3, heads, head_dim) -> (items, height * width, head_dim), one item for a head of a window.

        A window's queries are its height x width tokens; its keys are those and its empty places.
        """
        grid = qkv.unflatten(2, (-1, width)).unflatten(1, (-1, height)).permute(5, 0, 1, 3, 6, 2, 4, 7)
        buffers = self._buffers(grid[0].numel() // (height * width * self._head_dim), height, width)
        q, k, v = grid
        buffers.q[..., : self._head_dim].view(q.shape).copy_(q)
        self._place_keys(buffers.k, k, self._empty[1])
        self._place_keys(buffers.v, v, self._empty[2])
        positions = self._positions(buffers.q[..., : self._head_dim], height, width)
        if self._folded:
            buffers.fold(*positions)
        if self._frame.plan.kernel == "chunked":
            return _attend_in_chunks(buffers, None if self._folded else positions)
        q, k, v = (part.unflatten(0, (-1, self._heads)) for part in (buffers.q, buffers.k, buffers.v))
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., : self._head_dim].flatten(0, 1)

    def _place_keys(self, buffer: Tensor, values: Tensor, empty: Tensor) -> None:
        """(..., heads, height, width, head_dim) into a buffer (items, size * size, >= head_dim), and what is around."""
        *windows, height, width, head_dim = values.shape
        grid = buffer[..., :head_dim].view(*windows, self._size, self._size, head_dim)
        grid[..., :height, :width, :] = values
        grid[..., :height, width:, :] = empty[:, None]
        grid[..., height:, :, :] = empty[:, None]

    def _positions(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """q.R_row and q.R_column of every query, each (items, query's row, query's column, key's row or column)."""
        size = self._size
        grid = q.unflatten(1, (height, width))
        of_rows, of_columns = self._tables
        rows = torch.bmm(grid.permute(1, 0, 2, 3).reshape(height, -1, self._head_dim), of_rows[:height])
        columns = torch.bmm(grid.permute(2, 0, 1, 3).reshape(width, -1, self._head_dim), of_columns[:width])
        return (
            rows.view(height, -1, width, size).permute(1, 0, 2, 3),
            columns.view(width, -1, height, size).permute(1, 2, 0, 3),
        )

    def _buffers(self, items: int, height: int, width: int) -> _Buffers:
        """Those of this shape, which all blocks use in turn."""
        key = (items, height, width, self._size, self._dtype.itemsize)
        if key not in self._frame.buffers:
            self._frame.buffers[key] = _Buffers(
                items, (height, width), self._size, self._head_dim, self._folded, self._frame, self._dtype
            )
        return self._frame.buffers[key]


class _Buffers:
    """q (items, queries, width), k and v (items, size * size, width) whose constant parts are filled in once.

    Also room for chunks of logits. A window's queries are a grid of height x width.
    """

    def __init__(
        self,
        items: int,
        queries: tuple[int, int],
        size: int,
        head_dim: int,
        folded: bool,
        frame: _Frame,
        dtype: torch.dtype,
    ) -> None:
        height, width = queries
        keys, device = size * size, frame.device
        self._head_dim, self._size, self._queries = head_dim, size, queries
        channels = -(-(head_dim + 2 * size) // 32) * 32 if folded else head_dim
        self.q = torch.zeros(items, height * width, channels, device=device, dtype=dtype)
        self.k = torch.zeros(items, keys, channels, device=device, dtype=dtype)
        if folded:
            place = torch.arange(keys, device=device)
            self.k[:, place, head_dim + place // size] = 1
            self.k[:, place, head_dim + size + place % size] = 1
        if frame.plan.kernel == "fused":  # such kernels want q, k and v of one width
            self.v = torch.zeros_like(self.k)
            return
        self.v = torch.empty(items, keys, head_dim, device=device, dtype=dtype)
        self.out = torch.empty(items, height * width, head_dim, device=device, dtype=dtype)
        row_bytes = width * keys * dtype.itemsize  # of logits of one of the window's rows of queries
        rows = min(height, max(1, CHUNK_BYTES // row_bytes))
        together = min(items, max(1, CHUNK_BYTES // (height * row_bytes)))
        self.logits = torch.empty(together, rows * width, keys, device=device, dtype=dtype)
        self.shares = torch.empty_like(self.logits)

    def fold(self, rows: Tensor, columns: Tensor) -> None:
        """Positions (items, height, width, size) into the queries, where the keys have their ones."""
        grid = self.q.unflatten(1, self._queries)
        grid[..., self._head_dim : self._head_dim + self._size] = rows
        grid[..., self._head_dim + self._size : self._head_dim + 2 * self._size] = columns


def _attend_in_chunks(buffers: _Buffers, positions: tuple[Tensor, Tensor] | None) -> Tensor:
    """softmax(q k^T + positions) v, a chunk of the logits at a time."""
    q, k, v, out = buffers.q, buffers.k.transpose(1, 2), buffers.v, buffers.out
    items, tokens, _ = q.shape
    most_items, most_queries, _ = buffers.logits.shape
    for item in range(0, items, most_items):
        some = slice(item, item + most_items)
        for first in range(0, tokens, most_queries):
            queries = q[some, first : first + most_queries]
            logits, shares = (part[: len(queries), : queries.shape[1]] for part in (buffers.logits, buffers.shares))
            if positions is None:
                torch.bmm(queries, k[some], out=logits)
            else:
                rows, columns = positions
                size = rows.shape[-1]
                image_rows = slice(first // size, (first + most_queries) // size)
                grid = logits.view(len(queries), -1, size, size, size)
                torch.add(rows[some, image_rows, :, :, None], columns[some, image_rows, :, None], out=grid)
                torch.baddbmm(logits, queries, k[some], out=logits)
            torch.softmax(logits, -1, out=shares)
            torch.bmm(shares, v[some], out=out[some, first : first + most_queries])
    return out


def _by_query_and_key(table: Tensor, size: int) -> Tensor:
    """A table of relative positions (2 * size - 1, head_dim) -> (query, head_dim, key)."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1].transpose(1, 2).contiguous()


@torch.no_grad()
def _scaled_and_centred(block: Upstream) -> tuple[Tensor, Tensor]:
    """Weight and bias of q, k and v: q with attention's scale in it, k without what all keys have in common."""
    attention = block.attn
    weight, bias = attention.qkv.weight.clone(), attention.qkv.bias.clone()
    q, k, _ = (slice(i * len(bias) // 3, (i + 1) * len(bias) // 3) for i in range(3))
    weight[q] *= attention.scale
    bias[q] *= attention.scale
    # The norm before adds its own bias to every token; an empty place, where k is this bias, has not got it either.
    bias[k] = -weight[k] @ block.norm1.bias
    return weight, bias


@torch.no_grad()
def expected_logits(block: Upstream) -> float:
    """Root of the mean square of a block's attention logits, in the largest of its heads, from its weights alone.

    For tokens whose entries, as the layer norm leaves them before its weight and bias, are independent of one another.
    """
    weight, bias = _scaled_and_centred(block)
    attention, norm = block.attn, block.norm1
    by_head = (2, attention.num_heads, -1)
    spread = (weight * norm.weight)[: 2 * len(weight) // 3].view(*by_head, weight.shape[1])
    mean = (weight @ norm.bias + bias)[: 2 * len(weight) // 3].view(*by_head, 1)
    q, k = spread @ spread.transpose(-1, -2) + mean @ mean.transpose(-1, -2)  # second moments (heads, dim, dim)
    content = (q * k).sum((1, 2))
    tables = torch.stack((attention.rel_pos_h, attention.rel_pos_w)) / attention.scale
    position = torch.einsum("tnd,hde,tne->htn", tables, q, tables).mean(2).sum(1)
    return math.sqrt((content + position).max().item())
