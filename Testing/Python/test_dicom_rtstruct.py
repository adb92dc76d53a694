"""Contours of DICOM structure sets (RTSTRUCT) as label maps: what is filled, refused, and trained on."""

import itertools
import json

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from skimage.draw import polygon2mask
from skimage.measure import find_contours

import image_files as make
from conftest import HIPPOCAMPUS, ijk_to_ras_of
from image_files import structure_set
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import Label
from SAM3DSegmentLib.commands.measuring import measure_masks, read_masks
from SAM3DSegmentLib.formats.dicom_rtstruct import fill, read_structure_set
from SAM3DSegmentLib.formats.label_maps import read_label_map, segments_of, write_labels
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.geometry import turn_like
from SAM3DSegmentLib.model_file import load_model
from SAM3DSegmentLib.training.classes import COMPLETE, LabelRules, classes_on, own_labels
from SAM3DSegmentLib.training.dataset import find_dataset
from test_training import COMPACT, to_json

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRID = make.SHAPE, LPS @ np.array([[1, 0, 0, 5], [0, 1.5, 0, -6], [0, 0, 2, 7], [0, 0, 0, 1.0]])


def contour(points, ijk_to_ras=GRID[1], kind="CLOSED_PLANAR"):
    """Of points (N, 3) as i, j, k."""
    matrix = LPS @ ijk_to_ras
    return make.contour(np.asarray(points, float) @ matrix[:3, :3].T + matrix[:3, 3], kind)


def rectangle(k, low, high, **more):
    """Between two corners (row, column)."""
    (top, left), (bottom, right) = low, high
    return contour([(left, top, k), (right, top, k), (right, bottom, k), (left, bottom, k)], **more)


def contours_of(mask, ijk_to_ras=GRID[1]):
    """Of a mask (K, J, I), as scikit-image draws them between its voxels and the others."""
    return [
        contour(np.c_[line[:, ::-1] - 1, np.full(len(line), k)], ijk_to_ras)
        for k, piece in enumerate(mask)
        for line in find_contours(np.pad(piece, 1).astype(float), 0.5)
    ]


def read(path, grid=GRID):
    layers, segments = read_structure_set(path, grid)
    return {segment.name: layers[segment.layer] == segment.value for segment in segments}


def drawn(tmp_path, *contours):
    """The slice 2 of what these contours enclose."""
    mask = read(structure_set(tmp_path / "x.dcm", {"a": contours}))["a"]
    assert not np.delete(mask, 2, axis=0).any()
    return mask[2]


def box(*boxes):
    """Boolean rows and columns, each of the boxes (row, column, end row, end column) turned over."""
    mask = np.zeros(make.SHAPE[1:], bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] ^= True
    return mask


def test_names_and_colours_and_as_many_pixels_as_the_area(tmp_path):
    """A border that runs through pixel centres: those at the lower rows and columns are inside."""
    path = structure_set(tmp_path / "x.dcm", {" Left\n lung": [rectangle(2, (2, 3), (6, 8))], "unused": []})
    layers, (segment,) = read_structure_set(path, GRID)
    assert (segment.name, segment.value, segment.color) == ("Left lung", 1, (255, 0, 0))
    np.testing.assert_array_equal(layers[0, 2], box((2, 3, 6, 8)))
    assert [(one.name, one.value) for one in segments_of(path)] == [("Left lung", 0)]


def test_neighbours_that_share_a_border_do_not_overlap(tmp_path):
    rois = {
        "a": [rectangle(2, (2, 1), (6, 5))],
        "b": [rectangle(2, (2, 5), (6, 9))],
        "c": [rectangle(2, (6, 1), (8, 9))],
    }
    layers, segments = read_structure_set(structure_set(tmp_path / "x.dcm", rois), GRID)
    assert len(layers) == 1
    assert np.count_nonzero(layers) == 4 * 8 + 2 * 8


def test_holes_islands_keyholes_and_contours_that_are_stored_twice(tmp_path):
    outer, hole = rectangle(2, (0.5, 0.5), (8.5, 10.5)), rectangle(2, (2.5, 2.5), (6.5, 8.5))
    np.testing.assert_array_equal(drawn(tmp_path, outer, hole), box((1, 1, 9, 11), (3, 3, 7, 9)))
    island = rectangle(2, (3.5, 4.5), (5.5, 6.5), kind="CLOSEDPLANAR_XOR")
    ring = box((1, 1, 9, 11), (3, 3, 7, 9), (4, 5, 6, 7))
    np.testing.assert_array_equal(drawn(tmp_path, island, hole, outer, outer), ring)
    keyhole = [(0.5, 0.5), (8.5, 0.5), (8.5, 10.5), (5, 10.5), (5, 8.5), (6.5, 8.5), (6.5, 2.5), (2.5, 2.5)]
    keyhole = [(i, j, 2) for j, i in [*keyhole, (2.5, 8.5), (5, 8.5), (5, 10.5), (0.5, 10.5)]]
    np.testing.assert_array_equal(drawn(tmp_path, contour(keyhole)), box((1, 1, 9, 11), (3, 3, 7, 9)))
    apart = drawn(tmp_path, rectangle(2, (0.5, 0.5), (3.5, 3.5)), rectangle(2, (5.5, 6.5), (8.5, 9.5)))
    np.testing.assert_array_equal(apart, box((1, 1, 4, 4), (6, 7, 9, 10)))


