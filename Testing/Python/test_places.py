"""Small structures in large volumes: blocks, places and boxes, a model that looks twice, and a training of one."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import safetensors
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, ijk_to_ras_of
from SAM3DSegmentLib.base.errors import Cancelled, InputError, ModelFileError
from SAM3DSegmentLib.base.watch import Watch
from SAM3DSegmentLib.bench.set_in import SEAM, set_in
from SAM3DSegmentLib.card import CoarseLook, SlicingRule
from SAM3DSegmentLib.cli import main
from SAM3DSegmentLib.geometry import Crop
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.model_file import load_model, save_model
from SAM3DSegmentLib.places.blocks import Blocks
from SAM3DSegmentLib.places.boxes import boxes_around, find_places, join_overlapping
from SAM3DSegmentLib.places.finder import Finder
from SAM3DSegmentLib.suitability import VolumeFacts, find_misfits
from SAM3DSegmentLib.training.case_files import CaseFiles
from SAM3DSegmentLib.training.check import check
from SAM3DSegmentLib.training.classes import CaseFacts, LabelRules
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.look import look_at_cases
from SAM3DSegmentLib.training.places import Misses, choose_grid, find_misses, guess_boxes, jitter_boxes
from SAM3DSegmentLib.training.plan import make_config, make_plan
from SAM3DSegmentLib.training.reading import read_case
from SAM3DSegmentLib.training.run import train
from SAM3DSegmentLib.training.run_folder import Options
from SAM3DSegmentLib.training.soft_labels import Wanted, find_soft_labels
from test_training import Recorded

SIZE, RADIUS = 80, 6
CPU = Options(device="cpu")


def turned(shape_kji, permutation=(0, 1, 2), flips=(False, False, False), degrees=0.0):
    """ijk_to_ras of such a volume, of 1 x 1 x 2 mm before its axes are permuted and flipped."""
    image = sitk.Image([int(n) for n in shape_kji[::-1]], sitk.sitkUInt8)
    image.SetSpacing((1, 1, 2))
    image = sitk.Flip(sitk.PermuteAxes(image, permutation), flips)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, 0, np.radians(degrees))
    image.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))).ravel())
    return ijk_to_ras_of(image)


def box_of(low, high, shape=(40, 40, 40)):
    return Crop(low, high, shape)


def case_of(*places, shape=(200, 200, 200), matrix=None, name="a", **more):
    matrix = np.eye(4) if matrix is None else matrix
    return CaseFacts(CaseFiles(name, None, None), shape, matrix, places=tuple(places), **more)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 4), (5, 7, 6)])
def test_blocks_are_means_of_voxels_and_lie_where_these_do(size):
    values = np.random.default_rng(0).integers(-1000, 1000, (7, 9, 12)).astype(np.int16)
    blocks, matrix = Blocks(values.shape, size), turned(values.shape, (2, 0, 1), (True, False, False), 20)
    means, some = blocks.average(values), blocks.any(values > 900)
    moved = blocks.move(matrix)
    for place in np.ndindex(*blocks.counts_kji):
        inside = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, size))
        assert means[place] == pytest.approx(values[inside].mean(), abs=1e-3)
        assert some[place] == (values[inside] > 900).any()
        whole = np.array([(p + 1) * s <= n for p, s, n in zip(place, size, values.shape)])
        if whole.all():
            middle = [p * s + (s - 1) / 2 for p, s in zip(place, size)]
            np.testing.assert_allclose(moved @ (*place[::-1], 1), matrix @ (*middle[::-1], 1), atol=1e-9)


def test_blocks_are_as_long_in_mm_along_each_axis_as_whole_voxels_can_be():
    matrix = np.diag([0.7, 0.7, 5.0, 1.0])
    assert Blocks.of_about(3.0, (40, 512, 512), matrix).size_kji == (1, 4, 4)
    assert Blocks.of_about(500.0, (40, 512, 512), matrix).size_kji == (40, 512, 512)


def test_boxes_hold_the_places_that_are_sure_as_far_as_they_are_possible():
    probability = np.zeros((10, 10, 10), np.float32)
    probability[2:5, 2:4, 2:4] = 0.2
    probability[3, 3, 3] = 0.9
    probability[7:9, 7:9, 7:9] = 0.4  # nowhere sure
    probability[6, 1, 1] = 0.6  # lighter
    assert len(find_places(probability, most=3)) == 2
    blocks = Blocks((40, 40, 40), (4, 4, 4))
    (box,) = boxes_around(find_places(probability, most=1), blocks, 0.0, np.eye(4))
    assert (box.low_ijk, box.high_ijk) == ((8, 8, 8), (16, 16, 20))
    (wide,) = boxes_around(find_places(probability, most=1), blocks, 9.0, np.eye(4))
    assert (wide.low_ijk, wide.high_ijk) == ((0, 0, 0), (25, 25, 29)), "cut at the volume's border"
    assert find_places(np.zeros((3, 3, 3), np.float32), most=1) == []


def test_a_network_that_is_sure_of_little_finds_no_place_as_large_as_the_volume():
    probability = np.full((40, 40, 40), 0.3, np.float32)
    probability[20, 20, 20] = 0.6
    (place,) = find_places(probability, most=1)
    np.testing.assert_array_equal(place.high_kji - place.low_kji, (5, 5, 5))


def test_boxes_that_overlap_become_one_until_none_do():
    one, other, far = box_of((0, 0, 0), (5, 5, 5)), box_of((4, 4, 4), (9, 9, 9)), box_of((20, 20, 20), (22, 22, 22))
    bridge = box_of((8, 8, 8), (21, 21, 21))
    assert join_overlapping([one, far]) == (one, far)
    assert join_overlapping([one, far, other]) == (far, box_of((0, 0, 0), (9, 9, 9)))
    assert join_overlapping([one, far, other, bridge]) == (box_of((0, 0, 0), (22, 22, 22)),)
    touching = box_of((5, 0, 0), (9, 5, 5))
    assert join_overlapping([one, touching]) == (one, touching), "no voxel is in both"


@pytest.mark.parametrize(
    ("place", "shape", "spacing", "looks_twice"),
    [
        (((90, 90, 90), (110, 120, 110)), (200, 200, 200), (1, 1, 1), True),
        (((60, 90, 90), (130, 120, 110)), (200, 200, 200), (1, 1, 1), False),  # 70 of 200 along i
        (((90, 90, 5), (110, 120, 15)), (20, 200, 200), (1, 1, 5), True),  # few slices do not count
        (((10, 10, 10), (14, 14, 14)), (40, 40, 40), (1, 1, 1), False),  # a small volume
    ],
)
def test_where_structures_are_small_in_each_direction_that_counts_they_are_looked_for(
    place, shape, spacing, looks_twice
):
    case = case_of(Crop(*place, shape), shape=shape, matrix=np.diag([*spacing, 1.0]))
    grid = choose_grid([case], None)
    assert (grid is not None) == looks_twice
    assert choose_grid([case], False) is None
    assert choose_grid([case], True) is not None
    assert choose_grid([dataclasses.replace(case, is_partly_known=True)], True) is None
    if grid is not None:
        (box,) = guess_boxes([case], grid)["a"]
        assert all(a <= b for a, b in zip(box.low_ijk, case.places[0].low_ijk))


def test_structures_in_many_places_are_not_looked_for():
    """As lesions; where the settings ask for it all the same, a card can say how many."""
    lesions = [Crop((i, 7, 7), (i + 1, 9, 9), (300, 300, 300)) for i in range(0, 600, 2)]
    case = case_of(*lesions, shape=(300, 300, 300))
    assert choose_grid([case], None) is None
    assert choose_grid([case], True).places == 255


def test_painted_slices_of_a_structure_are_one_place(tmp_path):
    """In a training that begins with a model that looks twice; between the slices nobody knows."""
    painted = np.zeros((40, 40, 40), np.uint8)
    painted[8:32:8, 10:20, 12:22] = 1
    for name in ("a", "b"):
        sitk.WriteImage(sitk.GetImageFromArray(np.float32(painted)), str(tmp_path / f"{name}.nii"))
        sitk.WriteImage(sitk.GetImageFromArray(painted), str(tmp_path / f"{name}_label.nii"))
    dataset = find_dataset(tmp_path)
    looks = look_at_cases(dataset, LabelRules(only_painted=True)), look_at_cases(dataset)
    assert [[len(look.places) for look in cases] for cases in looks] == [[1, 1], [3, 3]]
    (place,) = looks[0][0].places
    assert (place.low_ijk, place.high_ijk) == ((12, 10, 8), (22, 20, 25))


@pytest.mark.parametrize("permutation", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
def test_training_boxes_are_missed_as_held_out_ones_were_in_any_storage_order(permutation, flips):
    """One miss and the same case: the box that is drawn is the box that was found, with the margin."""
    shape = np.array([60, 70, 80])
    matrix = turned(shape, permutation, flips, 20)
    shape = tuple(int(shape[::-1][axis]) for axis in permutation)[::-1]
    place, found = Crop((20, 22, 24), (30, 31, 33), shape), Crop((18, 25, 21), (33, 30, 40), shape)
    case, rule = case_of(place, shape=shape, matrix=matrix), SlicingRule()
    misses = find_misses([(case, [found])], rule)
    assert (misses.found, misses.wanted) == (1, 1)
    assert jitter_boxes([case], misses, 0.0, 1, rule, seed=0) == {"a": (found,)}
    assert misses.worst_mm == pytest.approx(3 * np.linalg.norm(matrix[:3, 1]))
    margin = np.full(3, 2.0)
    assert jitter_boxes([case], misses, 2.0, 1, rule, seed=0) == {"a": (found.grown(margin, margin, matrix),)}


def test_a_case_without_a_structure_is_trained_on_in_its_middle_as_large_as_others():
    there, empty = case_of(Crop((10, 10, 10), (20, 20, 20), (200, 200, 200))), case_of(name="b")
    boxes = jitter_boxes([there, empty], Misses(np.zeros((0, 2, 3)), 0), 0.0, 2, SlicingRule(), seed=0)
    assert boxes["a"] == there.places * 2
    assert boxes["b"][0].overlaps(Crop.middle((200, 200, 200)))
    assert max(boxes["b"][0].size_kji) <= 12


class Bright:
    """In place of a trained coarse segmenter: what is bright is a place, so that it is known what is to be found."""

    def segment_with_confidence(self, array_kji, ijk_to_ras, watch):
        watch.progress("segment", 500, 1000)
        return (array_kji[0] > 500).astype(np.uint8), np.full(array_kji[0].shape, 100, np.uint8)


@pytest.fixture
def model(tiny):
    return load_model(tiny)


def looking_twice(model, places=1, margin=2.0):
    place = dataclasses.replace(model.card.labels[0], name="place")
    decoder = dataclasses.replace(model.card.decoder, num_classes=2)
    card = dataclasses.replace(model.card, labels=(place,), decoder=decoder)
    look = CoarseLook(card, 4.0, places, margin, (20.0, 20.0, 20.0))
    network = Segmenter.load(model).network
    return Segmenter(dataclasses.replace(model.card, coarse=look), network, finder=Finder(look, Bright()))


def test_what_was_found_is_segmented_as_the_regions_are(model, caplog):
    voxels = np.random.default_rng(0).normal(100, 30, (48, 48, 48)).astype(np.float32)
    voxels[8:16, 8:16, 8:16] = voxels[32:40, 28:40, 32:40] = 2000
    segmenter, told = looking_twice(model, places=2), Recorded()
    labels, confidence = segmenter.segment_with_confidence(voxels, np.eye(4), Watch(told))
    assert [str(box) for box in segmenter.boxes] == ["30:42,26:42,30:42", "6:18,6:18,6:18"]
    expected = np.zeros_like(labels)
    sure = np.zeros_like(labels)
    for box in segmenter.boxes:
        part = segmenter.segment_with_confidence(voxels, np.eye(4), region=str(box))
        expected += part[0]
        sure += part[1]
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(confidence, sure)
    done = [done for stage, done, total in told.stages if stage == "segment" and total == 1000]
    assert done == sorted(done)
    assert done[0] < 500
    assert done[-1] == 1000
    whole = segmenter.segment(voxels, np.eye(4), region="whole")
    assert segmenter.boxes == (Crop.whole(voxels.shape),)
    np.testing.assert_array_equal(whole, Segmenter.load(model).segment(voxels, np.eye(4)))


def test_where_nothing_is_found_the_whole_volume_is_segmented_and_that_is_said(model, caplog):
    voxels = np.random.default_rng(0).normal(100, 30, (20, 24, 28)).astype(np.float32)
    segmenter = looking_twice(model)
    np.testing.assert_array_equal(
        segmenter.segment(voxels, np.eye(4)), Segmenter.load(model).segment(voxels, np.eye(4))
    )
    assert "found no structure" in caplog.text
    with pytest.raises(Cancelled):
        segmenter.segment(voxels, np.eye(4), Watch(cancelled=lambda: True))


@pytest.mark.parametrize("has_own_encoder", [False, True])
def test_a_model_that_looks_twice_is_one_file(model, tmp_path, has_own_encoder):
    card = looking_twice(model).card
    encoder = dataclasses.replace(card.encoder, sha256="0" * 64 if has_own_encoder else card.encoder.sha256)
    coarse_card = dataclasses.replace(card.coarse.card, encoder=encoder)
    card = dataclasses.replace(card, coarse=dataclasses.replace(card.coarse, card=coarse_card))
    both = dataclasses.replace(model, card=card, coarse=dataclasses.replace(copy.deepcopy(model), card=coarse_card))
    save_model(both, tmp_path / "both.sam3d")
    again = load_model(tmp_path / "both.sam3d")
    assert again.card == card
    for key, value in model.decoder.state_dict().items():
        np.testing.assert_array_equal(again.coarse.decoder.state_dict()[key], value)
    for key, value in model.encoder_tensors.items():
        np.testing.assert_array_equal(again.coarse.encoder_tensors[key], value)
    with safetensors.safe_open(tmp_path / "both.sam3d", "pt") as file:
        assert any(key.startswith("coarse.encoder") for key in file.keys()) == has_own_encoder  # noqa: SIM118
    assert Segmenter.load(again).segment(np.zeros((8, 40, 40), np.int16), np.eye(4)).shape == (8, 40, 40)
    save_model(dataclasses.replace(both, coarse=None), tmp_path / "torn.sam3d")  # its tensors are not there
    with pytest.raises(ModelFileError, match="do not fit its own card"):
        load_model(tmp_path / "torn.sam3d")
    with pytest.raises(InputError, match="no coarse look itself"):
        dataclasses.replace(card.coarse, card=card)


def test_a_volume_cut_to_the_structure_suits_a_model_that_looks_twice(model):
    card = dataclasses.replace(looking_twice(model).card, extent_mm=(200.0, 200.0, 200.0))
    smallest, small, large = (VolumeFacts(np.eye(4), (size,) * 3, 0.0, 100.0, "MR") for size in (9, 30, 500))
    assert "20 x 20 x 20 mm" in find_misfits(card, smallest)[0], "smaller than what it looks at closely"
    assert find_misfits(card, small) == []
    assert "500 x 500 x 500 mm" in find_misfits(card, large)[0]
    assert find_misfits(dataclasses.replace(card, coarse=None), small)


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    """Volumes of 80 x 80 x 80 voxels of noise with a ball of 12 across, somewhere."""
    folder = tmp_path_factory.mktemp("balls")
    rng = np.random.default_rng(0)
    places = np.indices((SIZE,) * 3)
    for number in range(5):
        centre = rng.integers(15, SIZE - 15, (3, 1, 1, 1))
        ball = ((places - centre) ** 2).sum(0) < RADIUS**2
        grey = rng.normal(100, 20, ball.shape) + 120 * ball
        for name, array in ((f"case{number}", grey.astype(np.float32)), (f"case{number}_label", ball.astype(np.uint8))):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{name}.nii"))
    return folder


def settings(**more):
    """As a user without SAM's weights has them, but for the time."""
    return make_config({"encoder": "compact_vit", "validations": 1, "validation_cases": 1, **more}, {})


