"""`complete`: painted slices of a real MRI, filled in between, by the command and from Python."""

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, MRI, MRI_LABEL
from SAM3DSegmentLib.base.errors import Cancelled, InputError
from SAM3DSegmentLib.card import UNKNOWN, Label, Terminology
from SAM3DSegmentLib.formats.label_maps import read_label_map, write_labels
from SAM3DSegmentLib.formats.painted import EMPTY
from SAM3DSegmentLib.formats.volumes import Volume, read_volume
from SAM3DSegmentLib.metrics import label_dice
from SAM3DSegmentLib.training.completion import Completion, complete_volume
from SAM3DSegmentLib.training.filling import find_spans

SLICES = (10, 16, 22, 29, 35)  # sagittal ones of MRI, from the first with a structure to the last
LABELS = (
    Label(1, "Anterior", (255, 0, 0), type=Terminology("SCT", "1", "One")),
    Label(2, "Posterior", (0, 0, 255), type=Terminology("SCT", "2", "Two")),
)
VALUES = [1, 2]


@pytest.fixture(scope="module")
def mri():
    return read_volume(MRI)


@pytest.fixture(scope="module")
def truth():
    return read_label_map(MRI_LABEL).layers[0]


def painted(truth, numbers=SLICES, axis=2):
    """Of the whole segmentation only some slices."""
    found = np.zeros_like(truth)
    place = tuple(list(numbers) if one == axis else slice(None) for one in range(3))
    found[place] = truth[place]
    return found


@pytest.fixture
def files(tmp_path, mri, truth):
    """Writes label values (K, J, I) as a `.seg.nrrd`, and returns the image, that, and where the result goes."""

    def write(values=None, labels=LABELS, name="painted.seg.nrrd"):
        path = tmp_path / name
        write_labels(path, painted(truth) if values is None else values, mri, labels)
        return MRI, path, tmp_path / "out.seg.nrrd"

    return write


def filled(path):
    return read_label_map(path).layers[0]


def failed(done, *words):
    """One line on standard error that has these words."""
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    return True


def dice_of_hidden(found, truth, axis=2, numbers=SLICES):
    hidden = [n for n in range(truth.shape[axis]) if n not in numbers]
    return float(np.mean(label_dice(np.take(found, hidden, axis), np.take(truth, hidden, axis), VALUES)))


def test_painted_slices_come_out_as_painted_and_the_rest_is_filled(files, complete, truth):
    image, segmentation, output = files()
    done = complete(image, segmentation, output)
    assert done.returncode == 0, done.stderr
    found = filled(output)
    assert (found[:, :, SLICES] == truth[:, :, SLICES]).all()
    assert "5 of 42 sagittal slices are painted" in done.stderr
    assert dice_of_hidden(found, truth) > 0.8


@pytest.mark.parametrize(("axis", "numbers"), [(0, (5, 9, 13, 18, 23)), (1, (7, 16, 25, 34, 43)), (2, SLICES)])
def test_any_one_axis_may_be_painted(mri, truth, axis, numbers):
    here = list(numbers)
    found = complete_volume(mri.array_kji, mri.ijk_to_ras, painted(truth, here, axis))
    assert (np.take(found, here, axis) == np.take(truth, here, axis)).all()
    between = [n for n in range(here[0], here[-1]) if n not in here]
    assert np.take(found, between, axis).any(tuple(other for other in range(3) if other != axis)).all()
    assert dice_of_hidden(found, truth, axis, here) > 0.5


def test_axes_in_another_order_give_the_same(mri, truth):
    """The image stored sagittally, and mirrored."""
    plain = complete_volume(mri.array_kji, mri.ijk_to_ras, painted(truth))
    order = (2, 0, 1)
    columns = [2 - axis for axis in order][::-1]
    matrix = mri.ijk_to_ras[:, [*columns, 3]]
    turned = complete_volume(mri.array_kji.transpose(order), matrix, painted(truth).transpose(order))
    assert (turned == plain.transpose(order)).mean() > 0.9999
    assert np.isin(turned, (0, 1, 2)).all()


def test_names_colours_and_codes_are_those_of_the_segments(files, complete):
    image, segmentation, output = files()
    complete(image, segmentation, output)
    for made, given in zip(read_label_map(output).segments, read_label_map(segmentation).segments):
        assert (made.name, made.color, made.type, made.value) == (given.name, given.color, given.type, given.value)


def test_a_plain_label_map_keeps_its_values_and_takes_names_from_the_models_card(
    files, complete, truth, tmp_path, bundled_model
):
    _, plain, _ = files(name="painted.nii.gz")
    done = complete(MRI, plain, tmp_path / "out.nii.gz")
    assert done.returncode == 0, done.stderr
    assert (filled(tmp_path / "out.nii.gz")[:, :, SLICES] == truth[:, :, SLICES]).all()
    done = complete(MRI, plain, tmp_path / "out.seg.nrrd", "--model", "hippocampus-mri")
    assert done.returncode == 0, done.stderr
    names = [segment.name for segment in read_label_map(tmp_path / "out.seg.nrrd").segments]
    assert names == [label.name for label in bundled_model.card.labels]