def test_what_reaches_beyond_the_image_is_cut(tmp_path):
    np.testing.assert_array_equal(drawn(tmp_path, rectangle(2, (-1e7, 4.5), (2.5, 1e7))), box((0, 5, 3, 12)))


def test_polygons_are_filled_as_scikit_image_fills_them():
    random = np.random.default_rng(0)
    for count in (3, 4, 5, 8, 13, 40):
        points = random.uniform(-4, 24, (count, 2))
        np.testing.assert_array_equal(fill([points], (17, 21)), polygon2mask((17, 21), points), str(count))


def test_a_real_mask_comes_back_to_the_voxel(tmp_path):
    """Drawn on an oblique grid, and read on it with its axes in each of the 48 orders: Dice 1."""
    image = sitk.ReadImage(str(HIPPOCAMPUS / "labelsTr" / "hippocampus_051.nii.gz"))
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.4).GetMatrix())
    labels, matrix = sitk.GetArrayFromImage(image), ijk_to_ras_of(image)
    rois = {str(value): contours_of(labels == value, matrix) for value in (1, 2)}
    path = structure_set(tmp_path / "x.dcm", rois)
    for order, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        other = np.eye(4)
        other[:3, :3] = matrix[:3, order] * signs
        expected, turned = turn_like(labels, matrix, other)
        (layer,), _ = read_structure_set(path, (expected.shape, turned))
        np.testing.assert_array_equal(layer, expected, f"{order} {signs}")


def test_structures_that_overlap_are_layers_and_no_classes(tmp_path):
    rois = {"a": [rectangle(2, (1.5, 1.5), (6.5, 6.5))], "b": [rectangle(2, (4.5, 4.5), (8.5, 8.5))]}
    label_map = read_label_map(structure_set(tmp_path / "x.dcm", rois), grid=lambda: GRID)
    assert [(segment.name, segment.layer) for segment in label_map.segments] == [("a", 0), ("b", 1)]
    image = read_volume(make.dicom(tmp_path / "s"))
    with pytest.raises(InputError, match="the segments 'a' and 'b' overlap in 4 voxels"):
        classes_on(image, label_map, own_labels(label_map), COMPLETE)
    measured = measure_masks(read_masks(tmp_path / "x.dcm", image, {}), image)["segments"]
    assert [(one["name"], one["voxels"]) for one in measured] == [("a", 25), ("b", 16)]


def test_what_encloses_nothing_is_left_out_with_a_line(tmp_path, caplog):
    point = contour([(3, 3, 4.2)], kind="POINT")
    line = contour([(1, 1, 2), (5, 5, 3)], kind="OPEN_NONPLANAR")
    whole = rectangle(2, (1, 1), (3, 3))
    assert list(read(structure_set(tmp_path / "x.dcm", {"isocentre": [point], "a": [line, whole]}))) == ["a"]
    (record,) = caplog.records
    assert "enclose nothing are left out: isocentre (POINT), a (OPEN_NONPLANAR)" in record.getMessage()


def test_a_contour_is_of_the_slice_that_is_at_most_half_a_slice_away(tmp_path):
    masks = read(
        structure_set(tmp_path / "x.dcm", {"a": [rectangle(1.55, (1, 1), (3, 3)), rectangle(4.4, (1, 1), (3, 3))]})
    )
    assert np.flatnonzero(masks["a"].any((1, 2))).tolist() == [2, 4]


def tilted(k):
    return contour([(1, 1, k), (8, 1, k), (8, 8, k + 1.2), (1, 8, k + 1.2)])


def stated(**texts):
    """A contour whose tags are as these texts say."""
    item = rectangle(2, (1, 1), (3, 3))
    for name, text in texts.items():
        make.state(item, name, text)
    return item


GOOD = rectangle(2, (1, 1), (3, 3))


