"""Model files and checkpoints that cannot be used: each is refused in one line that names the file and the reason."""

import dataclasses
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch.torch_version import TorchVersion

from conftest import MODULE, MRI
from SAM3DSegmentLib.base.errors import InputError, ModelFileError, WeightsError
from SAM3DSegmentLib.base.folders import models_folder
from SAM3DSegmentLib.base.jsonable import to_json
from SAM3DSegmentLib.card import VitConfig
from SAM3DSegmentLib.encoder import load_encoder
from SAM3DSegmentLib.model_file import import_model, load_model, save_model
from SAM3DSegmentLib.model_store import list_models, read_card
from SAM3DSegmentLib.sam.checkpoints import read_checkpoint
from SAM3DSegmentLib.sam.encoders import ENCODERS, published
from SAM3DSegmentLib.sam.pickled import SAFE_TORCH
from SAM3DSegmentLib.sam.vit import build_vit
from test_model_file import small_model

HEADER = {"format_version": 1, **to_json(small_model().card)}


def shape_sam_vit_b(monkeypatch, vit):
    """A small ViT in place of SAM's."""
    monkeypatch.setitem(ENCODERS, "sam_vit_b", dataclasses.replace(published("sam_vit_b"), vit=vit))


def changed(*keys_and_value):
    """HEADER with one value changed, given by the keys that lead to it."""
    *keys, value = keys_and_value
    header = json.loads(json.dumps(HEADER))
    inner = header
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return header


def with_header(header):
    """A model whose card is `header`, written as it is."""

    def write(path):
        text = header if isinstance(header, str) else json.dumps(header)
        safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata={"sam3dsegment": text})

    return write


def with_tensor(name, tensor):
    """A model with one tensor more, or another one; None takes it away."""

    def write(path):
        tensors = {**safetensors.torch.load_file(path), name: tensor}
        tensors = {key: value for key, value in tensors.items() if value is not None}
        safetensors.torch.save_file(tensors, path, metadata={"sam3dsegment": json.dumps(HEADER)})

    return write


