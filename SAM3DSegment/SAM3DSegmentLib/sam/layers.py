"""What all parts of a packed encoder share: how attention is computed, where, linear layers and norms."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base.devices import cpu_has_amx, resolve_device, resolve_precision

Upstream = Any  # a module of segment_anything, which has no types


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


@dataclass
class Frame:
    """What all parts of one encoder have in common: where and how they compute, on images of side x side tokens."""

    device: torch.device
    dtype: torch.dtype
    method: AttentionMethod
    side: int
    buffers: dict[tuple[int, ...], Any] = field(default_factory=dict)  # of attention, by their shapes

    def cast(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, self.dtype)


class Linear:
    """(tokens, in) -> (tokens, out), or GELU of it, or the sum with another tensor."""

    def __init__(self, weight: Tensor, bias: Tensor | None, frame: Frame) -> None:
        self._bias = None if bias is None else frame.cast(bias)
        self._weight = frame.cast(weight).contiguous()
        self._packed = frame.method.packed_linear
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
    cpu, methods = torch.device("cpu"), (AttentionMethod("chunked", False, packed) for packed in (True, False))
    try:
        packed, plain = (Linear(weight, bias, Frame(cpu, torch.float32, method, side=2)) for method in methods)
        pairs = [
            (packed(x), plain(x)),
            (packed(x, gelu=True), plain(x, gelu=True)),
            (packed(x, add=x), plain(x, add=x)),
        ]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(found, expected, atol=1e-5) for found, expected in pairs)


class Norm:
    """Layer norm over the last axis."""

    def __init__(self, norm: Upstream, frame: Frame) -> None:
        self._weight, self._bias = frame.cast(norm.weight), frame.cast(norm.bias)
        self._eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)
