"""`complete` on what was delivered: the slices that were repainted since are found, and correct those near them."""

import time

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import MRI, MRI_LABEL
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import UNKNOWN, Label
from SAM3DSegmentLib.formats.delivered import describe_labels, describe_slices, hash_slices, read_description
from SAM3DSegmentLib.formats.label_maps import read_label_map, write_delivered, write_labels
from SAM3DSegmentLib.formats.painted import EMPTY
from SAM3DSegmentLib.formats.repainted import REACH, find_repainted
from SAM3DSegmentLib.formats.segments import DELIVERED_TAG, segmentation_fields
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.metrics import label_dice
from SAM3DSegmentLib.training.soft_labels import FULL, Delivered, soften_delivered
from test_complete import failed, filled

REPAINTED = (16, 28)  # sagittal slices of MRI
PLANES = ("axial", "coronal", "sagittal")  # across the axes of MRI


@pytest.fixture(scope="module")
def mri():
    return read_volume(MRI)


@pytest.fixture(scope="module")
def truth():
    return read_label_map(MRI_LABEL).layers[0]


@pytest.fixture(scope="module")
def delivered(mri, bundled_model):
    from SAM3DSegmentLib.inference import Segmenter

    return Segmenter.load(bundled_model, "cpu").segment(mri.array_kji, mri.ijk_to_ras)


def repainted(delivered, truth, numbers=REPAINTED, axis=2):
    found = delivered.copy()
    place = tuple(list(numbers) if one == axis else slice(None) for one in range(3))
    found[place] = truth[place]
    return found


@pytest.fixture
def files(tmp_path, mri, delivered, truth, bundled_model):
    """Writes a `.seg.nrrd` with other voxels than those that were delivered; returns the arguments of `complete`."""

    def write(values=None, labels=bundled_model.card.labels, notes=None):
        path = tmp_path / "repainted.seg.nrrd"
        values = repainted(delivered, truth) if values is None else values
        write_labels(path, values, mri, labels, delivered=notes or describe_labels(delivered, [1, 2]))
        return MRI, path, tmp_path / "out.seg.nrrd"

    return write


def away_from(numbers, total):
    return np.abs(np.subtract.outer(np.arange(total), numbers)).min(1)


# How slices are noted


def test_a_hash_depends_on_its_slice_alone(truth):
    before = hash_slices(truth == 1)
    changed = truth == 1
    changed[2, 3, 4] ^= True  # far from the structure: its bounding box grows along all axes
    for axis, (then, now) in enumerate(zip(before, hash_slices(changed))):
        assert np.flatnonzero(then != now).tolist() == [(2, 3, 4)[axis]]


def test_a_shape_that_is_moved_or_mirrored_has_other_hashes(truth):
    mask = truth == 1
    for axis in range(3):
        for other in (np.roll(mask, 1, axis), np.flip(mask, axis)):
            for across in {0, 1, 2} - {axis}:
                then, now = hash_slices(mask)[across], hash_slices(other)[across]
                assert not (then == now)[then > 0].any()


def test_what_is_described_is_read_again_and_has_none_of_slicers_separators(truth):
    for mask in (truth == 2, np.zeros(truth.shape, bool), np.ones(truth.shape, bool)):
        text = describe_slices(mask, {2: (10, 16), 0: (3,)})
        assert not set(text) & set("|:\\\n")
        shape, hashes, drawn = read_description(text)
        assert drawn == {2: (10, 16), 0: (3,)}
        assert shape == truth.shape
        for then, now in zip(hashes, hash_slices(mask)):
            np.testing.assert_array_equal(then, now)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1x2",
        "x",
        "4x4x4 0_AAAA",
        "4x4x4 0_A!AA 0_AAAA 0_AAAA",
        "4x4x4 0_AA 0_A 0_A",
        "4x4 drawn_2_1",
        "4x4x99999999999",
        "4x4x4 drawn_3_1",
        "4x4x4 drawn_1_4",
        "4x4x4 drawn_a",
    ],
)
def test_a_damaged_description_is_a_value_error(text):
    with pytest.raises(ValueError, match="describe slices|unpack|invalid literal|broadcast|reshape"):
        read_description(text)