@pytest.mark.parametrize(
    ("rois", "message"),
    [
        (
            {"a": [tilted(1)]},
            "'a' has a contour that is not in the plane of one slice, but goes from slice 1.00 to 2.20",
        ),
        ({"a": [rectangle(6.2, (1, 1), (3, 3))]}, "'a' has a contour at slice 6.20, outside of its image"),
        ({"a": [rectangle(-0.7, (1, 1), (3, 3))]}, "'a' has a contour at slice -0.70, outside of its image"),
        (
            {"a": [GOOD, rectangle(2.4, (1, 1), (3, 3))]},
            "has contours at 2.00 and 2.40, which are one slice of its image",
        ),
        ({"a": [rectangle(2, (1, 20), (3, 30))]}, "outside of its image, in the rows 1.0 to 3.0 and the columns 20.0"),
        ({"a": [stated(ContourData="1\\2\\3\\4\\5")]}, "a contour of 5 numbers, not three for each of its points"),
        ({"a": [stated(NumberOfContourPoints="5")]}, r"a contour of 12 numbers, .*NumberOfContourPoints: '5'\)"),
        (
            {"a": [stated(ContourData="1\\2\\NaN")]},
            r"without valid points \(DICOM tag 3006,0050, ContourData: '\[?1, 2|ContourData: '1",
        ),
        ({"a": [stated(ContourData="1,5\\2\\3")]}, "without valid points"),
        ({"a": [stated(ContourData="")]}, "without valid points"),
        ({str(number): [] for number in range(2000)}, "has no closed contours; draw some"),
        ({str(number): [GOOD] for number in range(256)}, "has 256 structures; keep at most 255"),
    ],
)
def test_what_fits_nowhere_is_refused_in_one_line(tmp_path, rois, message):
    with pytest.raises(InputError, match=message) as caught:
        read(structure_set(tmp_path / "x.dcm", rois))
    assert "\n" not in str(caught.value)


def other_frame(data):
    data.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: delattr(data, "ROIContourSequence"), "has no closed contours"),
        (lambda data: make.state(data, "ROIContourSequence", "nothing"), "has no closed contours|not a complete DICOM"),
        (other_frame, "is drawn in 2 frames of reference; export those of one series"),
    ],
)
def test_a_structure_set_without_its_parts_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(InputError, match=message) as caught:
        read(structure_set(tmp_path / "x.dcm", {"a": [GOOD], "b": [GOOD]}, change=change))
    assert "\n" not in str(caught.value)


def nameless(data):
    del data.StructureSetROISequence
    data.ROIContourSequence[0].ROIDisplayColor = [300, 0, 0]
    data.ROIContourSequence.append(Dataset())


def test_a_structure_without_a_name_or_a_valid_colour_has_its_number_and_is_grey(tmp_path):
    (segment,) = read_structure_set(structure_set(tmp_path / "x.dcm", {"a": [GOOD]}, change=nameless), GRID)[1]
    assert (segment.name, segment.color) == ("ROI 700", (128, 128, 128))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = structure_set(tmp_path / "x.dcm", {"a": [GOOD], "b": [GOOD]}).read_bytes()
    for share in (0.5, 0.7, 0.9, 0.99):
        (tmp_path / "cut.dcm").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError):
            read_label_map(tmp_path / "cut.dcm", grid=lambda: GRID)


def test_a_file_without_preamble_is_read_too(tmp_path):
    path = make.without_preamble(structure_set(tmp_path / "x.dcm", {"a": [GOOD]}))
    assert read_label_map(path, grid=lambda: GRID).layers.sum() == 4


def test_contours_on_every_second_slice_are_painted_slices(tmp_path, run_cli):
    """Nothing is filled between them until `complete` does."""
    contours = [rectangle(k, (1.5, 1.5), (7.5, 9.5)) for k in (0, 2, 4)]
    path = structure_set(tmp_path / "x.dcm", {"a": contours})
    image = read_volume(make.dicom(tmp_path / "s"))
    label_map = read_label_map(path, grid=lambda: image.grid)
    classes, painted = classes_on(image, label_map, own_labels(label_map), LabelRules(only_painted=True))
    assert painted.numbers == (0, 2, 4)
    assert [sorted(set(piece.ravel().tolist())) for piece in classes] == [[0, 1], [255], [0, 1], [255], [0, 1], [255]]
    done = run_cli("complete", tmp_path / "s", path, "-o", tmp_path / "whole.seg.nrrd")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_label_map(tmp_path / "whole.seg.nrrd").layers[0, :5].any((1, 2)), True)


def test_contours_without_their_image_are_refused_in_one_line(tmp_path):
    path = structure_set(tmp_path / "x.dcm", {"a": [GOOD]})
    with pytest.raises(InputError, match="holds contours, which have voxels on an image only"):
        read_label_map(path)


