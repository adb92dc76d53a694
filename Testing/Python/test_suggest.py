"""What to paint next: which volumes and slices are chosen, and the simulation of what that saves."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from conftest import HIPPOCAMPUS
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.base.watch import UNWATCHED
from SAM3DSegmentLib.bench.suggest import AT_RANDOM, SUGGESTED, Hidden, Simulation, make_table, run_simulation
from SAM3DSegmentLib.bench.suggestion import (
    GUESSED,
    Seen,
    choose_slices,
    choose_volumes,
    find_border,
    see,
    spread,
)
from SAM3DSegmentLib.card import SlicingRule
from SAM3DSegmentLib.formats.volumes import Volume, read_volume
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.settings import TrainingConfig

CONFIG = TrainingConfig(
    encoder="compact_vit",
    image_size=32,
    channels=(256, 16, 16, 8, 8),
    slicing=SlicingRule("coronal"),
    batch_size=1,
    training_depth=12,
    validation_cases=1,
    test_cases=1,
    validations=1,
)


def test_the_border_is_what_lies_beside_another_label():
    labels = np.zeros((1, 5, 5), np.uint8)
    labels[0, 1:4, 1:4] = 1
    expected = np.ones((1, 5, 5), bool)
    expected[0, 2, 2] = expected[0, [0, 0, 4, 4], [0, 4, 0, 4]] = False
    assert np.array_equal(find_border(labels), expected)
    assert not find_border(np.zeros((3, 4, 5), np.uint8)).any()


def test_items_are_spread_by_their_worth_and_distance():
    places = np.arange(5.0)[:, None]
    none = places[:0]
    assert spread(np.array([0, 1, 3, 1, 0]), places, none, 9) == [2, 1, 3]  # without worth, never
    assert spread(np.array([1, 1, 3, 1, 2]), places, none, 2) == [2, 4]
    assert spread(np.array([1, 1, 1, 1, 2]), places, places[4:], 2) == [0, 2]  # far from what is there, then between
    assert spread(np.ones(3), np.zeros((3, 2)), np.zeros((0, 2)), 3) == [0]  # all alike: one is enough


def test_uncertain_and_unlike_volumes_come_first():
    def seen(uncertainty, *embedding):
        return Seen(0, 1.0, uncertainty, np.ones(4), np.array(embedding, np.float32))

    alike = [seen(0.3, 0, 0), seen(0.1, 0, 0.1), seen(0.2, 5, 5)]
    assert choose_volumes(alike, [], 2) == [0, 2]
    assert choose_volumes(alike, [np.array([5, 5], np.float32)], 1) == [0]
    assert choose_volumes(alike, [np.array([0, 0], np.float32)], 1) == [2]


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_volume_is_seen_alike_however_its_axes_are_stored(bundled_model, order):
    """The slices are numbered along the stored axis that the model slices along."""
    image = read_volume(sorted((HIPPOCAMPUS / "imagesTr").glob("*.nii.gz"))[0])
    matrix = image.ijk_to_ras.copy()
    matrix[:, :3] = image.ijk_to_ras[:, [2 - order[2 - axis] for axis in range(3)]]
    segmenter = Segmenter.load(bundled_model, "cpu")
    plain = see(segmenter, image)
    turned = see(segmenter, Volume(np.ascontiguousarray(image.array_kji.transpose(order)), matrix, image.path))
    assert turned.axis == order.index(plain.axis)
    assert turned.uncertainty == pytest.approx(plain.uncertainty, abs=0.01)
    assert choose_slices(turned)[:3] == choose_slices(plain)[:3]
    np.testing.assert_allclose(turned.embedding, plain.embedding, atol=0.01)
    assert len(plain.in_slice) == image.array_kji.shape[plain.axis]
    labels = np.moveaxis(segmenter.segment(image.array_kji, image.ijk_to_ras), plain.axis, 0)
    assert all(labels[number].any() for number in choose_slices(plain)[:3])

    black = Volume(np.zeros_like(image.array_kji), image.ijk_to_ras, image.path)
    nothing = see(segmenter, black)
    if not segmenter.segment(black.array_kji, black.ijk_to_ras).any():
        assert nothing.uncertainty == GUESSED
        assert choose_slices(nothing) == []


def test_hidden_slices_are_painted_evenly_or_as_suggested():
    hidden = Hidden(np.arange(10, 22), 30)
    assert hidden.evenly(3) == [12, 16, 20]
    assert hidden.blank() == [9, 5, 1, 22, 26]
    assert hidden.suggested([21, 5, 11, 13, 15], 3) == [11, 13, 21]  # 5 turns out to be blank
    assert hidden.suggested([11], 3) == [11, 12, 16]


@pytest.mark.slow
def test_each_way_draws_as_much_and_rows_are_kept(tmp_path):
    data = tmp_path / "data"
    for kind in ("imagesTr", "labelsTr"):
        (data / kind).mkdir(parents=True)
        for path in (HIPPOCAMPUS / kind).iterdir():
            for copy in "ab":
                shutil.copy(path, data / kind / f"{copy}{path.name}")
    simulation = Simulation(data, CONFIG, 1, 3, 4, 5, 2, 2, 2, (0,), device="cpu")
    rows = run_simulation(simulation, tmp_path / "out", UNWATCHED)
    drawn = {(row["way"], row["cases"]): row["drawn"] for row in rows}
    assert drawn == {(AT_RANDOM, 1): 2, (SUGGESTED, 3): 6, (AT_RANDOM, 3): 6, (AT_RANDOM, 4): 8}
    assert all(0 <= row["dice"] <= 1 and row["steps"] >= 2 for row in rows)
    assert json.loads((tmp_path / "out" / "suggest.json").read_text())["rows"] == rows
    assert (tmp_path / "out" / "suggest.md").read_text() == make_table(rows)
    assert run_simulation(simulation, tmp_path / "out", UNWATCHED) == rows  # to the second: nothing was trained again
    with pytest.raises(InputError, match="was measured with another steps"):
        run_simulation(dataclasses.replace(simulation, steps=3), tmp_path / "out", UNWATCHED)


def test_a_simulation_needs_ascending_cases_and_held_out_ones(tmp_path):
    with pytest.raises(InputError, match="ascending"):
        Simulation(HIPPOCAMPUS, CONFIG, 5, 5, 6, 9, 2, 2, 2, (0,))
    with pytest.raises(InputError, match="has 2 training cases, not 3"):
        run_simulation(Simulation(HIPPOCAMPUS, CONFIG, 1, 2, 3, 9, 2, 2, 2, (0,)), tmp_path, UNWATCHED)
    with pytest.raises(InputError, match="test_cases is 0"):
        Simulation(HIPPOCAMPUS, dataclasses.replace(CONFIG, test_cases=0), 1, 2, 3, 9, 2, 2, 2, (0,))