def test_a_cropped_segmentation_gives_a_result_on_the_images_grid(files, complete, truth, tmp_path, mri):
    _, segmentation, output = files()
    image = sitk.ReadImage(str(segmentation))
    cropped = image[8:38, 5:-5, 3:-3]
    for key in image.GetMetaDataKeys():
        if key.startswith("Segment"):
            cropped.SetMetaData(key, image.GetMetaData(key))
    sitk.WriteImage(cropped, str(tmp_path / "cropped.seg.nrrd"))
    done = complete(MRI, tmp_path / "cropped.seg.nrrd", output)
    assert done.returncode == 0, done.stderr
    made = read_label_map(output)
    assert made.layers.shape[1:] == mri.array_kji.shape
    assert np.allclose(made.ijk_to_ras, mri.ijk_to_ras)


def test_beyond_the_outermost_painted_slices_structures_end_unless_extended(mri, truth):
    middle = (16, 22, 29)
    plain = complete_volume(mri.array_kji, mri.ijk_to_ras, painted(truth, middle))
    extended = complete_volume(
        mri.array_kji, mri.ijk_to_ras, painted(truth, middle), completion=Completion(extend=True)
    )
    outside = [n for n in range(truth.shape[2]) if not 16 <= n <= 29]
    assert not plain[:, :, outside].any()
    assert extended[:, :, 15].any()
    assert extended[:, :, 30].any()
    assert not extended[:, :, [10, 36]].any()  # as far from the outermost slices as their neighbours
    assert (extended[:, :, 16:30] == plain[:, :, 16:30]).all()
    assert dice_of_hidden(extended, truth, numbers=middle) > dice_of_hidden(plain, truth, numbers=middle)


def test_a_label_that_is_absent_from_a_known_slice_ends_before_it(mri, truth):
    drawn = painted(truth)
    drawn[:, :, 22:][drawn[:, :, 22:] == 2] = 0
    found = complete_volume(mri.array_kji, mri.ijk_to_ras, drawn)
    assert (found[:, :, 17] == 2).any()
    assert not (found[:, :, 22:] == 2).any()


def test_a_segment_empty_marks_slices_that_are_background(files, complete, truth):
    drawn = painted(truth, (10, 16, 22))
    drawn[3, 3, 28] = 3  # on slice 28
    image, segmentation, output = files(drawn, (*LABELS, Label(3, "empty", (9, 9, 9))))
    assert complete(image, segmentation, output).returncode == 0
    found = filled(output)
    assert found[:, :, 23:26].any()
    assert not found[:, :, 28:].any()
    assert [segment.name for segment in read_label_map(output).segments] == ["Anterior", "Posterior"]


def test_voxels_of_a_segment_ignore_are_unknown_and_filled(files, complete, truth):
    drawn = painted(truth)
    inside = np.argwhere(truth[:, :, 16] == 1)
    k, j = inside[len(inside) // 2]
    drawn[k - 1 : k + 2, j - 1 : j + 2, 16] = 3
    image, segmentation, output = files(drawn, (*LABELS, Label(3, "ignore", (9, 9, 9))))
    assert complete(image, segmentation, output).returncode == 0
    found, hole = filled(output), drawn == 3
    assert (found[:, :, SLICES][~hole[:, :, SLICES]] == truth[:, :, SLICES][~hole[:, :, SLICES]]).all()
    assert (found[hole] == truth[hole]).mean() > 0.8
    assert found[hole].any()


def test_a_spent_budget_gives_the_best_so_far_and_says_so(files, complete, truth):
    image, segmentation, output = files()
    done = complete(image, segmentation, output, "--seconds", "0.000001")
    assert done.returncode == 0
    assert "seconds were spent after 0 of 7 structures in gaps" in done.stderr
    found = filled(output)
    assert (found[:, :, SLICES] == truth[:, :, SLICES]).all()
    assert dice_of_hidden(found, truth) > 0.7


def test_a_budget_that_ends_while_the_model_computes_is_not_taken_for_a_cancel(files, complete, bundled_model):
    image, segmentation, output = files(labels=bundled_model.card.labels)
    done = complete(image, segmentation, output, "--seconds", "0.000001", "--model", "hippocampus-mri")
    assert done.returncode == 0, done.stderr
    assert "took more than half of the 1e-06 seconds" in done.stderr
    assert output.exists()


def test_a_cancel_raises_and_progress_is_told(mri, truth):
    told = []
    with pytest.raises(Cancelled):
        complete_volume(
            *(mri.array_kji, mri.ijk_to_ras, painted(truth)),
            on_progress=lambda *stage: told.append(stage),
            should_cancel=lambda: len(told) > 2,
        )
    assert told == [("complete", 1, 7), ("complete", 2, 7), ("complete", 3, 7)]  # 4 gaps, one without the first label


def test_an_existing_output_is_replaced_only_if_asked_and_never_an_input(files, complete):
    image, segmentation, output = files()
    output.write_text("mine")
    assert failed(complete(image, segmentation, output), "exists already", "--overwrite")
    assert output.read_text() == "mine"
    before = segmentation.read_bytes()
    assert failed(complete(image, segmentation, segmentation, "--overwrite"), "is also an input")
    assert segmentation.read_bytes() == before
    assert complete(image, segmentation, output, "--overwrite").returncode == 0
    assert filled(output).any()


def only_ignore(truth):
    return np.where(painted(truth) > 0, 3, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda truth: np.zeros_like(truth), ("no painted slice",)),
        (lambda truth: painted(truth, (16,)), ("one painted slice only (sagittal, number 16)",)),
        (lambda truth: painted(truth) | painted(truth, (10, 20, 30), 1), ("which cross", "sagittal", "coronal")),
        (only_ignore, ("no painted slice", "'ignore'")),
        (lambda truth: truth, ("leaves nothing to fill", "--extend")),
    ],
    ids=["none", "one", "two directions", "ignore alone", "all"],
)
def test_what_cannot_be_filled_is_told_in_one_line(files, complete, truth, change, words):
    image, segmentation, output = files(change(truth), (*LABELS, Label(3, "ignore", (9, 9, 9))))
    assert failed(complete(image, segmentation, output), *words)
    assert not output.exists()


