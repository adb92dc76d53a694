"""Volumes that follow each other in time: read one by one, segmented with one model, written together."""

import csv
import gzip
import json
import re
import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pydicom.dataset import Dataset

import image_files as make
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.bench.painting import paint_in_part
from SAM3DSegmentLib.card import EncoderConfig, Label, ModelCard, VitConfig
from SAM3DSegmentLib.commands.report import read_report
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.formats.frames_writing import write_frames
from SAM3DSegmentLib.formats.images import read_header
from SAM3DSegmentLib.formats.label_maps import read_label_map
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.model_file import Sam3dModel, load_model, save_model
from SAM3DSegmentLib.sam.vit import build_vit, tensors_sha256
from SAM3DSegmentLib.settings import TrainingConfig
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.plan import make_plan
from SAM3DSegmentLib.training.reading import read_case

FRAMES = 5
SETTINGS = TrainingConfig(encoder="compact_vit", image_size=32)
STACK = np.stack([make.voxels() + 100 * number for number in range(FRAMES)])  # (T, K, J, I)


def four_d(array=STACK):
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing((*make.SPACING, 0.5))
    image.SetOrigin((*make.ORIGIN, 0))
    return image


def slicers(path, first, encoding="gzip"):
    """A `.seq.nrrd`, its frames on the last axis as new versions of Slicer write it, or on the first as older ones."""
    vectors = ["(1,0,0)", "(0,1.5,0)", "(0,0,2)"]
    array = np.moveaxis(STACK, 0, -1) if first else STACK
    kinds, axis = ["domain"] * 3, 0 if first else 3
    for items, what in ((vectors, "none"), (kinds, "list")):
        items.insert(axis, what)
    fields = {
        "space": "left-posterior-superior",
        "space_directions": " ".join(vectors),
        "kinds": " ".join(kinds),
        "space_origin": "(5,-6,7)",
        "units": " ".join('"s"' if kind == "list" else '""' for kind in kinds),
        "encoding": encoding,
    }
    data = array.tobytes()
    make.nrrd(path, array, gzip.compress(data) if encoding == "gzip" else data, **fields)
    head, _, rest = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + f"\naxis {axis} index values:=0 0.5 1 1.5 2\n\n".encode() + rest)
    return path


MOVIES = {
    "a.nii": lambda path: make.write(path, four_d()),
    "a.nii.gz": lambda path: make.write(path, four_d()),
    "a.mha": lambda path: make.write(path, four_d(), compressed=True),
    "a.mhd": lambda path: make.write(path, four_d()),
    "a.nrrd": lambda path: make.write(path, four_d()),
    "new.seq.nrrd": lambda path: slicers(path, first=False),
    "old.seq.nrrd": lambda path: slicers(path, first=True),
    "raw.seq.nrrd": lambda path: slicers(path, first=True, encoding="raw"),
}


@pytest.mark.parametrize("name", MOVIES)
def test_each_frame_of_each_format_is_read_alone(tmp_path, name):
    path = MOVIES[name](tmp_path / name)
    header = read_header(path)
    assert (header.frames, header.shape) == (FRAMES, make.SHAPE)
    single = read_volume(make.write(tmp_path / "single.nrrd"))
    for number in (3, 0, 4):
        frame = read_volume(path, frame=number)
        np.testing.assert_array_equal(frame.array_kji, STACK[number])
        np.testing.assert_allclose(frame.ijk_to_ras, single.ijk_to_ras, atol=1e-5)
    if name.startswith(("a.nii", "new", "old")):
        assert header.times == (0, 0.5, 1, 1.5, 2)
    with pytest.raises(InputError, match="no frame 5; choose one from 0 to 4"):
        read_volume(path, frame=5)
    with pytest.raises(InputError, match=r"has 4 dimensions, size \(12, 10, 6, 5\).*--frames all, N or N:M"):
        read_volume(path)


def cine(folder, stack=STACK, tag="TriggerTime"):
    """A file for each slice of each frame, as a scanner exports them; the slices are triggered one after the other."""
    for number, array in enumerate(stack):

        def change(k, data, number=number):
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{data.SOPInstanceUID}.{number}"
            setattr(data, tag, 40 * number + k)

        make.dicom(folder, array, names=f"t{(3 * number) % 5}_{{:03d}}.dcm", change=change)
    return folder