def test_a_large_volume_is_described_in_a_moment_and_in_few_bytes():
    mask = np.zeros((300, 512, 512), bool)
    mask[20:280, 60:450, 60:450] = True
    began = time.process_time()
    text = describe_slices(mask)
    assert time.process_time() - began < 1
    assert len(text) < 8000


# Which slices were repainted


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_repainted_slices_are_found_along_any_axis(delivered, truth, axis):
    numbers = (16, 20)
    found = find_repainted(repainted(delivered, truth, numbers, axis), describe_labels(delivered, [1, 2]), "it")
    assert (found.axis, found.numbers, found.total) == (axis, numbers, truth.shape[axis])


def test_only_what_is_out_of_reach_and_the_ends_of_the_volume_are_known(delivered, truth):
    found = find_repainted(repainted(delivered, truth, (16,)), describe_labels(delivered, [1, 2]), "it")
    away = away_from((16,), found.total)
    assert found.known().numbers == tuple(np.flatnonzero((away == 0) | (away > REACH)).tolist())
    near_the_end = repainted(delivered, delivered, ())
    near_the_end[0:2, 0:2, 2] = 1
    found = find_repainted(near_the_end, describe_labels(delivered, [1, 2]), "it").known()
    assert found.numbers[:3] == (0, 2, 11)  # the end of the volume, and the slice


def test_a_slice_that_is_marked_as_empty_counts_as_repainted(delivered):
    marked = delivered.copy()
    marked[3, 3, 5] = marked[3, 4, 5] = EMPTY
    found = find_repainted(marked, describe_labels(delivered, [1, 2]), "it")
    assert (3 if found.axis == 0 else 5) in found.numbers


def slicers(path, fields, tmp_path, flip=False):
    """As Slicer saves a segmentation: cropped, in layers, with other values and in another order."""
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)
    layers = [sitk.GetImageFromArray((values == value).astype(np.uint8)) for value in (2, 1)]
    for layer in layers:
        layer.CopyInformation(image)
    saved = sitk.Compose(*[layer[8:38, 5:-2, 3:-3] for layer in layers])
    for key in image.GetMetaDataKeys():
        if key.startswith("Segmentation"):
            saved.SetMetaData(key, image.GetMetaData(key))
    for number, former in enumerate((1, 0)):
        for name in ("ID", "Name", "Color", "Tags"):
            saved.SetMetaData(f"Segment{number}_{name}", image.GetMetaData(f"Segment{former}_{name}"))
        saved.SetMetaData(f"Segment{number}_LabelValue", "1")
        saved.SetMetaData(f"Segment{number}_Layer", str(number))
    for key, value in fields.items():
        saved.SetMetaData(key, value)
    sitk.WriteImage(saved, str(tmp_path / "saved.seg.nrrd"))
    return tmp_path / "saved.seg.nrrd"


# The command


@pytest.mark.parametrize("model", [(), ("--model", "hippocampus-mri")], ids=["alone", "with a model"])
def test_touched_and_far_slices_stay_and_those_between_get_better(files, complete, delivered, truth, model):
    image, segmentation, output = files()
    done = complete(image, segmentation, output, *model)
    assert done.returncode == 0, done.stderr
    assert "2 of 42 sagittal slices were repainted" in done.stderr
    found = filled(output)
    away = away_from(REPAINTED, truth.shape[2])
    assert (found[:, :, away == 0] == truth[:, :, away == 0]).all()
    assert (found[:, :, away > REACH] == delivered[:, :, away > REACH]).all()
    near = (away > 0) & (away <= REACH)
    before, after = (np.mean(label_dice(some[:, :, near], truth[:, :, near], [1, 2])) for some in (delivered, found))
    assert after > before


