"""The packed encoder against segment_anything's own module with the same weights, in every way that it can compute."""

import dataclasses

import pytest
import torch

from SAM3DSegmentLib.card import VitConfig
from SAM3DSegmentLib.sam import attention, layers, packed_vit
from SAM3DSegmentLib.sam.attention import expected_logits
from SAM3DSegmentLib.sam.layers import AttentionMethod, attention_method, has_packed_linear
from SAM3DSegmentLib.sam.packed_vit import PackedVit
from SAM3DSegmentLib.sam.vit import build_vit

CPU = torch.device("cpu")
SMALL = VitConfig(48, 3, 3, (1,))
METHODS = [
    AttentionMethod(kernel, fold_global, packed_linear)
    for kernel, fold_global in (("chunked", False), ("chunked", True), ("fused", True))
    for packed_linear in (False, True)
]


def small_vit(size, positions=0.2):
    torch.manual_seed(0)
    vit = build_vit(SMALL, size).eval().requires_grad_(False)
    for name, parameter in vit.named_parameters():
        if "pos" in name:  # SAM starts them at zero, which would hide a wrong one
            torch.nn.init.normal_(parameter, std=positions)
        elif "norm" in name or "bias" in name:  # and these at one and zero
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return vit


def slices(count, size):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def relative_error(found, expected):
    return ((found.float() - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("size", [32, 224, 256])  # smaller than one window; whole windows; windows that stick out
def test_equals_segment_anything(method, size):
    vit = small_vit(size)
    x = slices(3, size)
    torch.testing.assert_close(PackedVit(vit, CPU, torch.float32, method)(x), vit(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 5])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, rows):
    vit, x = small_vit(256), slices(1, 256)
    monkeypatch.setattr(attention, "CHUNK_BYTES", rows * 16 * 256 * 4)
    method = AttentionMethod("chunked", fold_global=False, packed_linear=False)
    torch.testing.assert_close(PackedVit(vit, CPU, torch.float32, method)(x), vit(x), atol=1e-4, rtol=1e-4)


def test_a_result_outlives_the_next_call_and_the_batch_does_not_matter():
    packed = PackedVit(small_vit(64), CPU, torch.float32)
    x = slices(5, 64)
    first = packed(x[:2])
    kept = first.clone()
    packed(x[2:])
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    torch.testing.assert_close(packed(x)[:2], first)


def buffer_bytes(packed):
    """Of all tensors that are kept between calls."""
    tensors = [t for held in packed._frame.buffers.values() for t in vars(held).values() if isinstance(t, torch.Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_buffers_are_those_of_one_batch_whatever_the_batches_were(monkeypatch, method):
    """A GPU takes a batch whole, and batches of all sizes come: the last of a volume, and those with black slices."""
    monkeypatch.setattr(packed_vit, "TOKENS_AT_ONCE", 10**9)
    vit, x = small_vit(224), slices(8, 224)
    one, many = (PackedVit(vit, CPU, torch.float32, method) for _ in range(2))
    expected = one(x)
    for size in (1, 5, 2, 8, 3, 7):
        torch.testing.assert_close(many(x[:size]), expected[:size], atol=1e-5, rtol=1e-5)
    assert buffer_bytes(many) == buffer_bytes(one)
    assert len(many._frame.buffers) == len(one._frame.buffers)


def test_where_memory_runs_out_no_buffers_of_the_attempt_are_kept(monkeypatch):
    packed = PackedVit(small_vit(64), CPU, torch.float32)
    monkeypatch.setattr(packed_vit, "TOKENS_AT_ONCE", 10**9)
    packed(slices(1, 64))

    def fail(x):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(packed, "_neck", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        packed(slices(8, 64))
    assert buffer_bytes(packed) == 0


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_bf16_stays_near_float32(method):
    vit, x = small_vit(256), slices(1, 256)
    assert relative_error(PackedVit(vit, CPU, torch.bfloat16, method)(x), vit(x)) < 0.012


def test_large_logits_are_not_rounded(monkeypatch):
    """With large positions, q and k, a block's attention is computed in float32: a third of bf16's error is spared."""
    vit, x = small_vit(256, positions=1), slices(1, 256)
    for block in vit.blocks:
        block.attn.qkv.weight[:96] *= 3
        block.attn.proj.weight *= 10  # else the residual sum would hide what attention does
    assert all(expected_logits(block) > 2.5 for block in vit.blocks)
    method = AttentionMethod("chunked", fold_global=False, packed_linear=False)
    kept = relative_error(PackedVit(vit, CPU, torch.bfloat16, method)(x), vit(x))
    monkeypatch.setattr(attention, "LARGEST_ROUNDING", float("inf"))
    rounded = relative_error(PackedVit(vit, CPU, torch.bfloat16, method)(x), vit(x))
    assert kept < 0.75 * rounded


def test_what_all_keys_have_in_common_costs_no_precision():
    """A bias of k adds the same to all logits of a query: softmax forgets it, but rounding would not."""
    vit, x = small_vit(256), slices(1, 256)
    for block in vit.blocks:
        block.attn.qkv.bias[48:96] += 30
    method = AttentionMethod("chunked", fold_global=False, packed_linear=False)
    assert relative_error(PackedVit(vit, CPU, torch.bfloat16, method)(x), vit(x)) < 0.012


def test_expected_logits_are_those_of_random_tokens():
    block = small_vit(224).blocks[0]
    attention = block.attn
    tokens = block.norm1(torch.randn(4, 196, 48, generator=torch.Generator().manual_seed(2)) * 3 + 1)
    q, k, _ = attention.qkv(tokens).view(4, 196, 3, 3, 16).permute(2, 0, 3, 1, 4)
    k = k - (
        attention.qkv.bias.view(3, 3, 1, 16)[1]
        + (attention.qkv.weight.view(3, 3, 16, 48)[1] @ block.norm1.bias)[:, None]
    )
    grid = q.view(4, 3, 14, 14, 16)
    offsets = torch.arange(14)[:, None] - torch.arange(14) + 13
    rows = torch.einsum("bhyxc,ykc->bhyxk", grid, attention.rel_pos_h[offsets])
    columns = torch.einsum("bhyxc,xkc->bhyxk", grid, attention.rel_pos_w[offsets])
    logits = (q @ k.transpose(-1, -2) * attention.scale).view(4, 3, 14, 14, 14, 14)
    logits = logits + rows[..., :, None] + columns[..., None, :]
    measured = logits.square().mean((0, 2, 3, 4, 5)).sqrt().max().item()
    assert expected_logits(block) == pytest.approx(measured, rel=0.1)


class _NoOperations:
    """Stands in for `torch.ops.mkldnn` of a torch that has no such operations."""


class _WrongOperations:
    """Stands in for those of a torch in which they mean something else."""

    class _LinearPointwise:
        def __call__(self, x, weight, bias, *more):
            return torch.zeros(len(x), len(weight))

        def binary(self, x, other, weight, bias, kind):
            return torch.zeros(len(x), len(weight))

    _linear_pointwise = _LinearPointwise()

    @staticmethod
    def _reorder_linear_weight(weight, rows):
        return weight


@pytest.mark.parametrize("operations", [_NoOperations(), _WrongOperations()])
def test_without_torchs_unpublished_operations_the_public_ones_are_used(monkeypatch, operations):
    monkeypatch.setattr(torch.ops, "mkldnn", operations)
    has_packed_linear.cache_clear()
    try:
        assert not has_packed_linear()
        assert not AttentionMethod.best(CPU, torch.float32).packed_linear
        vit, x = small_vit(64), slices(1, 64)
        torch.testing.assert_close(PackedVit(vit, CPU, torch.float32)(x), vit(x), atol=1e-4, rtol=1e-4)
    finally:
        has_packed_linear.cache_clear()


@pytest.mark.parametrize(("amx", "kernel"), [(True, "fused"), (False, "chunked")])
def test_the_method_follows_the_processor(monkeypatch, amx, kernel):
    monkeypatch.setattr(layers, "cpu_has_amx", lambda: amx)
    assert AttentionMethod.best(CPU, torch.bfloat16).kernel == kernel
    assert AttentionMethod.best(CPU, torch.float32).kernel == "chunked"
    on_gpu = AttentionMethod.best(torch.device("cuda"), torch.float16)
    assert dataclasses.astuple(on_gpu) == ("fused", True, False)


def test_the_method_is_told_in_words():
    assert "attention, positions folded" in attention_method()