def enhanced(folder, by_position=True):
    """One multi-frame file."""
    folder.mkdir()
    order = [(t, k) for k in range(make.SHAPE[0]) for t in range(FRAMES)]
    if not by_position:
        order.sort()

    def change(number, frame):
        content = Dataset()
        content.TemporalPositionIndex = order[number][0] + 1
        frame.FrameContentSequence = [content]

    array = np.stack([STACK[t, k] for t, k in order])
    return make.multiframe(folder, [7 + 2.0 * k for _, k in order], array=array, change=change)


CINES = {
    "slices": cine,
    "temporal positions": lambda path: cine(path, tag="TemporalPositionIdentifier"),
    "enhanced": enhanced,
    "enhanced, one volume after the other": lambda path: enhanced(path, by_position=False),
}


@pytest.mark.parametrize("kind", CINES)
def test_each_frame_of_a_dicom_series_over_time_is_read_alone(tmp_path, kind):
    folder = CINES[kind](tmp_path / "series")
    single = read_volume(make.dicom(tmp_path / "single", STACK[0]))
    for number in (3, 0, 4):
        frame = read_volume(folder, frame=number)
        np.testing.assert_array_equal(frame.array_kji, STACK[number])
        np.testing.assert_allclose(frame.ijk_to_ras, single.ijk_to_ras, atol=1e-5)
    with pytest.raises(InputError, match="has no frame 5; choose one from 0 to 4"):
        read_volume(folder, frame=5)
    with pytest.raises(InputError, match=r"has 5 frames over time, of 6 slices each; .*--frames all, N or N:M"):
        read_volume(folder)


def test_a_dicom_series_over_time_is_segmented(command, d):
    cine(d / "series")
    enhanced(d / "enhanced")
    make.dicom(d / "single", STACK[2])
    assert command("segment", "single", "-o", "one.nii.gz")[0] == 0
    assert command("segment", "series", "-o", "all.nii.gz", "--frames", "1:3")[0] == 0
    assert command("segment", "enhanced", "-o", "two.nii.gz", "--frames", "2")[0] == 0
    np.testing.assert_array_equal(labels_of(d / "all.nii.gz", 1), labels_of(d / "one.nii.gz"))
    np.testing.assert_array_equal(labels_of(d / "two.nii.gz"), labels_of(d / "one.nii.gz"))


@pytest.mark.slow  # for the import of highdicom
def test_a_frame_of_single_slices_may_become_a_dicom_segmentation(command, d):
    cine(d / "series")
    assert command("segment", "series", "-o", "two.nii.gz", "--frames", "2")[0] == 0
    assert command("segment", "series", "-o", "two.dcm", "--frames", "2")[0] == 0
    found = read_label_map(d / "two.dcm")
    assert np.count_nonzero(found.layers) == np.count_nonzero(labels_of(d / "two.nii.gz"))
    enhanced(d / "enhanced")
    code, _, log = command("segment", "enhanced", "-o", "three.dcm", "--frames", "2")
    assert code == 1
    assert "has all its frames over time in one file" in log


def test_training_takes_the_frames_that_dataset_json_lists_as_cases_of_one_patient(d):
    masks = (np.median(STACK) < STACK).astype(np.uint8)
    for folder, array in (("imagesTr", STACK), ("labelsTr", masks)):
        (d / folder).mkdir()
        make.write(d / folder / "heart.nii.gz", four_d(array))
        make.write(d / folder / "other.nii.gz", make.image(array[0]))
        make.write(d / folder / "third.nii.gz", make.image(array[1]))
    description = {"frames": {"heart": [4, 1]}, "patients": {"other": "P1", "heart": "P1"}}
    (d / "dataset.json").write_text(json.dumps(description))
    plan = make_plan(d, SETTINGS)
    assert sorted(plan.files) == ["heart_frame001", "heart_frame004", "other", "third"]
    assert plan.dataset.patients == {"heart_frame001": "P1", "heart_frame004": "P1", "other": "P1"}
    (split,) = plan.splits
    assert {len(split.training), len(split.validation)} == {1, 3}
    for number in (1, 4):
        image, classes = read_case(plan.files[f"heart_frame{number:03d}"], plan.labels)
        np.testing.assert_array_equal(image.array_kji, STACK[number])
        np.testing.assert_array_equal(classes, masks[number])
    paint_in_part(plan, plan.files, {}, d / "painted")
    assert make_plan(d / "painted", SETTINGS).splits == plan.splits
    (d / "dataset.json").write_text(json.dumps({"frames": {"heart": [4, 1]}}))
    assert find_dataset(d).patients == {"heart_frame001": "heart", "heart_frame004": "heart"}
    for wrong in ([1], {"heart": "all"}, {"heart": []}, {"heart": [1, 1]}, {"heart": [-1]}):
        (d / "dataset.json").write_text(json.dumps({"frames": wrong}))
        with pytest.raises(InputError, match=r"has (the )?frames .*as in {\"frames\": {\"case_1\": \[0, 9\]}}"):
            find_dataset(d)
    (d / "dataset.json").write_text(json.dumps({"frames": {"heart": [5]}}))
    problems = make_plan(d, SETTINGS).problems
    assert [case.problem for case in problems] == [
        f"{str(d / 'labelsTr' / 'heart.nii.gz')!r} has no frame 5; choose one from 0 to 4."
    ]