@pytest.mark.slow
def test_the_check_says_that_places_are_looked_for_first_and_how_not_to(balls):
    lines, problems = check(balls, settings(), CPU)
    (line,) = [line for line in lines if line.startswith("places: ")]
    assert not problems
    for text in ("on a grid of 2.75 mm", "40% of the time", "x 23 mm around each"):
        assert text in line
    assert not any(line.startswith("places") for line in check(balls, settings(look_twice=False), CPU)[0])


@pytest.mark.slow
def test_a_training_is_stopped_in_the_coarse_look_and_goes_on(balls, tmp_path):
    """By finishing, which makes a model of what was learnt, but of places alone none can be made."""
    told = Recorded()
    stop = Watch(told, finishing=lambda: any(stage == "train" for stage, *_ in told.stages))
    output, config = tmp_path / "m.sam3d", settings(epochs=1)
    with pytest.raises(Cancelled, match="--resume"):
        train(balls, output, config, CPU, stop)
    stopped = output.with_suffix(".training") / "coarse" / "coarse.training" / "run.json"
    assert "result" not in json.loads(stopped.read_text())
    again = Recorded()
    model = train(balls, output, config, dataclasses.replace(CPU, resume=True), Watch(again))
    assert not stopped.exists(), "what only a training that goes on needs is removed"
    look = model.card.coarse
    assert look.places == 1
    assert model.card.extent_mm == (80, 80, 80)
    assert max(look.extent_mm) < 50
    assert load_model(output).coarse is not None
    done = [done / total for stage, done, total in again.stages if stage == "train"]
    assert done == sorted(done)
    assert done[-1] == 1
    assert {key for event in again.events if event["event"] == "validation" for key in event["dice"]} == {"Label 1"}


