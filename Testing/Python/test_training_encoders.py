"""Which encoder a training has that names none, and the settings that come with it: the same by every front door."""

import dataclasses
import json

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, ROOT
from SAM3DSegmentLib.base.hashes import file_sha256
from SAM3DSegmentLib.base.jsonable import to_json
from SAM3DSegmentLib.card import Label, WindowRule
from SAM3DSegmentLib.preparation import SquareFit
from SAM3DSegmentLib.sam.encoders import ENCODERS, published
from SAM3DSegmentLib.settings import TrainingConfig
from SAM3DSegmentLib.training.classes import has_sides
from SAM3DSegmentLib.training.design import depth_for
from SAM3DSegmentLib.training.plan import make_config, make_plan
from test_training_samples import write_case


@pytest.fixture
def weights():
    """SAM's weights, as far as a plan looks."""
    path = ENCODERS["sam_vit_b"].path
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_without_sams_weights_an_encoder_of_its_own_with_a_detail_part_is_trained(run_cli):
    for config in (TrainingConfig(), make_config({}, {}), make_config({}, {"encoder": "compact_vit"})):
        plan = make_plan(HIPPOCAMPUS, config)
        assert plan.config == make_plan(HIPPOCAMPUS, TrainingConfig()).config
        assert (plan.config.encoder, plan.config.learning_rate) == ("compact_vit", 3e-3)
        assert plan.card.decoder.detail == (16, 32, 64, 128)
        assert plan.card.decoder.channels == (256, 32, 16, 16, 16)
    said = run_cli("train", "--data", HIPPOCAMPUS, "--check").stdout
    assert (
        "encoder: compact_vit, trained with the decoder (SAM's weights are not on this computer), with a detail part"
        in said
    )


def test_with_sams_weights_these_are_taken(weights, run_cli, tmp_path, monkeypatch):
    for config in (TrainingConfig(), make_config({}, {})):
        plan = make_plan(HIPPOCAMPUS, config)
        assert plan.config == TrainingConfig(encoder="sam_vit_b")
        assert plan.card.window == WindowRule()
    assert (
        "encoder: sam_vit_b, frozen, without a detail part" in run_cli("train", "--data", HIPPOCAMPUS, "--check").stdout
    )
    weights.unlink()
    given = tmp_path / "elsewhere.pth"
    given.write_bytes(b"SAM's")
    known = dataclasses.replace(published("sam_vit_b"), sha256=file_sha256(given))
    monkeypatch.setitem(ENCODERS, "sam_vit_b", known)
    assert make_config({}, {}, given).encoder == "sam_vit_b"
    assert make_plan(HIPPOCAMPUS, TrainingConfig(), sam_checkpoint=given).config.encoder == "sam_vit_b"


def test_what_is_given_stays_as_it_is():
    given = {"learning_rate": 1e-3, "window": {"depth": 16, "overlap": 8}, "detail": [], "training_depth": 16}
    config = make_config(given, {})
    plan = make_plan(HIPPOCAMPUS, config)
    assert {name: to_json(plan.config)[name] for name in given} == {**given, "detail": ()}
    assert plan.card.window == WindowRule(16, 8)
    python = TrainingConfig(encoder="compact_vit", image_size=48)
    assert make_plan(HIPPOCAMPUS, python).config == python


def test_sizes_come_from_the_cases(tmp_path):
    """Hippocampi have slices of about 35 x 50 pixels: 56 cells of the third level cover these."""
    plan = make_plan(HIPPOCAMPUS, TrainingConfig())
    assert (plan.image_size, plan.card.decoder.levels, plan.config.training_depth) == (112, 3, 64)
    assert plan.card.window == WindowRule(64, 32)
    for name in ("one", "two"):
        files = write_case(tmp_path, name, size_ijk=(200, 180, 6))
        files.image.rename(tmp_path / f"{name}.nii.gz")
    plan = make_plan(tmp_path, TrainingConfig(look_twice=False))
    assert (plan.image_size, plan.card.decoder.levels, plan.config.training_depth) == (256, 4, 29)
    assert plan.card.window == WindowRule(29, 14)


@pytest.mark.parametrize(("pixels", "depth"), [(16, 64), (128, 64), (200, 26), (256, 16), (512, 16)])
def test_a_training_sample_has_the_fewer_slices_the_larger_these_are(pixels, depth):
    assert depth_for(SquareFit.of_slices(pixels, pixels, (1.0, 1.0), 256)) == depth


def test_the_settings_of_the_benchmark_repeat_no_default():
    benchmarks = ROOT / "Utilities" / "benchmarks"
    for path in benchmarks.glob("*.json"):
        settings = json.loads(path.read_text())
        for name in set(settings) - {"encoder"}:
            without = {key: value for key, value in settings.items() if key != name}
            assert make_config(without, {}) != make_config(settings, {}), f"{name} of {path.name}"


def write_kidneys(folder, names=None):
    """Two cases with a structure on each side, stored with i to the left in one and to the right in the other."""
    for number, direction in enumerate((1, -1)):
        array = np.zeros((8, 20, 40), np.uint8)
        array[2:6, 5:15, 4:12], array[2:6, 5:15, 29:37] = (1, 2)[::direction]
        for what, values in (("", array * 100.0), ("_label", array)):
            image = sitk.GetImageFromArray(values)
            image.SetDirection((direction, 0, 0, 0, direction, 0, 0, 0, 1))
            sitk.WriteImage(image, str(folder / f"case{number}{what}.nii.gz"))
    if names:
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **names}}))


def flips(folder):
    """Whether views are flipped in training; the model decodes a mirrored view just then."""
    plan = make_plan(folder, make_config({}, {}))
    assert plan.card.mirror == plan.config.augmentation.flip_left_right
    return plan.card.mirror


def test_views_are_flipped_unless_a_structure_has_a_side(tmp_path):
    assert flips(HIPPOCAMPUS)
    write_kidneys(tmp_path)
    plan = make_plan(tmp_path, make_config({}, {}))
    assert [case.sides for case in plan.facts] == [{"Label 1": -1.0, "Label 2": 1.0}] * 2 or [
        case.sides for case in plan.facts
    ] == [{"Label 1": 1.0, "Label 2": -1.0}] * 2
    assert not flips(tmp_path)
    assert make_config({}, {"encoder": "sam_vit_b"}).augmentation.flip_left_right is False
    assert not make_plan(HIPPOCAMPUS, make_config({"mirror": False}, {})).card.mirror


@pytest.mark.parametrize(
    ("name", "has_side"),
    [
        ("Left kidney", True),
        ("kidney_R", True),
        ("hippocampus-lh", True),
        ("Linke Niere", True),
        ("rein droit", True),
        ("左腎", True),
        ("Liver", False),
        ("Bright tumour", False),
        ("cleft", False),
        ("Rectum", False),
        ("L3", True),  # a vertebra: not flipped, which costs little
    ],
)
def test_a_side_is_known_by_the_name(name, has_side):
    assert has_sides((), (Label(1, name, (1, 2, 3)),)) == has_side
