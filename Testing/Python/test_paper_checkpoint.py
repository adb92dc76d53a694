"""Checkpoints of the paper's public code: read as decoders that give what its own formulas give.

No such checkpoint can be had offline: one is written in its format, from a seed, and its decoder stated once more here.
"""

import pytest
import torch
from torch.nn import functional as F

from SAM3DSegmentLib.base.errors import ModelFileError
from SAM3DSegmentLib.commands.paper_checkpoint import read_paper_checkpoint
from SAM3DSegmentLib.encoder import load_encoder
from SAM3DSegmentLib.intensity import normalise
from SAM3DSegmentLib.model_file import load_model
from SAM3DSegmentLib.network import Network

WIDTHS = (256, 128, 64, 32, 16)
CLASSES = 4


def convolution(state, name, inputs, outputs, size):
    state[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, size) / (inputs * size**3) ** 0.5
    state[f"{name}.bias"] = torch.randn(outputs)


def paper_state(modalities=1):
    """Names and shapes as `Sam3D.state_dict()` of the public code has them."""
    torch.manual_seed(0)
    state = {}
    for number, (before, after) in zip((5, 4, 3, 2), zip(WIDTHS, WIDTHS[1:])):
        before = before * modalities if number == 5 else before
        convolution(state, f"decoder{number}.conv1.0", before, after, 3)
        convolution(state, f"decoder{number}.conv2.0", after, after, 3)
        convolution(state, f"decoder{number}.downsample.0", before, after, 1)
    for number, width in ((1, 16), (2, 32), (3, 64)):
        convolution(state, f"out{number}.conv_pred.0", width, width // 2, 3)
        convolution(state, f"out{number}.segmentation_head", width // 2, CLASSES, 1)
    return state


def paper_logits(state, g):
    """[out3, out2, out1], coarse to fine, by the published formulas."""

    def convolve(name, x):
        weight = state[f"{name}.weight"]
        return F.conv3d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    logits = []
    for number, head in ((5, None), (4, "out3"), (3, "out2"), (2, "out1")):
        inner = F.leaky_relu(F.instance_norm(convolve(f"decoder{number}.conv1.0", g)), 0.01)
        residual = F.instance_norm(convolve(f"decoder{number}.downsample.0", g))
        g = F.leaky_relu(F.instance_norm(convolve(f"decoder{number}.conv2.0", inner)) + residual, 0.01)
        g = F.interpolate(g, scale_factor=(1, 2, 2), mode="nearest")
        if head:
            hidden = F.leaky_relu(F.instance_norm(convolve(f"{head}.conv_pred.0", g)), 0.01)
            logits.append(convolve(f"{head}.segmentation_head", hidden))
    return logits


def write_checkpoint(path, state):
    torch.save(
        {"epoch": 3, "state_dict": state, "plot_stuff": ([0.5], [0.4], [], [0.3]), "best_stuff": (1, 2, 3)}, path
    )
    return path


@pytest.fixture(scope="module")
def state():
    return paper_state()


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "modalities"), [(torch.float32, 1), (torch.float64, 1), (torch.float32, 4)])
def test_logits_are_those_of_the_papers_formulas(tmp_path, dtype, modalities):
    state = paper_state(modalities)
    decoder = read_paper_checkpoint(write_checkpoint(tmp_path / "model_best.model", state)).decoder.to(dtype)
    embeddings = torch.randn(1, 256 * modalities, 5, 3, 3, dtype=dtype)
    expected = paper_logits({key: value.to(dtype) for key, value in state.items()}, embeddings)
    for ours, theirs in zip(decoder(embeddings), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoder(embeddings, only_finest=True)[0], expected[-1], atol=1e-4, rtol=1e-4)


def test_the_command_writes_a_model_that_says_what_is_missing(run_cli, tmp_path, state):
    checkpoint = write_checkpoint(tmp_path / "model_best.model", state)
    done = run_cli("models", "import", "--from", "sam3d", checkpoint, "-o", tmp_path / "synapse.sam3d")
    assert done.returncode == 0, done.stderr
    assert "differ from those of the original code" in done.stderr
    model = load_model(tmp_path / "synapse.sam3d")
    assert [label.value for label in model.card.labels] == [1, 2, 3]
    assert (model.card.encoder.name, model.card.encoder.image_size) == ("sam_vit_b", 176)
    torch.testing.assert_close(model.decoder.layers[0].conv1.weight, state["decoder5.conv1.0.weight"])


@torch.no_grad()
def test_four_modalities_are_four_channels_encoded_one_by_one(tmp_path, run_cli, untrained_sam):
    """Logits of the whole way from grey slices, with the encoder asked for one modality after the other."""
    state = paper_state(4)
    checkpoint = write_checkpoint(tmp_path / "model_best.model", state)
    assert run_cli("models", "import", "--from", "sam3d", checkpoint, "-o", tmp_path / "m.sam3d").returncode == 0
    model = load_model(tmp_path / "m.sam3d")
    assert [channel.name for channel in model.card.inputs] == ["0000", "0001", "0002", "0003"]
    encoder = load_encoder("sam_vit_b", untrained_sam, 32, "cpu", "fp32")
    grey = torch.rand(3, 4, 32, 32) * 255
    alone = [encoder(normalise(grey[:, number : number + 1], "sam")).half().float() for number in range(4)]
    theirs = paper_logits(state, torch.stack(alone, 1).flatten(1, 2).transpose(0, 1)[None])[-1]
    network = Network(encoder, model.decoders)
    ours = network.decode(network.encode(grey))
    torch.testing.assert_close(ours, theirs[0].transpose(0, 1), atol=1e-4, rtol=1e-4)


def test_a_checkpoint_without_deep_supervision_has_one_head(tmp_path, state):
    few = {key: value for key, value in state.items() if not key.startswith(("out2", "out3"))}
    model = read_paper_checkpoint(write_checkpoint(tmp_path / "m.model", few))
    assert len(model.decoder.heads) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"conv.weight": torch.zeros(1)}}, "not a checkpoint of UARK-AICV/SAM3D"),
        ([1, 2], "not a checkpoint of UARK-AICV/SAM3D"),
        ({"state_dict": {**paper_state(), "decoder5.conv1.0.weight": torch.zeros(8, 300, 3, 3, 3)}}, "300 channels"),
        ({"state_dict": {**paper_state(), "out1.segmentation_head.bias": torch.zeros(9)}}, "do not fit"),
        (
            {"state_dict": {k: v for k, v in paper_state().items() if k != "decoder2.conv2.0.weight"}},
            "decoder2.conv2.0",
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "wrong.model")
    with pytest.raises(ModelFileError, match=message):
        read_paper_checkpoint(tmp_path / "wrong.model")


def test_a_missing_file_and_half_a_command_are_refused(run_cli, tmp_path):
    for arguments in (("--from", "sam3d", "none.model", "-o", "m.sam3d"), ("--from", "sam3d", "none.model")):
        done = run_cli("models", "import", *arguments)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
