"""Files of published encoders, each against `segment_anything` itself, in the layouts in which people share them.

All weights are untrained: `segment_anything` wrote them from a seed, and a family's own layers are seeded here.
"""

import dataclasses
import hashlib
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from conftest import MRI
from SAM3DSegmentLib.base.errors import InputError, WeightsError
from SAM3DSegmentLib.base.hashes import file_sha256
from SAM3DSegmentLib.card import DecoderConfig, EncoderConfig, Label, ModelCard, VitConfig
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.encoder import load_encoder
from SAM3DSegmentLib.intensity import normalise
from SAM3DSegmentLib.model_file import Sam3dModel, load_model, save_model
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.sam.checkpoints import encoder_of
from SAM3DSegmentLib.sam.encoders import ENCODERS, published
from SAM3DSegmentLib.sam.vit import build_vit, vit_gflop
from SAM3DSegmentLib.training.encoders import find_encoder
from SAM3DSegmentLib.training.plan import make_config

SIZE, RANK = 64, 4
VIT_B = [name for name, row in ENCODERS.items() if row.vit.embed_dim == 768]


@pytest.fixture(scope="module")
def sam(untrained_sam):
    """segment_anything's own model, its position table interpolated to SIZE as SAMed's load_from does."""
    from segment_anything import sam_model_registry

    model = sam_model_registry["vit_b"](str(untrained_sam)).eval()
    table = model.image_encoder.pos_embed.data.permute(0, 3, 1, 2)
    model.image_encoder.pos_embed.data = F.interpolate(table, SIZE // 16, mode="bilinear").permute(0, 2, 3, 1)
    return model


@pytest.fixture
def grey():
    """Slices (2, SIZE, SIZE) in 0..255, the second of a narrow range."""
    values = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(7))
    return values * torch.tensor([255.0, 70.0])[:, None, None] + torch.tensor([0.0, 90.0])[:, None, None]