@pytest.mark.parametrize("name", ["movie.nii.gz", "movie.seq.nrrd"])
def test_memory_is_that_of_one_frame_and_the_results(command, d, name):
    """Of numpy, in which all is read: 20 frames of half a MiB take what one does, and four times their labels."""
    stack = np.random.default_rng(0).integers(0, 99, (20, 4, 128, 128)).astype(np.float64)
    write_frames(d / name, stack, np.eye(4), is_label_map=False)
    peaks = []
    for frames in ("0", "all"):
        tracemalloc.start()
        code, _, log = command("segment", name, "-o", "out.nii.gz", "--frames", frames, "--overwrite")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert code == 0, log
    assert peaks[1] - peaks[0] < 4 * stack.size + 2**20


def labels_of(path, frame=None):
    return read_volume(path, frame=frame).array_kji


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """A model of random weights, whose masks mean nothing, but depend on every voxel."""
    torch.manual_seed(3)
    vit = VitConfig(16, 1, 2, (0,))
    tensors = {key: value.half() for key, value in build_vit(vit, 32).state_dict().items()}
    encoder = EncoderConfig("compact_vit", 32, tensors_sha256(tensors), vit)
    decoder = Sam3dDecoder(3, (256, 8, 8, 8, 8))
    labels = (Label(1, "Inside", (230, 159, 0)), Label(2, "Outside", (86, 180, 233)))
    path = tmp_path_factory.mktemp("model") / "lively.sam3d"
    save_model(Sam3dModel(ModelCard("lively", "", "MRI", labels, encoder, decoder.config), decoder, tensors), path)
    return path


def test_twenty_frames_equal_twenty_single_volumes_to_the_voxel_in_every_form(command, d, lively):
    first = np.random.default_rng(0).normal(size=make.SHAPE).cumsum(axis=1) * 100
    stack = np.stack([np.roll(first, number, 2) for number in range(20)]).astype(np.int16)
    movie = make.write(d / "movie.nii.gz", four_d(stack))
    segmenter = Segmenter.load(load_model(lively), "cpu")
    volumes = [read_volume(make.write(d / "one.nrrd", make.image(array))) for array in stack]
    single = [segmenter.segment(volume.array_kji, volume.ijk_to_ras) for volume in volumes]
    assert len({labels.tobytes() for labels in single}) > 10
    model = ("--model", lively)
    for name in ("all.nii.gz", "all.seq.nrrd"):
        more = ("--confidence", f"sure-{name}", "--report", "all.json", "--table", "all.csv", "--overwrite", *model)
        code, _, log = command("segment", movie, "-o", name, "--frames", "all", *more)
        assert code == 0, log
        for number in range(20):
            np.testing.assert_array_equal(labels_of(d / name, number), single[number], err_msg=str(number))
        np.testing.assert_allclose(read_header(d / name).times, np.arange(20) / 2)
        sure = read_volume(d / f"sure-{name}", frame=2)
        assert 0 < sure.array_kji.max() <= 100
        np.testing.assert_allclose(sure.ijk_to_ras, volumes[2].ijk_to_ras, atol=1e-5)
    assert command("segment", movie, "-o", "17.seg.nrrd", "--frames", "17", *model)[0] == 0
    np.testing.assert_array_equal(labels_of(d / "17.seg.nrrd"), single[17])
    assert command("segment", movie, "-o", "each", "--frames", "9:12", "--table", "each.csv", *model)[0] == 0
    assert sorted(path.name for path in (d / "each").iterdir()) == [f"movie_frame{n:03d}.seg.nrrd" for n in (9, 10, 11)]
    np.testing.assert_array_equal(labels_of(d / "each" / "movie_frame010.seg.nrrd"), single[10])
    records = json.loads((d / "all.json").read_text())["segmented"]
    assert [record["frame"] for record in records] == list(range(20))
    rows = list(csv.DictReader((d / "all.csv").open()))
    counts = [
        ("movie", str(number), str(value), str(np.count_nonzero(labels == value)))
        for number, labels in enumerate(single)
        for value in (1, 2)
    ]
    assert [(row["case"], row["frame"], row["value"], row["voxels"]) for row in rows] == counts
    each = list(csv.DictReader((d / "each.csv").open()))
    assert [(row["case"], row["frame"], row["value"], row["voxels"]) for row in each] == counts[18:24]