def with_bytes(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def of_header_length(length):
    return with_bytes(lambda data: struct.pack("<Q", length) + data[8:])


def with_raw_header(text):
    return with_bytes(lambda data: struct.pack("<Q", len(text)) + text + bytes(1000))


def pickled(path):
    with open(path, "wb") as file:
        pickle.dump({"decoder": 1}, file)


def a_folder(path):
    path.unlink()
    path.mkdir()


def dangling(path):
    path.unlink()
    path.symlink_to(path.with_name("gone"))


LABEL = HEADER["labels"][0]
HEAD = "decoder.heads.0.weight"
ENCODER = "encoder.pos_embed"

# Name of the case: how a good file is made bad, and what the message says.
BAD_MODELS = {
    "empty": (with_bytes(lambda data: b""), "is empty"),
    "seven bytes": (with_bytes(lambda data: data[:7]), "not a model file"),
    "header cut": (with_bytes(lambda data: data[:200]), "not a model file"),
    "data cut": (with_bytes(lambda data: data[:-1]), "damaged"),
    "data cut in half": (with_bytes(lambda data: data[: len(data) // 2]), "damaged"),
    "data too long": (with_bytes(lambda data: data + b"more"), "damaged"),
    "pickle": (pickled, "is a Python or torch pickle"),
    "torch file": (lambda path: torch.save({"x": torch.zeros(1)}, path), "is a Python or torch pickle"),
    "text": (with_bytes(lambda data: b"these are notes about a model, no model"), "not a model file"),
    "image": (with_bytes(lambda data: MRI.read_bytes()), "not a model file"),
    "folder": (a_folder, "is a folder"),
    "dangling link": (dangling, "No such file"),
    "header of 1 GB": (of_header_length(10**9), "not a model file"),
    "header of 2^64 bytes": (of_header_length(2**64 - 1), "not a model file"),
    "header of nothing": (of_header_length(0), "not a model file"),
    "header is no JSON": (with_raw_header(b"{" * 500), "not a model file"),
    "header is a list": (with_raw_header(b"[1, 2]"), "not a model file"),
    "header without end": (with_raw_header(b"[" * 100_000), "not a model file"),
    "no card": (lambda path: safetensors.torch.save_file({"x": torch.zeros(1)}, path), "not a SAM3DSegment model"),
    "card is no JSON": (with_header("{"), "damaged"),
    "card is a list": (with_header("[]"), "damaged"),
    "no version": (with_header({k: v for k, v in HEADER.items() if k != "format_version"}), "damaged"),
    "newer version": (with_header(changed("format_version", 2)), "format version 2.*update SAM3DSegment"),
    "field of a newer version": (with_header(changed("surprise", 1)), "'surprise' is not a field.*update SAM3DSegment"),
    "newer field deep inside": (with_header(changed("encoder", "vit", "register", 4)), "'register' is not a field"),
    "newer value": (with_header(changed("decoder", "upsampling", "learned")), "'learned' is unknown.*update SAM3D"),
    "field is missing": (with_header({k: v for k, v in HEADER.items() if k != "labels"}), "labels"),
    "wrong type": (with_header(changed("mirror", "yes")), "'yes' does not have the type bool"),
    "number for a list": (with_header(changed("labels", 5)), "5 is not a list"),
    "text in a table": (
        with_header(changed("training", "dice", {"Left": "good"})),
        "'good' does not have the type float",
    ),
    "spacing of one number": (with_header(changed("spacing_mm", [1.0])), "has 1 items instead of 3"),
    "colour of two numbers": (with_header(changed("labels", 0, "color", [1, 2])), "has 2 items instead of 3"),
    "label value 300": (with_header(changed("labels", 0, "value", 300)), "label value 300"),
    "two labels of one value": (
        with_header({**changed("labels", [LABEL, {**LABEL, "name": "B"}]), "decoder": {"num_classes": 3}}),
        r"label values \[3, 3\] are not all different",
    ),
    "two labels of one name": (
        with_header({**changed("labels", [LABEL, {**LABEL, "value": 4}]), "decoder": {"num_classes": 3}}),
        r"label names \['Left', 'Left'\] are not all different",
    ),
    "more classes than labels": (with_header(changed("decoder", "num_classes", 3)), "1 labels do not fit 3 classes"),
    "window of NaN": (with_header(changed("intensity", "low", float("nan"))), "intensity range"),
    "impossible image size": (with_header(changed("encoder", "image_size", 10**9)), "image_size 1000000000"),
    "impossible depth": (with_header(changed("encoder", "vit", "depth", 10**9)), "1000000000 blocks"),
    "no heads": (with_header(changed("encoder", "vit", "num_heads", 0)), "0 heads"),
    "channels of petabytes": (with_header(changed("decoder", "channels", [10**7] * 5)), "do not fit its own card"),
    "channels beyond numbers": (with_header(changed("decoder", "channels", [10**30] * 5)), "do not fit its own card"),
    "NaN in the decoder": (with_tensor(HEAD, torch.full((2, 8, 1, 1, 1), torch.nan)), f"'{HEAD}'.*not finite numbers"),
    "Inf in the encoder": (with_tensor(ENCODER, torch.full((1, 2, 2, 48), torch.inf)), "not finite numbers"),
    "whole numbers as weights": (
        with_tensor(HEAD, torch.zeros(2, 8, 1, 1, 1, dtype=torch.int64)),
        "not finite numbers",
    ),
    "wrong shape": (with_tensor(HEAD, torch.zeros(2, 9, 1, 1, 1)), "do not fit its own card"),
    "weights are missing": (with_tensor(HEAD, None), "do not fit its own card"),
    "weights too many": (with_tensor("decoder.surprise", torch.zeros(1)), "do not fit its own card"),
    "tensors of a newer version": (
        with_tensor("prompt.weight", torch.zeros(1)),
        "'prompt.weight'.*update SAM3DSegment",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "good.sam3d"
    save_model(small_model(), path)
    return path.read_bytes()


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_refused_in_one_line(tmp_path, good, case):
    make_bad, message = BAD_MODELS[case]
    path = tmp_path / "m.sam3d"
    path.write_bytes(good)
    assert load_model(path).card.name == "small"
    make_bad(path)
    with pytest.raises(ModelFileError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelFileError):
        import_model(path)
    assert not models_folder().exists()


def test_a_model_that_may_not_be_read(tmp_path, good):
    """Read by a child of another user where the tests run as root, who may read everything."""
    path = tmp_path / "m.sam3d"
    path.write_bytes(good)
    path.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(ModelFileError, match=r"Permission denied.*check its permissions"):
            read_card(path)
        return
    code = (
        "import os, sys; from SAM3DSegmentLib.model_store import find_model, read_card\n"
        "from SAM3DSegmentLib.base.errors import ModelFileError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: read_card(find_model(sys.argv[1]))\n"
        "except ModelFileError as error: print(error)\n"
    )
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", code, path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(MODULE)},
    )
    assert "Permission denied" in result.stdout, result.stderr


@pytest.mark.slow
def test_a_bad_model_costs_no_memory(tmp_path, good):
    """The cards that ask for petabytes are refused by a process that may take no more than it has."""
    for case in ("channels of petabytes", "impossible image size", "header of 1 GB"):
        path = tmp_path / f"{case}.sam3d"
        path.write_bytes(good)
        BAD_MODELS[case][0](path)
    code = (
        "import resource, sys, psutil; from pathlib import Path\n"
        "from SAM3DSegmentLib.model_file import load_model; from SAM3DSegmentLib.base.errors import ModelFileError\n"
        "taken = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 200_000_000,) * 2)\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.sam3d')):\n"
        "    try: load_model(path)\n"
        "    except ModelFileError as error: print('refused')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["refused"] * 3, result.stderr


@pytest.mark.parametrize(
    "tensors",
    [{"pos_embed": None}, {"pos_embed": torch.zeros(1, 2, 2, 40)}, {"surprise": torch.zeros(1)}],
)
def test_a_carried_encoder_that_does_not_fit(tmp_path, tensors):
    model = small_model()
    carried = {key: value for key, value in {**model.encoder_tensors, **tensors}.items() if value is not None}
    save_model(dataclasses.replace(model, encoder_tensors=carried), tmp_path / "m.sam3d")
    for use in (load_model, import_model):
        with pytest.raises(ModelFileError, match="do not fit its own card"):
            use(tmp_path / "m.sam3d")
    assert not models_folder().exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds no image_encoder"),
        (torch.zeros(3), "holds no image_encoder"),
        ({1: torch.zeros(1)}, "holds no image_encoder"),
        ({"model": [1, 2]}, "holds no image_encoder"),
        ({"image_encoder.pos_embed": "text"}, "'pos_embed'.*not finite number"),
        ({"image_encoder.pos_embed": torch.full((1, 2, 2, 768), torch.nan)}, "'pos_embed'.*not finite number"),
        ({"image_encoder.pos_embed": torch.zeros(1)}, "do not fit this encoder"),
    ],
)
def test_a_bad_checkpoint_is_refused_in_one_line(tmp_path, monkeypatch, content, message):
    """With a ViT of one block in place of SAM's, which is only slow to build."""
    shape_sam_vit_b(monkeypatch, VitConfig(48, 1, 2, (0,)))
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=message) as error:
        load_encoder("sam_vit_b", path, 32)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"notes", pickle.dumps(os.getcwd), b"PK\x03\x04" + bytes(100)])
def test_bytes_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder("sam_vit_b", path, 32)


def test_a_good_checkpoint_of_that_shape_is_taken(tmp_path, monkeypatch):
    config = VitConfig(48, 1, 2, (0,))
    shape_sam_vit_b(monkeypatch, config)
    state = {f"image_encoder.{key}": value for key, value in build_vit(config, 32).state_dict().items()}
    torch.save(state, tmp_path / "checkpoint.pth")
    assert load_encoder("sam_vit_b", tmp_path / "checkpoint.pth", 32, "cpu").image_size == 32


@pytest.fixture
def torch_before_2_10(monkeypatch):
    monkeypatch.setattr("SAM3DSegmentLib.sam.pickled.SAFE_TORCH", SAFE_TORCH)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1+cu128"))
    # What such a torch does with a crafted file; nothing of the file may be read.
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was read"))


@pytest.mark.usefixtures("torch_before_2_10")
def test_a_torch_that_is_not_safe_reads_published_checkpoints_only(tmp_path, monkeypatch, run_cli):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(b"crafted")
    with pytest.raises(WeightsError, match=r"torch 2\.9\.1\+cu128 .* update torch to 2\.10 .* published file") as error:
        load_encoder("sam_vit_b", path, 32)
    assert str(path) in str(error.value)
    result = run_cli("models", "import", "--from", "sam3d", path, "-o", tmp_path / "m.sam3d")
    assert result.returncode == 1
    assert "update torch to 2.10" in result.stderr
    assert list_models() == list_models()[:1]
    known = dataclasses.replace(published("sam_vit_b"), sha256=hashlib.sha256(b"crafted").hexdigest())
    monkeypatch.setitem(ENCODERS, "sam_vit_b", known)
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"image_encoder.pos_embed": torch.zeros(1)})
    assert "pos_embed" in read_checkpoint(path, known)