def seeded(*shape, scale=0.05, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def adapters(width, depth):
    """SAM-Med2D's own layers under its own names."""
    found = {}
    for block in range(depth):
        at = f"image_encoder.blocks.{block}.Adapter."
        found |= {
            f"{at}norm.weight": 1 + seeded(width, seed=block),
            f"{at}norm.bias": seeded(width, seed=block + 1),
            f"{at}channel.0.weight": seeded(width // 4, width, seed=block + 2),
            f"{at}channel.2.weight": seeded(width, width // 4, seed=block + 3),
            f"{at}spatial.0.weight": seeded(width, width, 3, 3, scale=0.02, seed=block + 4),
            f"{at}spatial.2.weight": seeded(width, width, 4, 4, scale=0.02, seed=block + 5),
        }
    return found


def lora(width, depth):
    """SAMed's file: w_a and w_b of q and v in turn, and its mask decoder, of which nothing is read."""
    found = {"mask_decoder.iou_token.weight": torch.zeros(1, 256)}
    for number in range(2 * depth):
        found[f"w_a_{number:03d}"] = seeded(RANK, width, seed=number)
        found[f"w_b_{number:03d}"] = seeded(width, RANK, seed=1000 + number)
    return found


def write(name, state, folder):
    """A stand-in of what the family publishes."""
    width, depth = published(name).vit.embed_dim, published(name).vit.depth
    if name.startswith("sam_med2d"):
        state = {"model": {**state, **adapters(width, depth)}, "optimizer": {}}
    elif name.startswith("hq_sam"):
        state = {**state, "mask_decoder.hf_token.weight": torch.zeros(1, 256)}
    elif name.startswith("samed"):
        state = lora(width, depth)
    path = folder / published(name).file_name
    torch.save(state, path)
    return path


def adapt(block, at, weights):
    """Let a block of segment_anything add SAM-Med2D's layer, in the words of its paper's figure 4."""

    def beside(_mlp, inputs, output):
        (x,) = inputs
        x = x.permute(0, 3, 1, 2)
        share = F.relu(x.mean((2, 3)) @ weights[f"{at}channel.0.weight"].T) @ weights[f"{at}channel.2.weight"].T
        spread = F.relu(F.conv2d(x * share.sigmoid()[..., None, None], weights[f"{at}spatial.0.weight"], None, 2, 1))
        spread = F.relu(F.conv_transpose2d(spread, weights[f"{at}spatial.2.weight"], None, 2, 1))
        summed = (x + spread).permute(0, 2, 3, 1)
        return output + F.layer_norm(summed, summed.shape[-1:], weights[f"{at}norm.weight"], weights[f"{at}norm.bias"])

    return block.mlp.register_forward_hook(beside)


def change(block, number, weights):
    """Let q and v of a block of segment_anything have SAMed's changes added."""

    def beside(_qkv, inputs, output):
        (x,) = inputs
        q, v = (F.linear(F.linear(x, weights[f"w_a_{n:03d}"]), weights[f"w_b_{n:03d}"]) for n in (number, number + 1))
        return output + torch.cat((q, torch.zeros_like(q), v), -1)

    return block.attn.qkv.register_forward_hook(beside)


@torch.no_grad()
def reference(name, sam, grey):
    """Features of the family's own method: its normalisation, its layers, in segment_anything's encoder."""
    slices = grey.numpy().astype(np.float64)
    if name == "medsam_vit_b":
        low, high = slices.min((1, 2), keepdims=True), slices.max((1, 2), keepdims=True)
        slices = (slices - low) / np.clip(high - low, 1e-8, None)
    elif name == "samed_vit_b":
        slices = slices / 255
    slices = torch.from_numpy(slices).float()[:, None].expand(-1, 3, -1, -1)
    if published(name).normalisation == "sam":
        slices = (slices - sam.pixel_mean) / sam.pixel_std
    blocks, width = sam.image_encoder.blocks, 768
    hooks, own = [], adapters(width, len(blocks)) if name == "sam_med2d_vit_b" else lora(width, len(blocks))
    for index, block in enumerate(blocks):
        if name == "sam_med2d_vit_b":
            hooks.append(adapt(block, f"image_encoder.blocks.{index}.Adapter.", own))
        elif name == "samed_vit_b":
            hooks.append(change(block, 2 * index, own))
    try:
        return sam.image_encoder(slices)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def state(untrained_sam):
    return torch.load(untrained_sam, weights_only=True)


@pytest.fixture
def sams_file(state):
    """SAM's stand-in where SAMed looks for it."""
    path = published("sam_vit_b").path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", VIT_B)
def test_a_stand_in_gives_the_features_of_its_familys_own_method(name, state, sam, grey, tmp_path, request):
    if published(name).base:
        request.getfixturevalue("sams_file")
    path = write(name, state, tmp_path)
    encoder = load_encoder(name, path, SIZE, "cpu", "fp32")
    expected = reference(name, sam, grey)
    torch.testing.assert_close(
        encoder(normalise(grey[:, None], encoder.config.normalisation)), expected, atol=1e-4, rtol=1e-4
    )
    found = Network(encoder, [Sam3dDecoder(2, (256, 4, 4, 4, 4))]).encode(grey[:, None])[:, 0]
    torch.testing.assert_close(found, expected.half(), atol=2e-3, rtol=2e-3)


@pytest.mark.slow
def test_normalisations_matter(state, sam, grey):
    """A wrong one gives other features: what MedSAM's users got without a word."""
    right, wrong = (reference(name, sam, grey) for name in ("medsam_vit_b", "sam_vit_b"))
    assert ((right - wrong).square().mean().sqrt() / right.std()).item() > 0.05


SMALL = VitConfig(48, 3, 2, (1,))


@pytest.fixture
def small(monkeypatch):
    """The state of a small encoder, in whose shape SAM's and MedSAM's rows are."""
    for name in ("sam_vit_b", "medsam_vit_b"):
        monkeypatch.setitem(ENCODERS, name, dataclasses.replace(published(name), vit=SMALL))
    torch.manual_seed(1)
    vit = build_vit(SMALL, 32)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return {f"image_encoder.{key}": value for key, value in vit.state_dict().items()}


def as_hugging_face(key):
    """transformers' names of SamModel, which has `layer_norm1`, `conv1` and so on where SAM has numbers."""
    key = key.replace("image_encoder.", "vision_encoder.").replace("blocks.", "layers.")
    for number, name in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2")):
        key = key.replace(f"neck.{number}.", f"neck.{name}.")
    return key.replace("patch_embed.proj.", "patch_embed.projection.").replace(".norm", ".layer_norm")


LAYOUTS = {
    "plain.pth": lambda state: state,
    "training.pth": lambda state: {"model": state, "optimizer": {}, "epoch": 3},
    "micro_sam.pt": lambda state: {"model_state": {f"sam.{key}": value for key, value in state.items()}},
    "lightning.ckpt": lambda state: {"state_dict": state, "epoch": 3},
    "distributed.pth": lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    "nested.pth": lambda state: {"state_dict": {f"module.sam.{key}": value for key, value in state.items()}},
    "hf.bin": lambda state: {as_hugging_face(key): value for key, value in state.items()},
    "hf.safetensors": lambda state: {as_hugging_face(key): value for key, value in state.items()},
    "sam.safetensors": lambda state: state,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_features(layout, small, tmp_path):
    path, plain = tmp_path / layout, tmp_path / "reference.pth"
    torch.save(small, plain)
    laid_out = LAYOUTS[layout]({**small, "mask_decoder.iou_token.weight": torch.zeros(1)})
    (safetensors.torch.save_file if layout.endswith(".safetensors") else torch.save)(laid_out, path)
    slices = seeded(2, 3, 32, 32, scale=1)
    expected = load_encoder("sam_vit_b", plain, 32, "cpu", "fp32")(slices)
    assert torch.equal(load_encoder("medsam_vit_b", path, 32, "cpu", "fp32")(slices), expected)


def test_a_damaged_safetensors_file_is_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((20).to_bytes(8, "little") + b"{" + bytes(40))
    with pytest.raises(WeightsError, match="cannot be read") as error:
        load_encoder("sam_vit_b", path, 32, "cpu")
    assert "\n" not in str(error.value)


def shaped(width=768, **more):
    return {"image_encoder.pos_embed": torch.zeros(1, 2, 2, width), **more}


def test_the_family_is_told_by_keys_that_no_other_has(tmp_path):
    for expected, state in {
        "sam_med2d_vit_b": {"model": shaped(**{"image_encoder.blocks.0.Adapter.norm.weight": torch.zeros(768)})},
        "hq_sam_vit_l": shaped(1024, **{"module.mask_decoder.hf_token.weight": torch.zeros(1)}),
        "samed_vit_b": {"w_a_000": torch.zeros(4, 768), "w_b_000": torch.zeros(768, 4)},
    }.items():
        path = tmp_path / f"{expected}.pth"
        torch.save(state, path)
        assert encoder_of(path) == make_config({}, {}, path).encoder == expected


def test_a_published_file_is_told_by_its_hash(tmp_path, monkeypatch):
    path = tmp_path / "renamed.pth"
    torch.save(shaped(), path)
    monkeypatch.setitem(ENCODERS, "sam_vit_b", dataclasses.replace(published("sam_vit_b"), sha256=file_sha256(path)))
    assert encoder_of(path) == "sam_vit_b"
    with pytest.raises(
        WeightsError, match=r"published file of sam_vit_b, not of medsam_vit_b; give --encoder sam_vit_b"
    ):
        load_encoder("medsam_vit_b", path, 32, "cpu")


def test_sams_layout_without_a_known_hash_is_asked_about_and_never_guessed(tmp_path, run_cli):
    path = tmp_path / "mine.pth"
    torch.save(shaped(), path)
    question = r"mine\.pth' does not say whose it is.*--encoder with one of sam_vit_b, medsam_vit_b, medicosam_vit_b"
    for ask in (lambda: encoder_of(path), lambda: make_config({}, {}, path)):
        with pytest.raises(WeightsError, match=question) as error:
            ask()
        assert "\n" not in str(error.value)
    assert make_config({}, {"encoder": "sam_vit_b"}, path).encoder == "sam_vit_b"
    torch.save(shaped(48), path)
    with pytest.raises(WeightsError, match="is not a SAM checkpoint"):
        encoder_of(path)
    with pytest.raises(WeightsError, match="is not a file"):
        encoder_of(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("name", "state", "message"),
    [
        (
            "sam_vit_b",
            {"w_a_000": torch.zeros(4, 768)},
            "holds weights of samed_vit_b, not of sam_vit_b; give --encoder",
        ),
        ("medsam_vit_b", shaped(**{"image_encoder.blocks.0.Adapter.norm.bias": torch.zeros(1)}), "of sam_med2d_vit_b"),
        ("samed_vit_b", shaped(), "holds no w_a_000; give SAMed's own file"),
        ("samed_vit_b", shaped(**{"mask_decoder.hf_token.weight": torch.zeros(1)}), "holds no w_a_000"),
        ("sam_med2d_vit_b", shaped(), "do not fit this encoder"),
    ],
)
def test_a_file_of_another_family_is_refused_by_name(tmp_path, name, state, message):
    put = published("sam_vit_b").path
    put.parent.mkdir(parents=True, exist_ok=True)
    torch.save(shaped(), put)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=re.escape(message)) as error:
        load_encoder(name, tmp_path / "other.pth", 64, "cpu")
    assert "\n" not in str(error.value)


def test_lora_that_does_not_fit_is_refused(tmp_path, small, monkeypatch):
    monkeypatch.setitem(ENCODERS, "samed_vit_b", dataclasses.replace(published("samed_vit_b"), vit=SMALL))
    put = published("sam_vit_b").path
    put.parent.mkdir(parents=True, exist_ok=True)
    torch.save(small, put)
    path = tmp_path / "lora.pth"
    for broken in (
        {"w_b_001": torch.zeros(47, RANK)},
        {"w_b_001": None},
        {"w_a_006": torch.zeros(RANK, 48)},
        {key: None for number in (2, 3) for key in (f"w_a_{number:03d}", f"w_b_{number:03d}")},
    ):
        torch.save({key: value for key, value in {**lora(48, 3), **broken}.items() if value is not None}, path)
        with pytest.raises(WeightsError, match=r"do not fit the encoder's 3 blocks"):
            load_encoder("samed_vit_b", path, 32, "cpu")
    torch.save(lora(48, 3), path)
    encoder = load_encoder("samed_vit_b", path, 32, "cpu")
    both = f"{file_sha256(put)} {file_sha256(path)}"
    assert encoder.config.sha256 == hashlib.sha256(both.encode()).hexdigest()
    put.unlink()
    with pytest.raises(WeightsError, match="SAM's weights for 'sam_vit_b' are not at"):
        load_encoder("samed_vit_b", path, 32, "cpu")


def test_adapters_need_an_even_number_of_tokens():
    with pytest.raises(InputError, match="image_size 176 is not a multiple of 32"):
        build_vit(dataclasses.replace(SMALL, adapters=True), 176)
    plain, adapted = (vit_gflop(dataclasses.replace(SMALL, adapters=adapted), 64) for adapted in (False, True))
    assert (adapted - plain) * 1e9 == pytest.approx(2 * 3 * 16 * 48**2 * 25 / 4)


def model_on(name, sha256, image_size=64):
    row = published(name)
    encoder = EncoderConfig(name, image_size, sha256, normalisation=row.normalisation)
    decoder = Sam3dDecoder(2, (256, 4, 4, 4, 4))
    card = ModelCard("m", "", "MRI", (Label(1, "Blob", (255, 0, 0)),), encoder, DecoderConfig(2, (256, 4, 4, 4, 4)))
    return Sam3dModel(card, decoder)


@pytest.mark.parametrize("name", ["medsam_vit_b", "medicosam_vit_b", "sam_med2d_vit_b"])
def test_a_colleague_without_the_file_is_told_which_and_where(name, tmp_path, run_cli):
    """And not to download SAM's, whose hash then would not be the model's."""
    save_model(model_on(name, "1" * 64), tmp_path / "m.sam3d")
    result = run_cli("segment", MRI, "-o", tmp_path / "o.nrrd", "--model", tmp_path / "m.sam3d")
    row = published(name)
    assert result.returncode == 1
    assert f"{row.family}'s weights for {name!r} are not at" in result.stderr
    assert f"get {row.file_name} from {row.source} and put it there" in result.stderr
    assert "weights download" not in result.stderr
    assert not (tmp_path / "o.nrrd").exists()


def test_a_model_computes_with_the_normalisation_of_its_card(tmp_path, small):
    """Trained on MedSAM's file: its own; trained when all files were SAM's, as older cards were: SAM's."""
    path = tmp_path / "medsam_vit_b.pth"
    torch.save(small, path)
    loaded = find_encoder("medsam_vit_b").load_for_training(EncoderConfig("", 32), torch.device("cpu"), path)
    config = loaded.uncached().config
    assert config == EncoderConfig("medsam_vit_b", 32, file_sha256(path), normalisation="unit")
    for name, normalisation in (("medsam_vit_b", "unit"), ("sam_vit_b", "sam"), ("medsam_vit_b", "sam")):
        model = model_on(name, config.sha256, 32)
        encoder = dataclasses.replace(model.card.encoder, normalisation=normalisation)
        save_model(
            dataclasses.replace(model, card=dataclasses.replace(model.card, encoder=encoder)), tmp_path / "m.sam3d"
        )
        again = load_model(tmp_path / "m.sam3d")
        assert again.card.encoder == again.load_encoder("cpu", checkpoint=path).config == encoder