def test_a_folder_of_frames_goes_on_where_it_ended(command, d):
    make.write(d / "movie.nii", four_d())
    assert command("segment", "movie.nii", "-o", "each", "--frames", "1:4", "--report", "r.json")[0] == 0
    (d / "each" / "movie_frame002.seg.nrrd").unlink()
    code, _, log = command(
        "segment", "movie.nii", "-o", "each", "--frames", "all", "--report", "r.json", "--table", "t.csv"
    )
    assert code == 0
    assert "3 segmented, 2 already there, 0 failed" in log
    records = json.loads((d / "r.json").read_text())["segmented"]
    assert sorted(record["frame"] for record in records) == list(range(FRAMES))
    assert [row["frame"] for row in csv.DictReader((d / "t.csv").open())] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("movie.nii", "-o", "a.nii"), r"'movie.nii' has 4 dimensions.*--frames all, N or N:M, from 0"),
        (("movie.nii", "-o", "a.nii", "--frames", "two"), "--frames 'two' are not frames; give all, N, or N:M"),
        (("movie.nii", "-o", "a.nii", "--frames", "3:3"), "--frames '3:3' are not frames"),
        (("movie.nii", "-o", "a.nii", "--frames", "3:9"), "--frames 3:9 are not all in 'movie.nii'.*frames 0 to 4"),
        (("movie.nii", "-o", "a.nii", "--frames", "5"), "--frames 5 are not all in"),
        (("flat.nrrd", "-o", "a.nii", "--frames", "1"), "which has frames 0 to 0"),
        (("movie.nii", "-o", "a.seg.nrrd", "--frames", "all"), "holds one volume, but --frames all are 5; use .nii"),
        (("movie.nii", "flat.nrrd", "-o", "a", "--frames", "all"), "--frames all is for one volume"),
        ((".", "-o", "a", "--frames", "all"), "--frames all is for one volume, but '.' holds 2"),
        (("movie.nii", "-o", "a.nii", "--frames", "all", "--confidence", "c.mha"), "'c.mha' holds one volume"),
    ],
)
def test_what_cannot_end_well_is_told_and_leaves_nothing(command, d, arguments, message):
    make.write(d / "movie.nii", four_d())
    make.write(d / "flat.nrrd")
    before = sorted(d.rglob("*"))
    code, _, log = command("segment", *arguments)
    assert code == 1
    assert re.search(message, log.strip().splitlines()[-1]), log
    assert sorted(d.rglob("*")) == before


def test_the_report_may_be_a_page_with_the_volumes_over_time_which_goes_on(command, d):
    make.write(d / "movie.nii", four_d())
    assert command("segment", "movie.nii", "-o", "each", "--frames", "2:4", "--report", "r.html")[0] == 0
    assert command("segment", "movie.nii", "-o", "each", "--frames", "all", "--report", "r.html")[0] == 0
    page = (d / "r.html").read_text()
    assert page.count("<circle") == FRAMES
    assert "<td>4</td>" in page
    report = read_report(d / "r.html")
    ml = [record["segments"][0]["volume_ml"] for record in sorted(report.records, key=lambda r: r["frame"])]
    assert [float(text) for text in re.findall(r'<td class="value">([\d.]+)</td>', page)] == pytest.approx(ml, abs=6e-4)
    code, _, log = command("segment", "movie.nii", "-o", "one.nii", "--report", "other.html")
    assert code == 1
    assert "is a page of volumes over time, for --frames" in log