def test_nothing_is_cut_off_beyond_the_repainted_slices(files, complete, delivered, truth):
    image, segmentation, output = files(repainted(delivered, truth, (22,)))
    assert complete(image, segmentation, output, "--extend").returncode == 0  # of paintings; here it changes nothing
    found = filled(output)
    for away in range(1, REACH + 1):
        for number in (22 - away, 22 + away):
            assert 0.5 < (found[:, :, number] > 0).sum() / (delivered[:, :, number] > 0).sum() < 2


def test_when_the_time_is_over_the_rest_is_as_it_was_delivered(files, complete, delivered, truth):
    image, segmentation, output = files()
    done = complete(image, segmentation, output, "--seconds", "0.000001")
    assert "the others are as the model or the former result has them" in done.stderr
    found, away = filled(output), away_from(REPAINTED, truth.shape[2])
    assert (found[:, :, away == 0] == truth[:, :, away == 0]).all()
    assert (found[:, :, away > 0] == delivered[:, :, away > 0]).mean() > 0.99


def test_where_a_slice_was_repainted_its_neighbours_say_what_was_there():
    classes = np.zeros((9, 12, 14), np.uint8)
    classes[1:7, 3:9, 3:9] = 1
    classes[4] = 0
    classes[4, 0, 0] = 1
    box = (slice(1, 8), slice(0, 12), slice(0, 14))
    soft = soften_delivered(Delivered(classes, (4,)), {1: box}, 0)[1]
    assert (soft[3, 6, 6], soft[3, 0, 0], soft[6, 6, 6]) == (FULL, 0, 0)
    assert 0 < soft[2, 2, 6] < FULL / 2 < soft[2, 3, 6] < FULL
    turned = soften_delivered(Delivered(np.moveaxis(classes, 0, 2), (4,)), {1: box}, 2)[1]
    np.testing.assert_array_equal(turned, soft)


def test_cropped_layered_renamed_and_in_another_order_it_is_the_same(files, complete, tmp_path):
    image, segmentation, output = files()
    assert complete(image, segmentation, output).returncode == 0
    saved = slicers(segmentation, {"Segment0_Name": "Tail"}, tmp_path)
    done = complete(image, saved, tmp_path / "other.seg.nrrd")
    assert done.returncode == 0, done.stderr
    assert "2 of 42 sagittal slices were repainted" in done.stderr
    other = read_label_map(tmp_path / "other.seg.nrrd")
    assert [segment.name for segment in other.segments] == ["Tail", "Anterior hippocampus"]
    values = [segment.value for segment in other.segments]
    plain = filled(output)
    for value, former in zip(values, (2, 1)):
        np.testing.assert_array_equal(other.layers[0] == value, plain == former)


def test_what_was_segmented_and_corrected_can_be_corrected_again(files, complete, run_cli, truth, mri, tmp_path):
    first, second = tmp_path / "first.seg.nrrd", tmp_path / "second.seg.nrrd"
    assert run_cli("segment", MRI, "-o", first, "--progress", "none").returncode == 0
    done = complete(MRI, first, second)
    assert failed(done, "is as it was delivered", "no slice was changed since")
    repaint(first, truth, 16)
    assert complete(MRI, first, second).returncode == 0
    assert failed(complete(MRI, second, tmp_path / "third.seg.nrrd"), "no slice was changed since")
    former = filled(second)
    repaint(second, truth, 19)
    done = complete(MRI, second, tmp_path / "third.seg.nrrd")
    assert "1 of 42 sagittal slices was repainted" in done.stderr
    found, away = filled(tmp_path / "third.seg.nrrd"), away_from((19,), truth.shape[2])
    assert (found[:, :, 19] == truth[:, :, 19]).all()
    assert (found[:, :, away > REACH] == former[:, :, away > REACH]).all()
    assert (found[:, :, 16] == truth[:, :, 16]).all()  # it was drawn before, so it is known still


