import dataclasses
import json

import pytest
import safetensors.torch
import torch

from SAM3DSegmentLib.base.errors import InputError, ModelFileError
from SAM3DSegmentLib.base.folders import models_folder
from SAM3DSegmentLib.base.jsonable import from_json, to_json
from SAM3DSegmentLib.card import (
    DecoderConfig,
    EncoderConfig,
    Label,
    ModelCard,
    SlicingRule,
    Terminology,
    TrainingSummary,
    VitConfig,
)
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.model_file import Sam3dModel, load_model, save_model
from SAM3DSegmentLib.model_store import bundled_folder, find_model, list_models, read_card
from SAM3DSegmentLib.sam.vit import build_vit
from SAM3DSegmentLib.settings import TrainingConfig

VIT = VitConfig(48, 1, 2, (0,))


def small_model(name="small"):
    card = ModelCard(
        name=name,
        description="a test",
        modality="MRI",
        labels=(Label(3, "Left", (10, 20, 30), type=Terminology("SCT", "72107004", "Hippocampus")),),
        encoder=EncoderConfig("compact_vit", 32, "abc", VIT),
        decoder=DecoderConfig(2, (256, 8, 8, 4, 4)),
        slicing=SlicingRule("sagittal", 2.0),
        spacing_mm=(1.0, 0.5, 0.5),
        training=TrainingSummary(cases=5, dice={"Left": 0.5}),
    )
    torch.manual_seed(0)
    tensors = {key: value.half() for key, value in build_vit(VIT, 32).state_dict().items()}
    return Sam3dModel(card, Sam3dDecoder(2, (256, 8, 8, 4, 4)), tensors)


def test_a_card_without_a_normalisation_means_sams(bundled_model):
    """As of every model that is older than the field, the bundled one among them."""
    old = to_json(small_model().card)
    del old["encoder"]["normalisation"]
    assert from_json(ModelCard, old).encoder.normalisation == "sam"
    assert bundled_model.card.encoder.normalisation == "sam"
    assert bundled_model.load_encoder("cpu").config == bundled_model.card.encoder


def test_a_model_comes_back_whole(tmp_path):
    model = small_model()
    save_model(model, tmp_path / "small.sam3d")
    back = load_model(tmp_path / "small.sam3d")
    assert back.card == model.card
    assert len(back.sha256) == 64
    for key, value in model.decoder.state_dict().items():
        assert torch.equal(back.decoder.state_dict()[key], value)
    for key, value in model.encoder_tensors.items():
        assert torch.equal(back.encoder_tensors[key], value)
    embeddings = back.load_encoder("cpu")(torch.zeros(1, 3, 32, 32))
    assert embeddings.shape == (1, 256, 2, 2)
    assert not any(parameter.requires_grad for parameter in back.decoder.parameters())


def test_weights_that_are_whole_in_half_precision_take_half_the_room(tmp_path):
    """1/3 is not, so its tensor stays as it is; either way what is read is what was there."""
    model = small_model()
    state = model.decoder.state_dict()
    model.decoder.load_state_dict({key: value.half() for key, value in state.items()})
    first, *others = state
    model.decoder.state_dict()[first].view(-1)[0] = 1 / 3
    save_model(model, tmp_path / "m.sam3d")
    stored = safetensors.torch.load_file(tmp_path / "m.sam3d")
    assert stored[f"decoder.{first}"].dtype == torch.float32
    assert {stored[f"decoder.{key}"].dtype for key in others} == {torch.float16}
    for key, value in load_model(tmp_path / "m.sam3d").decoder.state_dict().items():
        assert torch.equal(value, model.decoder.state_dict()[key])


def test_the_card_is_read_alone(tmp_path):
    save_model(small_model(), tmp_path / "small.sam3d")
    assert read_card(tmp_path / "small.sam3d") == small_model().card


def test_saving_leaves_no_partial_file_and_keeps_the_old_one(tmp_path):
    save_model(small_model(), tmp_path / "m.sam3d")
    before = (tmp_path / "m.sam3d").read_bytes()
    broken = dataclasses.replace(small_model(), encoder_tensors={"x": "not a tensor"})
    with pytest.raises(AttributeError):
        save_model(broken, tmp_path / "m.sam3d")
    assert [path.name for path in tmp_path.iterdir()] == ["m.sam3d"]
    assert (tmp_path / "m.sam3d").read_bytes() == before
    with pytest.raises(InputError, match="cannot be written"):
        save_model(small_model(), tmp_path / "nowhere" / "m.sam3d")


def damage(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


@pytest.mark.parametrize(
    "change",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK\x03\x04" + data, lambda data: data[:9]],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, change):
    path = tmp_path / "small.sam3d"
    save_model(small_model(), path)
    damage(path, change)
    with pytest.raises(ModelFileError) as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def rewrite(path, header):
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata={"sam3dsegment": json.dumps(header)})


def test_other_formats_and_versions_are_refused(tmp_path):
    path = tmp_path / "small.sam3d"
    save_model(small_model(), path)
    header = {"format_version": 1, **to_json(small_model().card)}
    rewrite(path, {**header, "format_version": 99})
    with pytest.raises(ModelFileError, match="format version 99"):
        load_model(path)
    rewrite(path, {**header, "surprise": 1})
    with pytest.raises(ModelFileError, match="'surprise' is not a field"):
        load_model(path)
    rewrite(path, {**header, "decoder": {"num_classes": 2}})
    with pytest.raises(ModelFileError, match="do not fit its own card"):
        load_model(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="is not a SAM3DSegment model"):
        load_model(path)


def test_models_are_found_by_name_and_by_path(tmp_path):
    assert find_model("hippocampus-mri").parent == bundled_folder()
    models_folder().mkdir(parents=True)
    save_model(small_model(), models_folder() / "mine.sam3d")
    assert [path.stem for path in list_models()] == ["hippocampus-mri", "mine"]
    assert find_model("mine") == models_folder() / "mine.sam3d"
    assert find_model(models_folder() / "mine.sam3d") == models_folder() / "mine.sam3d"
    with pytest.raises(InputError, match="'yours' is unknown; use a model file, or one of hippocampus-mri, mine"):
        find_model("yours")
    with pytest.raises(InputError, match="does not exist"):
        find_model(tmp_path / "gone.sam3d")


def test_the_bundled_model_is_small_and_tells_how_its_figure_was_obtained():
    path = find_model("hippocampus-mri")
    card = read_card(path)
    assert path.stat().st_size <= 20e6
    assert card.licence == "CC-BY-SA 4.0"
    assert "neither training nor" in card.training.dice_note
    assert card.training.dice_cases == 40
    assert sum(card.training.dice.values()) / 2 > 0.87


def test_json_of_a_config_comes_back_and_misspelling_is_an_error():
    config = TrainingConfig(channels=(256, 64, 32, 16, 8), labels=small_model().card.labels)
    assert from_json(TrainingConfig, json.loads(json.dumps(to_json(config)))) == config
    with pytest.raises(InputError, match="'learning_rat' is not a field"):
        from_json(TrainingConfig, {"learning_rat": 1})
    with pytest.raises(InputError, match="'fast' does not have the type float"):
        from_json(TrainingConfig, {"learning_rate": "fast"})
    for size in (16, 100, 5000):
        with pytest.raises(InputError, match=f"image_size {size}"):
            from_json(EncoderConfig, {"name": "x", "image_size": size})