def blob(number):
    """A mask on the grid of `image_files.dicom`."""
    mask = np.zeros(make.SHAPE, bool)
    mask[1:5, 2:8, 2 + number : 9] = True
    mask[2:4, 4:6, 4:6] = False
    return mask


def in_frame(uid):
    return lambda k, data: setattr(data, "FrameOfReferenceUID", uid)


def tree(folder, count, series=lambda uid: uid):
    """Series in one branch, structure sets in another, which name them as `series` says."""
    for number in range(count):
        uid = f"1.2.3.{number + 1}"
        place = folder / f"patient{number}"
        (place / "study").mkdir(parents=True)
        frame = f"{uid}.7"
        make.dicom(place / "study" / "mr", series=uid, change=in_frame(frame))
        structure_set(place / "RS.1.2", {"Blob": contours_of(blob(number))}, series(uid), frame)
    return folder


@pytest.mark.parametrize("named", [lambda uid: uid, lambda uid: None], ids=["series", "frame of reference"])
def test_series_find_their_contours_by_uid(tmp_path, named):
    cases = find_dataset(tree(tmp_path, 2, named)).cases
    assert [(case.name, case.label_map.name) for case in cases] == [("patient0", "RS.1.2"), ("patient1", "RS.1.2")]
    for number, case in enumerate(cases):
        image = read_volume(case.image, case.series_uid)
        label_map = read_label_map(case.label_map, grid=lambda image=image: image.grid)
        np.testing.assert_array_equal(label_map.layers[0], blob(number))


def test_contours_whose_series_cannot_be_told_are_left_out_with_a_line(tmp_path):
    tree(tmp_path, 2)
    structure_set(tmp_path / "lonely.dcm", {"a": [GOOD]}, "1.2.9")
    for number in (1, 2):
        make.dicom(tmp_path / f"s{number}", series=f"1.2.8.{number}", change=in_frame("1.2.8"))
    structure_set(tmp_path / "vague.dcm", {"a": [GOOD]}, None, "1.2.8")
    make.dicom(tmp_path / "s3", series="1.2.8.3", change=in_frame(""))
    structure_set(tmp_path / "nowhere.dcm", {"a": [GOOD]}, None, "")
    dataset = find_dataset(tmp_path)
    assert len(dataset.cases) == 2
    (notice,) = [notice for notice in dataset.notices if "not here" in notice]
    assert notice == "DICOM segmentations whose series are not here, left out: lonely.dcm, nowhere.dcm, vague.dcm."
    structure_set(tmp_path / "twice.dcm", {"a": [GOOD]}, "1.2.3.1")
    with pytest.raises(InputError, match="both belong to one DICOM series; keep one"):
        find_dataset(tmp_path)


def test_evaluate_fills_contours_on_their_series(tmp_path, run_cli):
    """Results cropped to what they show, references in a tree of series and structure sets; one without its series."""
    pytest.importorskip("highdicom")
    truth, results = tree(tmp_path / "truth", 3), tmp_path / "results"
    results.mkdir()
    for number in range(3):
        folder = truth / f"patient{number}" / "study" / "mr"
        source = read_volume(folder)
        write_labels(results / f"{number}.dcm", blob(0).astype(np.uint8), source, (Label(1, "blob", (230, 159, 0)),))
    for path in (truth / "patient2" / "study" / "mr").iterdir():
        path.unlink()
    done = run_cli("evaluate", "--predictions", results, "--labels", truth, "--json", tmp_path / "x.json")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert "holds contours, and the DICOM series on which they are drawn, '1.2.3.3', is not below" in error
    dice = {row["case"]: row["dice"] for row in json.loads((tmp_path / "x.json").read_text())["rows"]}
    ours, theirs = blob(0), blob(1)
    assert dice["0"] == 1
    assert dice["1"] == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))


@pytest.mark.slow
def test_a_training_on_contours(tmp_path, run_cli):
    data = tree(tmp_path / "data", 3)
    (tmp_path / "config.json").write_text(json.dumps(to_json(COMPACT)))
    more = ("--config", tmp_path / "config.json", "--device", "cpu")
    done = run_cli("train", "--data", data, "--check", *more)
    assert done.returncode == 0, done.stderr
    assert "patient0" in done.stdout
    assert "Blob" in done.stdout
    done = run_cli("train", "--data", data, "-o", tmp_path / "m.sam3d", "--progress", "none", *more)
    assert done.returncode == 0, done.stderr
    card = load_model(tmp_path / "m.sam3d").card
    assert [(label.name, label.color) for label in card.labels] == [("Blob", (255, 0, 0))]
    done = run_cli(
        "segment", data / "patient0" / "study" / "mr", "-o", tmp_path / "x.nii.gz", "--model", tmp_path / "m.sam3d"
    )
    assert done.returncode == 0, done.stderr