def test_a_segmentation_on_another_grid_is_refused(complete, truth, tmp_path, mri):
    moved = mri.ijk_to_ras.copy()
    moved[0, 3] += 0.4
    write_labels(tmp_path / "other.seg.nrrd", painted(truth), Volume(mri.array_kji, moved, MRI), LABELS)
    assert failed(complete(MRI, tmp_path / "other.seg.nrrd", tmp_path / "out.seg.nrrd"), "is not on the grid of")


def test_a_model_without_the_labels_is_refused_and_with_some_is_used_for_these(files, complete, tiny, truth):
    image, segmentation, output = files()
    assert failed(complete(image, segmentation, output, "--model", tiny), "finds Blob, and none of Anterior, Posterior")
    labels = (Label(1, "blob", (1, 2, 3)), LABELS[1])
    image, segmentation, output = files(labels=labels)
    done = complete(image, segmentation, output, "--model", tiny)
    assert done.returncode == 0
    assert "finds Blob, but not Posterior" in done.stderr
    assert (filled(output)[:, :, SLICES] == truth[:, :, SLICES]).all()


def test_no_seconds_are_refused(files, complete):
    assert failed(complete(*files(), "--seconds", "0"), "0 seconds")


def test_a_model_helps(mri, truth, bundled_model):
    """This MRI is none of its training cases."""
    alone = complete_volume(mri.array_kji, mri.ijk_to_ras, painted(truth))
    helped = complete_volume(mri.array_kji, mri.ijk_to_ras, painted(truth), bundled_model)
    assert (helped[:, :, SLICES] == truth[:, :, SLICES]).all()
    assert dice_of_hidden(helped, truth) > dice_of_hidden(alone, truth)


def test_labels_on_another_grid_than_the_array_are_refused(mri, truth):
    with pytest.raises(InputError, match="not on the grid"):
        complete_volume(mri.array_kji, mri.ijk_to_ras, painted(truth)[1:])


def test_spans_are_cut_at_slices_that_are_known_whole():
    classes = np.full((12, 2, 2), UNKNOWN, np.uint8)
    classes[[2, 5, 6, 9]] = 0
    classes[5, 0, 0] = UNKNOWN
    spans = find_spans(classes, (2, 5, 6, 9))
    assert [(span.first, span.last, span.painted) for span in spans] == [(2, 6, (2, 5, 6)), (6, 9, (6, 9))]


def test_marks_from_python(mri, truth):
    """EMPTY and UNKNOWN, as they stand in place of label values."""
    drawn = painted(truth, (10, 16, 22))
    drawn[3, 3, 28] = EMPTY
    drawn[14, 24, 16] = UNKNOWN
    found = complete_volume(mri.array_kji, mri.ijk_to_ras, drawn)
    assert found.max() == 2
    assert found[:, :, 23:26].any()
    assert not found[:, :, 28:].any()


def test_bench_complete_measures_others_beside(run_cli, tmp_path):
    arguments = ("--data", HIPPOCAMPUS, "--cases", 2, "--threads", 1, "--json", tmp_path / "bench.json")
    done = run_cli("bench", "complete", *arguments)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row["dice"] for row in json.loads((tmp_path / "bench.json").read_text())["rows"]}
    assert all(name in done.stdout for name in rows)
    ours = rows.pop("sagittal: complete")
    assert len(rows) == 2
    assert all(ours > others for others in rows.values())


def test_bench_complete_without_scikit_image_names_the_package(run_cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    done = run_cli("bench", "complete", "--data", HIPPOCAMPUS, "--cases", 1)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "scikit-image" in done.stderr


def test_bench_complete_refuses_to_show_everything(run_cli):
    done = run_cli("bench", "complete", "--data", HIPPOCAMPUS, "--cases", 1, "--every", 1)
    assert failed(done, "would be shown; show at least 2, and not all")