@pytest.mark.slow
def test_a_small_structure_in_a_large_volume_is_found_by_the_command(balls, tmp_path):
    """Trained for half a minute, then a volume that was not trained on; and begun with for a new training."""
    config, model = tmp_path / "c.json", tmp_path / "m.sam3d"
    config.write_text(json.dumps({"encoder": "compact_vit", "epochs": 24, "validations": 1, "test_cases": 1}))
    assert main(["train", "--data", str(balls), "-o", str(model), "--config", str(config), "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "m.training" / "run.json").read_text())
    (case,) = record["splits"][0]["test"]
    report = tmp_path / "r.json"
    image = balls / f"{case}.nii"
    assert (
        main(["segment", str(image), "-o", str(tmp_path / "o.nii"), "--model", str(model), "--report", str(report)])
        == 0
    )
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "o.nii"))) > 0
    ball = sitk.GetArrayFromImage(sitk.ReadImage(str(balls / f"{case}_label.nii"))) > 0
    assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.8
    (box,) = json.loads(report.read_text())["segmented"][0]["boxes"]
    crop = Crop.named(box, ball.shape)
    assert crop.view(ball).sum() == ball.sum()
    assert max(crop.size_kji) < SIZE / 2
    more = tmp_path / "more.sam3d"
    again = ["train", "--data", str(balls), "-o", str(more), "--epochs", "1", "--device", "cpu", "--config"]
    config.write_text(json.dumps({"encoder": "compact_vit", "start_from": str(model), "validations": 1}))
    assert main([*again, str(config)]) == 0
    assert load_model(more).card.coarse.card == load_model(model).card.coarse.card, "begun with the same coarse look"


