"""That all tensors of a training and of inference meet on one device: on a CUDA device that computes nothing.

A fake tensor has a device, a shape and a type, and an operation on two of unlike devices is an error as on a GPU.
"""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from SAM3DSegmentLib.card import EncoderConfig, VitConfig
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.encoder import FrozenEncoder
from SAM3DSegmentLib.losses import DeepSupervisionLoss
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.preparation import SquareFit
from SAM3DSegmentLib.sam.encoders import COMPACT_VIT
from SAM3DSegmentLib.sam.vit import build_vit
from SAM3DSegmentLib.training.learner import DecoderLearner, EndToEndLearner
from SAM3DSegmentLib.training.samples import Sample

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.2."), reason="this torch asks for NVIDIA's driver before it makes a fake tensor"
)
SIZE, DEPTH = 64, 4
FIT = SquareFit.of_slices(40, 30, (1.0, 1.0), SIZE)
CUDA = torch.device("cuda", 0)
CONFIG = EncoderConfig("tiny", SIZE, "0" * 64, COMPACT_VIT)


@pytest.fixture(autouse=True)
def _no_values(monkeypatch):
    """Fake tensors have none."""
    monkeypatch.setattr("SAM3DSegmentLib.sam.attention.expected_logits", lambda block: 1.0)


def fake():
    """Modules are made before, of real tensors on the host, and become fake as they are moved."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def on_gpu(vit):
    return FrozenEncoder(vit, CONFIG, CUDA, torch.float16)


def decoder():
    return Sam3dDecoder(3, (256, 8, 8, 8, 8), levels=3, detail=(4, 6))


def sample(embeddings=None, only_detail=False):
    """As it comes from a case: on the host."""
    classes = torch.zeros(DEPTH, *FIT.grid, dtype=torch.uint8)
    return Sample(FIT, classes, torch.zeros(1, DEPTH, *FIT.grid), embeddings, only_detail)


def test_a_tensor_left_on_the_host_is_an_error():
    with fake(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device=CUDA) + torch.zeros(2)


@pytest.mark.parametrize("vit_config", [COMPACT_VIT, VitConfig(48, 2, 2, (0,))], ids=["global", "windows"])
def test_inference(vit_config):
    vit = build_vit(vit_config, SIZE)
    network = Network(FrozenEncoder(vit, CONFIG, torch.device("cpu"), torch.float32), [decoder(), decoder()])
    with fake():
        network.encoder = on_gpu(vit)
        network._decoders = [part.to(CUDA, torch.float16) for part in network._decoders]
        embeddings = network._encode(torch.zeros(DEPTH, 1, SIZE, SIZE), 2)  # `encode` asks which slices are black
        assert (embeddings.device, embeddings.shape) == (CUDA, (DEPTH, 2, 256, SIZE // 16, SIZE // 16))
        logits = network.decode(embeddings, 2)
        detail = network.detail(torch.zeros(DEPTH, 1, *FIT.grid), 2)
        whole = FIT.enlarge(FIT.to_grid(logits) + detail)
        assert (whole.device, whole.shape) == (CUDA, (DEPTH, 3, FIT.height, FIT.width))


def learn(learner, samples):
    """A step of training, as `Loop` makes it, but for the gradients."""
    learner.module.to(CUDA)
    optimiser = torch.optim.AdamW(learner.module.parameters())
    levels, labels = learner.predict(learner.module, samples)
    loss = DeepSupervisionLoss()([level.float() for level in levels], labels)
    for parameter in learner.module.parameters():  # the way back asks for a real device, also on fake tensors
        parameter.grad = torch.zeros_like(parameter)
    torch.nn.utils.clip_grad_norm_(learner.module.parameters(), 1.0)
    optimiser.step()
    assert loss.device == CUDA


@pytest.mark.parametrize("only_detail", [False, True])
def test_a_step_of_an_encoder_that_learns(only_detail):
    learner = EndToEndLearner(build_vit(COMPACT_VIT, SIZE), decoder(), CONFIG, CUDA, trains_detail_alone=True)
    with fake():
        learn(learner, [sample(only_detail=only_detail)] * 2)


def test_a_step_on_embeddings():
    vit, learning = build_vit(COMPACT_VIT, SIZE), decoder()
    embeddings = torch.zeros(DEPTH, 256, SIZE // 16, SIZE // 16, dtype=torch.float16).transpose(0, 1)
    with fake():
        views = SimpleNamespace(encoder=on_gpu(vit))
        learn(DecoderLearner(learning, views, {}), [sample(embeddings)] * 2)
