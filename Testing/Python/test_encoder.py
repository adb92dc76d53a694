"""The encoder against `segment_anything` itself, on a checkpoint that it wrote (untrained weights)."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from SAM3DSegmentLib.base.errors import InputError, WeightsError
from SAM3DSegmentLib.card import EncoderConfig, VitConfig
from SAM3DSegmentLib.encoder import FrozenEncoder, load_encoder
from SAM3DSegmentLib.sam.encoders import COMPACT_VIT, ENCODERS, published
from SAM3DSegmentLib.sam.vit import build_vit


def slices(count, size, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def upstream(untrained_sam):
    """segment_anything's own encoder with the same weights."""
    from segment_anything import sam_model_registry

    return sam_model_registry["vit_b"](str(untrained_sam)).image_encoder.eval()


@pytest.mark.slow
@torch.no_grad()
def test_equals_segment_anything_at_1024(untrained_sam, upstream):
    x = slices(1, 1024)
    ours = load_encoder("sam_vit_b", checkpoint=untrained_sam, image_size=1024, device="cpu", precision="fp32")
    torch.testing.assert_close(ours(x), upstream(x), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [128, 160])
def test_equals_segment_anything_at_an_interpolated_size(untrained_sam, upstream, size):
    """Upstream interpolates relative positions by itself; its absolute ones are interpolated here."""
    x = slices(2, size)
    trained = upstream.pos_embed.data
    try:
        upstream.pos_embed.data = F.interpolate(
            trained.permute(0, 3, 1, 2), (size // 16, size // 16), mode="bilinear"
        ).permute(0, 2, 3, 1)
        expected = upstream(x)
    finally:
        upstream.pos_embed.data = trained
    ours = load_encoder("sam_vit_b", untrained_sam, size, "cpu", "fp32")
    torch.testing.assert_close(ours(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_bf16_stays_near_fp32(untrained_sam):
    x = slices(1, 128)
    full = load_encoder("sam_vit_b", untrained_sam, 128, "cpu", "fp32")(x)
    half = load_encoder("sam_vit_b", untrained_sam, 128, "cpu", "bf16")(x)
    assert half.dtype == torch.float32
    assert ((half - full).square().mean().sqrt() / full.square().mean().sqrt()).item() < 0.012


def test_no_gradient_reaches_the_encoder():
    from SAM3DSegmentLib.card import EncoderConfig

    vit = build_vit(COMPACT_VIT, 32)
    encoder = FrozenEncoder(vit, EncoderConfig("test", 32), torch.device("cpu"), torch.float32)
    x = slices(2, 32).requires_grad_()
    embeddings = encoder(x)
    assert not embeddings.requires_grad
    assert embeddings.shape == (2, 256, 2, 2)


@pytest.mark.parametrize("name", ENCODERS)
def test_shapes_are_sams(name):
    """Keys and shapes of every row against segment_anything's own builder, without allocating the weights."""
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours = build_vit(published(name).vit, 1024).state_dict()
        theirs = sam_model_registry[name[-len("vit_b") :]]().image_encoder.state_dict()
    own = {key for key in ours if ".adapter." in key}
    assert bool(own) == (name == "sam_med2d_vit_b")
    assert {k: v.shape for k, v in ours.items() if k not in own} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(("free_mib", "size", "slices_each"), [(96, 64, 8), (96, 128, 6), (96, 256, 1), (1, 256, 1)])
def test_batches_shrink_with_the_image_size_and_the_free_memory(monkeypatch, free_mib, size, slices_each):
    """16 float32 activations of width 1024 live at once: 64 KiB for each token of 16 x 16 pixels."""
    monkeypatch.setattr("SAM3DSegmentLib.encoder.available_memory_bytes", lambda device: free_mib * 2**20)
    config = VitConfig(1024, 1, 2, (0,))
    encoder = FrozenEncoder(build_vit(config, size), EncoderConfig("wide", size), torch.device("cpu"), torch.float32)
    assert encoder.batch_size == slices_each


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"not a checkpoint", "cannot be read"),
        ({"mask_decoder.weight": torch.zeros(1)}, "no image_encoder"),
        ([torch.zeros(1)], "no image_encoder"),
        ({"image_encoder.pos_embed": "a word"}, "not finite number"),
        ({1: torch.zeros(1)}, "no image_encoder"),
        (torch.zeros(3), "no image_encoder"),
        ({"image_encoder.pos_embed": torch.zeros(1, 8, 8, 768)}, "do not fit"),
    ],
)
def test_wrong_checkpoints_are_refused(tmp_path, contents, message):
    path = tmp_path / "wrong.pth"
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    else:
        torch.save(contents, path)
    with pytest.raises(WeightsError, match=message):
        load_encoder("sam_vit_b", path, 128, "cpu")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"image_encoder.pos_embed": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError):
        load_encoder("sam_vit_b", tmp_path / "trap.pth", 128, "cpu")
    assert not (tmp_path / "sprung").exists()


def test_missing_checkpoint_unknown_name_and_odd_size_say_what_to_do(tmp_path, untrained_sam):
    with pytest.raises(WeightsError, match="weights download sam_vit_b"):
        load_encoder("sam_vit_b", None, 128, "cpu")
    with pytest.raises(WeightsError, match="is not a file"):
        load_encoder("sam_vit_b", tmp_path / "nowhere.pth", 128, "cpu")
    with pytest.raises(InputError, match="'sam_vit_x' is unknown"):
        load_encoder("sam_vit_x", untrained_sam, 128, "cpu")
    with pytest.raises(InputError, match="image_size 100"):
        load_encoder("sam_vit_b", untrained_sam, 100, "cpu")
    with pytest.raises(WeightsError, match="trained with 0000"):
        load_encoder("sam_vit_b", untrained_sam, 128, "cpu", expected_sha256="0" * 64)


@pytest.mark.slow
@pytest.mark.parametrize("real_package", ["before", "after", "never"])
def test_the_encoder_leaves_torchvision_alone(real_package):
    """In a child process: segment_anything's own package is not imported, and stays importable."""
    real = "from segment_anything import sam_model_registry"
    lines = [
        real if real_package == "before" else "",
        "import sys",
        "from SAM3DSegmentLib.sam.encoders import COMPACT_VIT",
        "from SAM3DSegmentLib.sam.vit import build_vit",
        "build_vit(COMPACT_VIT, 32)",
        "print([name for name in ('torchvision', 'torch._dynamo', 'segment_anything') if name in sys.modules])",
        real if real_package == "after" else "",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    heavy = "['torchvision', 'torch._dynamo', 'segment_anything']"
    assert done.stdout.strip() == (heavy if real_package == "before" else "[]")