def test_complete_asks_a_model_that_looks_twice_around_the_painted_slices_alone(model):
    voxels = np.random.default_rng(0).normal(100, 30, (48, 50, 52)).astype(np.float32)
    box = (slice(20, 30), slice(10, 24), slice(30, 41))
    found = find_soft_labels(looking_twice(model), voxels, np.eye(4), {1: Wanted(1, box)}, Watch())
    part = tuple(slice(side.start - 2, side.stop + 2) for side in box)  # with the margin
    inner = tuple(slice(2, 2 + side.stop - side.start) for side in box)
    alone = find_soft_labels(Segmenter.load(model), voxels[part], np.eye(4), {1: Wanted(1, inner)}, Watch())
    np.testing.assert_array_equal(found[1], alone[1])
    assert find_soft_labels(looking_twice(model), voxels, np.eye(4), {}, Watch()) == {}


def test_cases_are_set_into_larger_volumes_among_parts_without_a_structure(tmp_path):
    plan = make_plan(HIPPOCAMPUS, settings())
    names = sorted(plan.files)
    regions = set_in(plan, names, 64, tmp_path / "a", 0, Watch())
    assert regions == set_in(plan, names, 64, tmp_path / "b", 0, Watch())
    large = {case.name: case for case in find_dataset(tmp_path / "a").cases}
    assert set(large) == set(names)
    for name in names:
        image, classes = read_case(plan.files[name], plan.labels, plan.rules)
        whole, found = read_case(large[name], plan.labels)
        crop = Crop.named(regions[name], whole.array_kji.shape)
        np.testing.assert_array_equal(crop.view(found), classes)
        assert found.sum() == classes.sum(), "no structure around"
        inner = (slice(SEAM - 1, 1 - SEAM),) * 3
        np.testing.assert_array_equal(crop.view(whole.array_kji)[inner], image.array_kji[inner])
        np.testing.assert_allclose(crop.move(whole.ijk_to_ras), image.ijk_to_ras, atol=1e-4)
    assert whole.array_kji.shape == (64, 64, 64)
    assert (tmp_path / "a" / "imagesTr" / f"{name}.nii").read_bytes() == (
        tmp_path / "b" / "imagesTr" / f"{name}.nii"
    ).read_bytes()
    with pytest.raises(InputError, match="give a size of"):
        set_in(plan, names, 30, tmp_path / "c", 0, Watch())


@pytest.mark.slow
def test_bench_region_shows_what_finding_costs_and_saves(tmp_path, capfd):
    """Hardly trained, on few cases: that each way is measured, not how good it is."""
    config, figures = tmp_path / "c.json", tmp_path / "f.json"
    config.write_text(json.dumps({"encoder": "compact_vit", "epochs": 1, "validations": 1, "test_cases": 1}))
    command = ["bench", "region", "--data", str(HIPPOCAMPUS), "-o", str(tmp_path / "out"), "--config", str(config)]
    options = ["--size", "80", "--json", str(figures), "--device", "cpu"]
    assert main([*command, *options]) == 0
    rows = {row["name"]: row for row in json.loads(figures.read_text())["rows"]}
    assert set(rows) == {"found", "given", "whole"}
    assert "of 1 boxes hold 99%" in capfd.readouterr().out
    model = (tmp_path / "out" / "model.sam3d").stat().st_mtime_ns
    assert main([*command, *options]) == 0
    assert (tmp_path / "out" / "model.sam3d").stat().st_mtime_ns == model, "it is used again"