def test_what_was_drawn_along_another_axis_stays_known(delivered, truth):
    """Slices that cross: the later ones of another direction."""
    first = repainted(delivered, truth, (16,))
    notes = describe_labels(first, [1, 2], {2: (16,)})
    found = find_repainted(repainted(first, truth, (20,), axis=1), notes, "it")
    assert (found.axis, found.numbers) == (1, (20,))
    assert found.drawn == {1: (20,), 2: (16,)}
    known = found.keep(first)
    assert (known[:, :, 16] == first[:, :, 16]).all()
    assert (known[:, 19, 15] == UNKNOWN).all()


def repaint(path, truth, number):
    """A sagittal slice of a `.seg.nrrd`."""
    image = sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)
    values[:, :, number] = truth[:, :, number]
    changed = sitk.GetImageFromArray(values)
    changed.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        changed.SetMetaData(key, image.GetMetaData(key))
    sitk.WriteImage(changed, str(path), True)


def test_what_was_changed_as_a_whole_is_refused(files, complete, delivered):
    image, segmentation, output = files(np.roll(delivered, 1, 0))
    assert failed(complete(image, segmentation, output), "was changed since it was delivered on", "repaint a few")
    assert not output.exists()


def test_a_segment_that_was_removed_does_not_count_and_one_that_was_added_stays(
    files, complete, delivered, truth, bundled_model
):
    values = repainted(delivered, truth)
    values[values == 1] = 0
    values[5:9, 5:9, 5:40] = 3
    labels = (bundled_model.card.labels[1], Label(3, "Vessel", (9, 9, 9)))
    image, segmentation, output = files(values, labels)
    done = complete(image, segmentation, output, "--model", "hippocampus-mri")
    assert done.returncode == 0, done.stderr
    assert "not delivered, but added by hand, so it stays as it is: 'Vessel'" in done.stderr
    assert "2 of 42 sagittal slices were repainted" in done.stderr
    found = filled(output)
    assert ((found == 3) == (values == 3)).all()
    assert not (found == 1).any()
    notes = {segment.name: bool(segment.delivered) for segment in read_label_map(output).segments}
    assert notes == {labels[0].name: True, "Vessel": False}  # so that it stays the next time, too


def test_only_painted_slices_are_a_painting_whatever_was_delivered(
    files, complete, delivered, truth, mri, bundled_model
):
    _image, segmentation, output = files()
    painted = np.zeros_like(truth)
    painted[:, :, [10, 16, 22, 29, 35]] = truth[:, :, [10, 16, 22, 29, 35]]
    notes = describe_labels(delivered, [1, 2])
    write_labels(segmentation, painted, mri, bundled_model.card.labels, only_painted=True, delivered=notes)
    done = complete(MRI, segmentation, output)
    assert "5 of 42 sagittal slices are painted" in done.stderr


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ("9x9x9", ("was delivered for another image (9x9x9 and ",)),
        ("4x4", ("has damaged notes of what was delivered",)),
    ],
)
def test_notes_of_another_image_and_damaged_ones_are_refused(files, complete, note, words):
    assert failed(complete(*files(notes={1: note, 2: note})), *words)


def test_a_label_map_that_is_no_segmentation_has_no_notes(tmp_path, mri, delivered, bundled_model):
    for name in ("out.nii.gz", "out.nrrd"):
        write_delivered(tmp_path / name, delivered, mri, bundled_model.card.labels)
        assert DELIVERED_TAG.encode() not in (tmp_path / name).read_bytes()


def test_the_tag_stands_beside_the_others(bundled_model):
    fields = segmentation_fields((4, 4, 4), bundled_model.card.labels, True, {1: "4x4x4"})
    assert fields["Segment0_Tags"].endswith(f"|SAM3DSegment.PaintedSlices:1|{DELIVERED_TAG}:4x4x4|")
    assert DELIVERED_TAG not in fields["Segment1_Tags"]


def test_from_python_what_is_unchanged_raises(delivered):
    with pytest.raises(InputError, match="no slice was changed"):
        find_repainted(delivered, describe_labels(delivered, [1, 2]), "it")
