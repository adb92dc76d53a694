"""The decoder against the formulas, written once more in plain numpy."""

import itertools

import numpy as np
import pytest
import torch

from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.decoder import ResDualConv3d, Sam3dDecoder


def conv3d(x, w):
    """(Ci, D, H, W), (Co, Ci, k, k, k) -> (Co, D, H, W), zero padded."""
    k = w.shape[-1]
    padded = np.pad(x, [(0, 0)] + [(k // 2, k // 2)] * 3)
    d, h, width = x.shape[1:]
    y = np.zeros((w.shape[0], d, h, width))
    for a, b, c in itertools.product(range(k), repeat=3):
        y += np.einsum("oi,idhw->odhw", w[:, :, a, b, c], padded[:, a : a + d, b : b + h, c : c + width])
    return y


def instance_norm(x, norm):
    mean = x.mean((1, 2, 3), keepdims=True)
    variance = x.var((1, 2, 3), keepdims=True)
    scale, shift = (p.detach().double().numpy()[:, None, None, None] for p in (norm.weight, norm.bias))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def leaky_relu(x):
    return np.where(x > 0, x, 0.01 * x)


def double_axis(x, axis):
    """Linear x2 with pixel centres half a pixel in: weights 3/4 and 1/4, the border repeated."""
    x = np.moveaxis(x, axis, 0)
    before, after = np.concatenate((x[:1], x[:-1])), np.concatenate((x[1:], x[-1:]))
    y = np.empty((2 * len(x), *x.shape[1:]))
    y[0::2], y[1::2] = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
    return np.moveaxis(y, 0, axis)


def upsample(x):
    return double_axis(double_axis(x, 2), 3)


def weight(module):
    return module.weight.detach().double().numpy()


def layer(block, g):
    """g -> LeakyReLU(r1 + r2), r1 = IN(W2 * LeakyReLU(IN(W1 * g))), r2 = IN(W0 * g)."""
    r1 = instance_norm(
        conv3d(leaky_relu(instance_norm(conv3d(g, weight(block.conv1)), block.norm1)), weight(block.conv2)), block.norm2
    )
    r2 = instance_norm(conv3d(g, weight(block.projection[0])), block.projection[1])
    return leaky_relu(r1 + r2)


def randomise_norms(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.weight.data = torch.rand(part.weight.shape, generator=generator) + 0.5
            part.bias.data = torch.randn(part.bias.shape, generator=generator)


def test_projection_block_follows_the_formula():
    torch.manual_seed(0)
    block = ResDualConv3d(6, 4).double()
    randomise_norms(block)
    block.double()
    g = torch.randn(1, 6, 3, 5, 7, dtype=torch.float64)
    np.testing.assert_allclose(block(g)[0].detach().numpy(), layer(block, g[0].numpy()), atol=1e-10)


def test_decoder_follows_the_formula_at_every_level():
    torch.manual_seed(1)
    decoder = Sam3dDecoder(3, channels=(8, 6, 5, 4, 2)).double()
    randomise_norms(decoder, 1)
    decoder.double()
    embeddings = torch.randn(1, 8, 3, 2, 3, dtype=torch.float64)
    g = embeddings[0].numpy()
    for block, head, logits in zip(decoder.layers, decoder.heads, decoder(embeddings)):
        g = upsample(layer(block, g))
        bias = head.bias.detach().numpy()[:, None, None, None]
        np.testing.assert_allclose(logits[0].detach().numpy(), conv3d(g, weight(head)) + bias, atol=1e-9)


def test_identity_shortcut_adds_the_unit_matrix_to_the_gradient():
    torch.manual_seed(2)
    block = ResDualConv3d(2, 2, shortcut="identity").double()
    g = torch.randn(1, 2, 2, 3, 2, dtype=torch.float64)

    def phi(x):
        return block.norm2(block.conv2(torch.nn.functional.leaky_relu(block.norm1(block.conv1(x)), 0.01)))

    whole = torch.autograd.functional.jacobian(block, g).reshape(g.numel(), g.numel())
    residual = torch.autograd.functional.jacobian(phi, g).reshape(g.numel(), g.numel())
    torch.testing.assert_close(whole, torch.eye(g.numel(), dtype=torch.float64) + residual)
    assert residual.abs().max() > 1e-3


@pytest.mark.parametrize(("depth", "height", "width"), [(1, 2, 2), (5, 3, 7), (2, 8, 4)])
def test_logits_grow_in_plane_and_never_in_depth(depth, height, width):
    logits = Sam3dDecoder(4)(torch.randn(2, 256, depth, height, width))
    assert [tuple(level.shape) for level in logits] == [
        (2, 4, depth, height * 2**level, width * 2**level) for level in (1, 2, 3, 4)
    ]


def test_default_size_is_two_to_three_million_parameters():
    count = sum(p.numel() for p in Sam3dDecoder(3).parameters())
    assert 2e6 < count < 3e6


def test_gradient_reaches_every_parameter():
    decoder = Sam3dDecoder(2, channels=(16, 8, 8, 4, 4))
    sum(level.square().mean() for level in decoder(torch.randn(1, 16, 3, 2, 2))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())


def test_config_describes_the_papers_public_code():
    decoder = Sam3dDecoder(9, projection_kernel=1, upsampling="nearest", heads=3)
    assert decoder.layers[0].projection[0].kernel_size == (1, 1, 1)
    assert len(decoder(torch.randn(1, 256, 2, 2, 2))) == 3


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: ResDualConv3d(4, 8, shortcut="identity"), "4 channels into 8"),
        (lambda: ResDualConv3d(4, 8, shortcut="sideways"), "sideways"),
        (lambda: Sam3dDecoder(3, channels=(16, 32, 8, 4, 2)), "(16, 32, 8, 4, 2)"),
        (lambda: Sam3dDecoder(1), "num_classes 1"),
        (lambda: Sam3dDecoder(3, upsampling="cubic"), "cubic"),
        (lambda: Sam3dDecoder(3, levels=1), "levels 1"),
        (lambda: Sam3dDecoder(3, levels=5), "levels 5"),
        (lambda: Sam3dDecoder(3, heads=0), "heads 0"),
        (lambda: Sam3dDecoder(3)(torch.zeros(1, 128, 2, 2, 2)), "(1, 128, 2, 2, 2)"),
    ],
)
def test_bad_values_are_quoted(make, value):
    with pytest.raises(InputError) as error:
        make()
    assert value in str(error.value)


@pytest.mark.parametrize("levels", [2, 3])
def test_fewer_levels_are_the_coarsest_of_all(levels):
    torch.manual_seed(0)
    whole = Sam3dDecoder(3, (16, 8, 8, 4, 4))
    short = whole.first_levels(levels)
    assert short.config.levels == levels
    embeddings = torch.randn(1, 16, 3, 2, 2)
    for few, all_levels in zip(short(embeddings), whole(embeddings)[:levels], strict=True):
        torch.testing.assert_close(few, all_levels)


def test_only_the_finest_level_is_that_of_all():
    torch.manual_seed(0)
    decoder = Sam3dDecoder(3, (16, 8, 8, 4, 4), levels=3)
    embeddings = torch.randn(1, 16, 3, 2, 2)
    (finest,) = decoder(embeddings, only_finest=True)
    torch.testing.assert_close(finest, decoder(embeddings)[-1])


def test_norms_are_instance_norms():
    """One group a channel: statistics of each channel and sample alone, under the names that model files have."""
    torch.manual_seed(0)
    block = ResDualConv3d(4, 6)
    x = torch.randn(2, 6, 3, 4, 5)
    x[:, 2] += 100
    reference = torch.nn.InstanceNorm3d(6, affine=True)
    reference.load_state_dict(block.norm1.state_dict(), strict=True)
    torch.testing.assert_close(block.norm1(x), reference(x), atol=1e-5, rtol=1e-5)


def test_training_and_inference_give_the_same_in_their_own_layouts():
    torch.manual_seed(0)
    decoder = Sam3dDecoder(3, (16, 8, 8, 4, 4))
    embeddings = torch.randn(1, 16, 3, 2, 2)
    learned = decoder.train().double()(embeddings.double())
    for at_rest, in_training in zip(decoder.eval()(embeddings.double()), learned, strict=True):
        torch.testing.assert_close(at_rest, in_training)
    half = decoder.bfloat16()(embeddings.bfloat16())
    for at_rest, in_training in zip(half, learned, strict=True):
        assert (at_rest - in_training).square().mean().sqrt() < 0.03 * in_training.square().mean().sqrt()
