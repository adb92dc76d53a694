"""Attention with relative positions, as SAM's encoder has it; see `packed_vit` for what differs from upstream."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .layers import Frame, Linear, Upstream

CHUNK_BYTES = 2**21  # of logits; half or twice as much is no faster (with 1 MB of second-level cache)
# A block whose logits are to be expected so large (`expected_logits`) that rounding them to the encoder's type would
# change them by more than this computes its attention in float32. For bf16 the limit is a logit of 2.5: at 1.4 rounding
# did not raise the encoder's error, at 3.0 it did from 1.3 % to 1.5 %.
LARGEST_ROUNDING = 0.02


class Attention:
    """Attention of all heads in windows, or over the whole image: (B * side * side, C) -> the same shape."""

    def __init__(self, block: Upstream, frame: Frame) -> None:
        attention = block.attn
        self._heads: int = attention.num_heads
        self._head_dim = attention.proj.in_features // self._heads
        self._size = block.window_size or frame.side  # tokens along each axis that attend to one another
        self._frame = frame
        self._folded = frame.method.fold_global or self._size != frame.side
        weight, bias = _scaled_and_centred(block)
        self._qkv = Linear(weight, bias, frame)
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
        if self._frame.method.kernel == "chunked":
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

    def _buffers(self, items: int, height: int, width: int) -> Buffers:
        """Those for windows of this shape, which all blocks use in turn; of the largest batch, a part for others."""
        key = (height, width, self._size, self._dtype.itemsize)
        held = self._frame.buffers.pop(key, None)
        if held is None or len(held.q) < items:
            held = None  # let go before larger ones are made
            held = Buffers(items, (height, width), self._size, self._head_dim, self._folded, self._frame, self._dtype)
        self._frame.buffers[key] = held
        return held.first(items)


class Buffers:
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
        frame: Frame,
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
        self.out: Tensor | None = None
        if frame.method.kernel == "fused":  # such kernels want q, k and v of one width
            self.v = torch.zeros_like(self.k)
            return
        self.v = torch.empty(items, keys, head_dim, device=device, dtype=dtype)
        self.out = torch.empty(items, height * width, head_dim, device=device, dtype=dtype)
        row_bytes = width * keys * dtype.itemsize  # of logits of one of the window's rows of queries
        rows = min(height, max(1, CHUNK_BYTES // row_bytes))
        together = min(items, max(1, CHUNK_BYTES // (height * row_bytes)))
        self.logits = torch.empty(together, rows * width, keys, device=device, dtype=dtype)
        self.shares = torch.empty_like(self.logits)

    def first(self, items: int) -> Buffers:
        """The same memory, of so many items."""
        if items == len(self.q):
            return self
        part = copy.copy(self)
        part.q, part.k, part.v = self.q[:items], self.k[:items], self.v[:items]
        if self.out is not None:
            part.out = self.out[:items]
        return part

    def fold(self, rows: Tensor, columns: Tensor) -> None:
        """Positions (items, height, width, size) into the queries, where the keys have their ones."""
        grid = self.q.unflatten(1, self._queries)
        grid[..., self._head_dim : self._head_dim + self._size] = rows
        grid[..., self._head_dim + self._size : self._head_dim + 2 * self._size] = columns


def _attend_in_chunks(buffers: Buffers, positions: tuple[Tensor, Tensor] | None) -> Tensor:
    """softmax(q k^T + positions) v, a chunk of the logits at a time."""
    q, k, v, out = buffers.q, buffers.k.transpose(1, 2), buffers.v, buffers.out
    assert out is not None
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
