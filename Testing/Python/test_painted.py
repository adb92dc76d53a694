"""Cases of which only some parallel slices are painted, on real segmentations that have lost the others."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from conftest import HIPPOCAMPUS, MRI, MRI_LABEL
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.base.watch import UNWATCHED
from SAM3DSegmentLib.card import UNKNOWN, Label
from SAM3DSegmentLib.cli import main
from SAM3DSegmentLib.commands.evaluation import evaluate_folders
from SAM3DSegmentLib.formats.label_maps import read_label_map
from SAM3DSegmentLib.formats.painted import (
    EMPTY,
    PaintedSlices,
    find_painted,
    known_voxels,
    looks_painted,
    painted_across,
)
from SAM3DSegmentLib.formats.segments import ONLY_PAINTED_TAG, segmentation_fields
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, DiceLoss
from SAM3DSegmentLib.preparation import Preparation
from SAM3DSegmentLib.settings import AugmentationConfig
from SAM3DSegmentLib.training.augmentation import random_view
from SAM3DSegmentLib.training.case_files import CaseFiles
from SAM3DSegmentLib.training.classes import COMPLETE, LabelRules
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.loop import make_fabric
from SAM3DSegmentLib.training.plan import make_plan
from SAM3DSegmentLib.training.prepared import prepare_case
from SAM3DSegmentLib.training.reading import read_case
from SAM3DSegmentLib.training.report import draw_case
from SAM3DSegmentLib.training.samples import FreshViews, Samples
from SAM3DSegmentLib.training.scoring import score_cases
from test_training import COMPACT, assert_same_decoder, start

LABELS = (Label(1, "Anterior", (255, 0, 0)), Label(2, "Posterior", (0, 255, 0)))
ONLY_PAINTED = LabelRules(only_painted=True)
SAGITTAL, CORONAL, AXIAL = 2, 1, 0  # axes of (K, J, I) of the MRIs here


def reference():
    return sitk.GetArrayFromImage(sitk.ReadImage(str(MRI_LABEL))).astype(np.uint8)


def every(labels, axis, step, first=0):
    """`labels` on each `step`th of the slices that have one, 0 on the others; and the numbers of these slices."""
    slices = np.moveaxis(labels, axis, 0)
    numbers = np.flatnonzero(slices.any((1, 2)))[first::step]
    kept = np.zeros_like(slices)
    kept[numbers] = slices[numbers]
    return np.moveaxis(kept, 0, axis), tuple(numbers.tolist())


def write_like(path, array, image, fields=None):
    written = sitk.GetImageFromArray(np.ascontiguousarray(array))
    written.CopyInformation(sitk.ReadImage(str(image)))
    for key, value in (fields or {}).items():
        written.SetMetaData(key, value)
    sitk.WriteImage(written, str(path), useCompression=True)
    return path


def write_segments(path, array, names, only_painted=False):
    """A segmentation of the sample MRI, value n being the nth of `names`."""
    labels = tuple(Label(value, name, (9 * value, 0, 0)) for value, name in enumerate(names, 1))
    return write_like(path, array, MRI, segmentation_fields(array.shape, labels, only_painted))


def classes_of(path, rules=COMPLETE, labels=LABELS):
    return read_case(CaseFiles("a", MRI, path), labels, rules)[1]


@pytest.fixture
def painted_set(tmp_path):
    """The four MRIs with every third coronal slice painted."""
    folder = tmp_path / "painted"
    shutil.copytree(HIPPOCAMPUS, folder)
    for path in (folder / "labelsTr").iterdir():
        image = sitk.ReadImage(str(path))
        write_like(path, every(sitk.GetArrayFromImage(image), CORONAL, 3)[0], path)
    return folder


# Which slices are painted


@pytest.mark.parametrize("axis", [SAGITTAL, CORONAL, AXIAL])
@pytest.mark.parametrize("step", [2, 4, 9])
def test_the_axis_and_the_painted_slices_are_found(axis, step):
    painted, numbers = every(reference(), axis, step)
    assert find_painted(painted) == PaintedSlices(axis, numbers, painted.shape[axis])
    assert painted_across(painted) is None


def test_neighbouring_slices_and_a_single_one_are_of_the_axis_on_which_they_are_thin():
    slab = np.zeros_like(reference())
    slab[:, 20:23] = reference()[:, 20:23]
    assert find_painted(slab) == PaintedSlices(CORONAL, (20, 21, 22), slab.shape[CORONAL])
    slab[:, 21:] = 0
    assert find_painted(slab) == PaintedSlices(CORONAL, (20,), slab.shape[CORONAL])
    assert find_painted(np.zeros_like(slab)) is None


def test_a_slice_marked_empty_counts_as_painted_and_an_ignored_voxel_does_not():
    painted, numbers = every(reference(), SAGITTAL, 4)
    painted[8:12, 8:12, 0] = EMPTY
    painted[:, :, 2] = UNKNOWN
    assert find_painted(painted).numbers == (0, *numbers)


def test_slices_that_cross_are_seen():
    crossing = np.maximum(every(reference(), SAGITTAL, 5)[0], every(reference(), AXIAL, 5)[0])
    assert set(painted_across(crossing)) == {SAGITTAL, AXIAL}


def test_a_complete_case_does_not_look_painted_and_one_with_gaps_does():
    assert looks_painted(reference()) is None
    assert looks_painted(every(reference(), AXIAL, 3)[0]).axis == AXIAL


def test_two_structures_apart_do_not_look_painted():
    apart = np.zeros((20, 30, 60), np.uint8)
    apart[5:15, 8:20, 2:12] = apart[5:15, 8:20, 45:55] = 1
    assert looks_painted(apart) is None


# What is known of a case


def test_unpainted_slices_are_unknown_and_painted_ones_are_known_whole(tmp_path):
    painted, numbers = every(reference(), SAGITTAL, 4)
    path = write_like(tmp_path / "a.nii.gz", painted, MRI)
    found = classes_of(path, ONLY_PAINTED)
    known = np.zeros(found.shape, bool)
    known[:, :, list(numbers)] = True
    assert np.array_equal(found != UNKNOWN, known)
    assert np.array_equal(found[known], reference()[known])
    assert np.array_equal(classes_of(path), painted)


def test_a_case_says_itself_that_only_its_painted_slices_are_complete(tmp_path):
    painted, numbers = every(reference(), SAGITTAL, 4)
    path = write_segments(tmp_path / "a.seg.nrrd", painted, ["Anterior", "Posterior"], only_painted=True)
    assert f"{ONLY_PAINTED_TAG}:1|" in sitk.ReadImage(str(path)).GetMetaData("Segment0_Tags")
    assert (classes_of(path)[:, :, list(numbers)] != UNKNOWN).all()
    assert (classes_of(path) == UNKNOWN).any()
    read = read_label_map(path)
    assert all(segment.only_painted for segment in read.segments)
    assert np.array_equal(known_voxels(read), classes_of(path) != UNKNOWN)


def test_the_segments_ignore_and_empty_are_no_structures(tmp_path):
    drawn, numbers = every(reference(), SAGITTAL, 4)
    drawn[3:6, 3:6, 0] = 3
    drawn[10:20, 10:20, numbers[1]] = 4
    path = write_segments(tmp_path / "a.seg.nrrd", drawn, ["Anterior", "Posterior", "Empty", "Ignore"], True)
    found = classes_of(path)
    assert (found[:, :, 0] == 0).all()
    assert (found[10:20, 10:20, numbers[1]] == UNKNOWN).all()
    assert set(np.unique(found)) == {0, 1, 2, UNKNOWN}
    complete = write_segments(tmp_path / "b.seg.nrrd", drawn, ["Anterior", "Posterior", "empty", "ignore"])
    assert (classes_of(complete)[:, :, 1] == 0).all()
    assert np.array_equal(classes_of(complete) == UNKNOWN, drawn == 4)


def test_the_value_that_nnunet_names_ignore_is_unknown(tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(HIPPOCAMPUS, folder)
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"] = {"background": 0, "Anterior": 1, "Posterior": 2, "ignore": 3}
    (folder / "dataset.json").write_text(json.dumps(description))
    first = sorted((folder / "labelsTr").iterdir())[0]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(first)))
    labels[:4] = 3
    write_like(first, labels, first)
    plan = make_plan(folder, COMPACT)
    assert [label.name for label in plan.labels] == ["Anterior", "Posterior"]
    assert not plan.problems
    _, classes = read_case(plan.dataset.cases[0], plan.labels, plan.rules)
    assert np.array_equal(classes == UNKNOWN, labels == 3)


@pytest.mark.parametrize(
    ("draw", "names", "message"),
    [
        (lambda labels: np.zeros_like(labels), ["Anterior"], "has no painted slice"),
        (lambda labels: np.where(labels > 0, 3, 0), ["Anterior", "Posterior", "ignore"], "has no painted slice"),
        (
            lambda labels: np.maximum(every(labels, SAGITTAL, 5)[0], every(labels, AXIAL, 5)[0]),
            ["Anterior", "Posterior"],
            "is painted on (axial and sagittal|sagittal and axial) slices, and which of them are complete",
        ),
    ],
    ids=["nothing", "ignore alone", "two directions"],
)
def test_a_painting_that_says_nothing_certain_is_refused(tmp_path, draw, names, message):
    path = write_segments(tmp_path / "a.seg.nrrd", draw(reference()).astype(np.uint8), names, only_painted=True)
    with pytest.raises(InputError, match=message):
        classes_of(path)


def test_a_case_of_which_everything_is_ignored_is_refused(tmp_path):
    path = write_segments(tmp_path / "a.seg.nrrd", np.ones_like(reference()), ["ignore"])
    with pytest.raises(InputError, match="leaves every voxel unknown"):
        classes_of(path)


# The loss


def random_logits(shape=(2, 4, 6, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], 3, *shape[1:], generator=generator, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(3, shape, generator=generator)


@pytest.mark.parametrize("per_class", [False, True])
def test_the_gradient_at_unknown_voxels_is_exactly_zero(per_class):
    logits, labels = random_logits()
    labels[:, ::2] = UNKNOWN
    coarse = random_logits((2, 4, 3, 4), seed=1)[0]
    DeepSupervisionLoss(per_class)([coarse, logits], labels).backward()
    for level in (coarse, logits):
        assert (level.grad[:, :, ::2] == 0).all()
        assert (level.grad[:, :, 1::2] != 0).all()


@pytest.mark.parametrize("per_class", [False, True])
def test_unknown_voxels_count_as_if_they_were_not_there(per_class):
    logits, labels = random_logits()
    labels[:, ::2] = UNKNOWN
    loss = DiceCrossEntropyLoss(per_class)
    torch.testing.assert_close(loss(logits, labels), loss(logits[:, :, 1::2], labels[:, 1::2]))


def test_a_sample_of_which_nothing_is_known_has_no_gradient_and_a_finite_loss():
    logits, labels = random_logits()
    for loss in (DiceCrossEntropyLoss(True), DiceCrossEntropyLoss(False), DiceLoss()):
        value = loss(logits, torch.full_like(labels, UNKNOWN))
        value.backward()
        assert torch.isfinite(value)
        assert (logits.grad == 0).all()


# Samples and views


def prepare(tmp_path, labels, rules=ONLY_PAINTED):
    tmp_path.mkdir(exist_ok=True)
    files = CaseFiles("a", MRI, write_like(tmp_path / "label.nii.gz", labels, MRI))
    plan = make_plan(HIPPOCAMPUS, COMPACT)
    preparation = Preparation(plan.config.slicing, plan.card.intensities, 32)
    return prepare_case(files, LABELS, preparation, rules, tmp_path)[0]


def test_every_sample_has_a_painted_slice_and_all_of_these_are_drawn(tmp_path):
    painted = every(reference(), CORONAL, 9)[0]
    case = prepare(tmp_path, painted)
    config = dataclasses.replace(COMPACT, training_depth=4, foreground_share=0.1)
    samples = Samples([case], FreshViews([case], AugmentationConfig(probability=0)), config, 1)
    known = [(samples[number].classes != UNKNOWN).any(dim=(1, 2)) for number in range(200)]
    assert all(slices.any() for slices in known)
    assert not all(slices.all() for slices in known)


def test_what_is_turned_in_from_beyond_the_border_is_unknown_only_where_something_else_is(tmp_path):
    turned = AugmentationConfig(probability=1, rotation_degrees=45, scaling=0.5, gamma=0, contrast=0, noise=0)
    whole = prepare(tmp_path / "whole", reference(), COMPLETE)
    part = prepare(tmp_path / "part", every(reference(), CORONAL, 2)[0])
    assert not whole.is_partly_known
    assert part.is_partly_known
    seen = {}
    for name, case in (("whole", whole), ("part", part)):
        grey, classes = random_view(case, 5, 30, turned, torch.Generator().manual_seed(3))
        seen[name] = grey, classes
    beyond = seen["whole"][0][0] == 0
    assert (seen["whole"][1] != UNKNOWN).all()
    assert (seen["part"][1][beyond] == UNKNOWN).float().mean() > 0.9
    painted = seen["part"][1] != UNKNOWN
    assert torch.equal(seen["part"][1][painted], seen["whole"][1][painted])


def test_a_case_painted_on_all_its_slices_is_as_a_complete_one(tmp_path):
    labels = np.zeros_like(reference())
    labels[:, :, :] = 1
    labels[:, 5:9] = 2
    ways = [prepare(tmp_path / name, labels, rules) for name, rules in (("a", COMPLETE), ("b", ONLY_PAINTED))]
    assert not any(case.is_partly_known for case in ways)
    assert np.array_equal(ways[0].classes, ways[1].classes)


@pytest.mark.slow
def test_a_set_that_is_painted_on_all_slices_trains_to_the_same_weights(tmp_path):
    """Each case is cut to the box of its structures, so that there is one on every slice of every direction."""
    folder = tmp_path / "cut"
    shutil.copytree(HIPPOCAMPUS, folder)
    for path in sorted((folder / "labelsTr").iterdir()):
        labels, other = sitk.ReadImage(str(path)), folder / "imagesTr" / path.name
        there = np.nonzero(sitk.GetArrayFromImage(labels))[::-1]
        box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in there)
        for one, file in ((labels, path), (sitk.ReadImage(str(other)), other)):
            sitk.WriteImage(one[box], str(file))
    marked = dataclasses.replace(COMPACT, painted_slices=True)
    assert_same_decoder(start(tmp_path / "a.sam3d", COMPACT, folder), start(tmp_path / "b.sam3d", marked, folder))


# A training


def test_a_training_says_what_its_figures_stand_on(tmp_path, painted_set):
    config = dataclasses.replace(COMPACT, painted_slices=True)
    model = start(tmp_path / "m.sam3d", config, painted_set)
    assert "on their painted slices" in model.card.training.dice_note
    record = json.loads((tmp_path / "m.training" / "run.json").read_text())
    (held_out,) = record["splits"][0]["validation"]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(painted_set / "labelsTr" / f"{held_out}.nii.gz")))
    painted = labels.any((0, 2)).sum()
    assert record["painted"][held_out] == f"{painted} of {labels.shape[1]} coronal slices are painted"
    page = (tmp_path / "m.training" / "report.html").read_text()
    assert record["painted"][held_out] in page
    assert "Dark in the reference: not painted" in page


class Perfect:
    """Segments as the complete references, which the painted ones were made from."""

    def __init__(self, cases):
        self._cases = iter(cases)

    def segment(self, array_kji, ijk_to_ras, watch=None):
        return sitk.GetArrayFromImage(sitk.ReadImage(str(HIPPOCAMPUS / "labelsTr" / next(self._cases).label_map.name)))


def test_what_is_found_on_unpainted_slices_is_not_held_against_a_model(painted_set):
    cases = list(find_dataset(painted_set).cases)
    fabric = make_fabric(torch.device("cpu"))
    assert score_cases(Perfect(cases), cases, LABELS, ONLY_PAINTED, fabric, UNWATCHED).mean() == 1
    assert score_cases(Perfect(cases), cases, LABELS, COMPLETE, fabric, UNWATCHED).mean() < 0.6


def test_the_picture_shows_a_painted_slice_and_which_are_painted(tmp_path):
    volume = read_volume(MRI)
    prepared = Preparation(COMPACT.slicing, (COMPACT.intensity,), 64).prepare(volume.array_kji, volume.ijk_to_ras)
    painted, numbers = every(reference(), CORONAL, 4)
    known = find_painted(painted).keep(painted)
    png, index = draw_case(prepared, known, np.zeros_like(painted), LABELS)
    assert prepared.slicing.to_dhw(known)[index].max() < UNKNOWN
    (tmp_path / "a.png").write_bytes(png)
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.png")))
    strip = picture[-5]
    assert picture.shape[0] > 320
    bright = (strip[:, 0] > 200).sum() / len(strip)
    assert bright == pytest.approx(len(numbers) / painted.shape[CORONAL], abs=0.05)


# What --check says


def check(capsys, folder, *options):
    code = main(["train", "--data", str(folder), "--check", "--encoder", "compact_vit", *options])
    return code, capsys.readouterr().out


def test_check_says_which_slices_are_painted(painted_set, capsys):
    code, told = check(capsys, painted_set, "--painted-slices")
    assert code == 0
    assert told.count("coronal slices are painted") == 4
    assert told.count("suspicious") == 1
    assert "in no case it is known where the structures end" in told


def test_check_is_content_where_a_blank_slice_is_marked_on_either_side(painted_set, capsys):
    for path in sorted((painted_set / "labelsTr").iterdir())[:1]:
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        labels[5:9, [0, -1], 5:9] = 3
        names = ["Anterior", "Posterior", "empty"]
        segments = tuple(Label(value, name, (9, 9, 9)) for value, name in enumerate(names, 1))
        fields = segmentation_fields(labels.shape, segments)
        write_like(painted_set / "labelsTr" / f"{path.name[:-7]}.seg.nrrd", labels, path, fields)
        path.unlink()
    _, told = check(capsys, painted_set, "--painted-slices")
    assert "suspicious" not in told


def test_check_sees_a_forgotten_tick(painted_set, capsys):
    code, told = check(capsys, painted_set)
    assert code == 0
    assert told.count("if the others are not empty, train with --painted-slices") == 4
    assert "if the others" not in check(capsys, HIPPOCAMPUS)[1]


def test_check_sees_one_slice_complete_cases_and_structures_left_out(painted_set, capsys):
    paths = sorted((painted_set / "labelsTr").iterdir())
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(HIPPOCAMPUS / "labelsTr" / paths[0].name)))
    write_like(paths[0], whole, paths[0])
    write_like(paths[1], every(sitk.GetArrayFromImage(sitk.ReadImage(str(paths[1]))), CORONAL, 99)[0], paths[1])
    _, told = check(capsys, painted_set, "--painted-slices")
    assert f"{paths[0].name[:-7]} has no gap between its" in told
    assert f"{paths[1].name[:-7]} has one painted slice only" in told


def test_check_sees_a_structure_that_was_painted_on_other_slices_than_the_rest(painted_set, capsys):
    for path in (painted_set / "labelsTr").iterdir():
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        slices = np.moveaxis(labels, 1, 0)
        there = np.flatnonzero((slices == 2).any((1, 2)))
        slices[there[1::2]] = np.where(slices[there[1::2]] == 2, 1, slices[there[1::2]])
        write_like(path, labels, path)
    _, told = check(capsys, painted_set, "--painted-slices")
    assert "'Posterior' is missing in every case on painted slices between its own" in told


# Evaluation


def test_evaluate_judges_nobody_on_what_is_ignored(tmp_path):
    labels = reference()
    predictions, references = tmp_path / "p", tmp_path / "r"
    predictions.mkdir()
    references.mkdir()
    wrong = labels.copy()
    wrong[:, :, 20] = 1
    write_like(predictions / "a.nii.gz", wrong, MRI)
    ignored = labels.copy()
    ignored[:, :, 20] = 3
    write_segments(references / "a.seg.nrrd", ignored, ["Anterior", "Posterior", "ignore"])
    rows = evaluate_folders(predictions, references).rows
    assert {row.label for row in rows} == {"Anterior", "Posterior"}
    assert all(row.metrics.dice == 1 for row in rows)
    (references / "a.seg.nrrd").unlink()
    write_like(references / "a.nii.gz", ignored, MRI)
    described = {1: "Anterior", 2: "Posterior", 3: "ignore"}
    rows = evaluate_folders(predictions, references, described=described).rows
    assert all(row.metrics.dice == 1 for row in rows)
    assert len(rows) == 4


def test_evaluate_measures_on_painted_slices_alone_where_the_reference_says_so(tmp_path):
    painted, _ = every(reference(), SAGITTAL, 4)
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
    write_like(tmp_path / "p" / "a.nii.gz", reference(), MRI)
    names = ["Anterior", "Posterior"]
    write_segments(tmp_path / "r" / "a.seg.nrrd", painted, names, only_painted=True)
    assert all(row.metrics.dice == 1 for row in evaluate_folders(tmp_path / "p", tmp_path / "r").rows)
    write_segments(tmp_path / "r" / "a.seg.nrrd", painted, names)
    assert all(row.metrics.dice < 0.6 for row in evaluate_folders(tmp_path / "p", tmp_path / "r").rows)