HUGE = VitConfig(2048, 16, 16, (0,))


@pytest.mark.parametrize("vit", [HUGE, VitConfig(48, 64, 2, (0,)), VitConfig(48, 1, 3, (0,))])
def test_an_encoder_larger_than_its_file_is_refused_before_it_is_built(tmp_path, monkeypatch, run_cli, vit):
    """Of the first, whose file has some kB, loading took 3.1 GB before it said that the weights do not fit."""
    model = small_model()
    held = build_vit(VitConfig(48, 1, 2, (0,)), 32).state_dict()
    config = dataclasses.replace(model.card.encoder, image_size=32, vit=vit)
    card = dataclasses.replace(model.card, encoder=config)
    path = tmp_path / "large.sam3d"
    save_model(dataclasses.replace(model, card=card, encoder_tensors=held), path)
    built = []
    monkeypatch.setattr("SAM3DSegmentLib.encoder.build_vit", lambda *arguments: built.append(arguments))
    with pytest.raises(ModelFileError, match="do not fit its own card"):
        load_model(path)
    assert run_cli("models", "import", path).returncode == 1
    assert not built
    assert not models_folder().exists()


def test_importing_overwrites_nothing_unasked(tmp_path, run_cli):
    path = tmp_path / "mine.sam3d"
    save_model(small_model(), path)
    first = run_cli("models", "import", path)
    assert first.returncode == 0, first.stderr
    assert [model.stem for model in list_models()] == ["hippocampus-mri", "mine"]
    save_model(small_model("other"), path)
    with pytest.raises(InputError, match="exists already; add --overwrite"):
        import_model(path)
    assert read_card(models_folder() / "mine.sam3d").name == "small"
    assert import_model(path, overwrite=True) == models_folder() / "mine.sam3d"
    assert read_card(models_folder() / "mine.sam3d").name == "other"
    with pytest.raises(InputError, match="is also an input"):
        import_model(models_folder() / "mine.sam3d", overwrite=True)
    bundled = tmp_path / "hippocampus-mri.sam3d"
    path.rename(bundled)
    with pytest.raises(InputError, match="is the name of a bundled model"):
        import_model(bundled, overwrite=True)


def test_files_beside_the_models_are_not_taken_for_models(tmp_path):
    models_folder().mkdir(parents=True)
    for name in ("._mine.sam3d", ".7.partial.mine.sam3d"):  # macOS makes the first, a killed process the second
        (models_folder() / name).write_bytes(b"no model")
    assert [model.stem for model in list_models()] == ["hippocampus-mri"]
