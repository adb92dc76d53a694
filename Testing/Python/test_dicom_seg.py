"""DICOM segmentations: what is written for a series, decoded in three ways, and what is read as a label map."""

import csv
import io
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

import image_files as make
from conftest import MRI, write_dicom
from SAM3DSegmentLib.base.errors import DependencyError, InputError
from SAM3DSegmentLib.card import Label, Terminology
from SAM3DSegmentLib.commands.measuring import measure_masks, measure_result, read_masks, read_result
from SAM3DSegmentLib.formats.label_maps import check_fits, read_label_map, write_labels
from SAM3DSegmentLib.formats.segments import Provenance
from SAM3DSegmentLib.formats.volumes import Volume, read_volume
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.look import look_at_cases
from SAM3DSegmentLib.training.reading import read_case

highdicom = pytest.importorskip("highdicom")

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
DCMQI = shutil.which("segimage2itkimage") or shutil.which("segimage2itkimage", path=str(sys.prefix) + "/bin")
LABELS = (
    Label(
        3,
        "Left hippocampus",
        (230, 159, 0),
        Terminology("SCT", "123037004", "Anatomical Structure"),
        Terminology("SCT", "72107004", "Hippocampus"),
        Terminology("SCT", "7771000", "Left"),
    ),
    Label(7, "Größe", (86, 180, 233)),
    Label(9, "nowhere", (0, 158, 115)),
)
MADE_BY = Provenance("hippocampus-mri", "0123456789abcdef" * 4)


def oblique(direction=None, shape_kji=(5, 7, 11)):
    image = sitk.GetImageFromArray(np.arange(np.prod(shape_kji), dtype=np.int16).reshape(shape_kji))
    image.SetSpacing((0.5, 0.75, 2.5))
    image.SetOrigin((-12.5, 30.25, 7.0))
    rotation = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.4).GetMatrix()
    image.SetDirection(rotation if direction is None else direction)
    return image


def classic(folder, image=None):
    write_dicom(folder, oblique() if image is None else image)
    return folder


def turned(folder, order, signs):
    """A series whose columns, rows and slices follow each other along other axes of the patient."""
    return classic(folder, oblique(np.ravel(np.eye(3)[list(order)].T * np.array(signs))))


def enhanced(folder, cosines=(1, 0, 0, 0, 1, 0)):
    """A multi-frame file whose frames are in no order."""
    return make.multiframe(folder, [7 + 2 * k for k in (3, 0, 4, 1, 2)], cosines=cosines)


def masks_of(shape):
    """Random voxels of the first two labels, and a slice at either end without any."""
    labels = np.random.default_rng(1).choice([0, 0, 3, 7], shape).astype(np.uint8)
    labels[[0, -1]] = 0
    return labels


def written(folder, path, labels=None):
    source = read_volume(folder)
    labels = masks_of(source.array_kji.shape) if labels is None else labels
    write_labels(path, labels, source, LABELS, provenance=MADE_BY)
    return source, labels


def by_pydicom(path, ijk_to_ras, shape):
    """Each segment's mask (K, J, I) on a grid, by what the standard says of each frame, without any of our code."""
    data = pydicom.dcmread(path)
    assert (data.BitsAllocated, data.SegmentationType, data.Modality) == (1, "BINARY", "SEG")
    rows, columns = data.Rows, data.Columns
    bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
    shared = data.SharedFunctionalGroupsSequence[0]
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    ras_to_ijk = np.linalg.inv(ijk_to_ras)
    masks = {item.SegmentNumber: np.zeros(shape, bool) for item in data.SegmentSequence}
    for number, groups in enumerate(data.PerFrameFunctionalGroupsSequence):
        where = groups if "SegmentIdentificationSequence" in groups else shared
        mask = masks[where.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        frame = bits[number * rows * columns : (number + 1) * rows * columns].reshape(rows, columns)
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            lps = position + cosines[:3] * between_columns * column + cosines[3:] * between_rows * row
            ijk = ras_to_ijk @ (-lps[0], -lps[1], lps[2], 1)
            i, j, k = np.rint(ijk[:3]).astype(int)
            np.testing.assert_allclose(ijk[:3], (i, j, k), atol=1e-3)
            mask[k, j, i] = True
    return {item.SegmentLabel: masks[item.SegmentNumber] for item in data.SegmentSequence}


def by_highdicom(path, ijk_to_ras, shape):
    """The same from highdicom's own volume of the object, resolved onto the grid by its affine."""
    found = highdicom.seg.segread(path)
    masks = {}
    for number in found.segment_numbers:
        volume = found.get_volume(combine_segments=False, segment_numbers=[number])
        to_ijk = np.linalg.inv(ijk_to_ras) @ np.diag([-1, -1, 1, 1]) @ volume.affine
        mask = np.zeros(shape, bool)
        for index in np.argwhere(volume.array[..., 0]):
            i, j, k = np.rint((to_ijk @ (*index, 1))[:3]).astype(int)
            mask[k, j, i] = True
        masks[found.get_segment_description(number).segment_label] = mask
    return masks


def by_dcmqi(path, ijk_to_ras, shape):
    """The same from the images into which dcmqi turns the segments."""
    folder = path.parent / "dcmqi"
    folder.mkdir()
    command = [DCMQI, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    described = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    masks = {}
    for (segment,) in described["segmentAttributes"]:
        image = sitk.ReadImage(str(folder / f"{segment['labelID']}.nrrd"))
        mask = np.zeros(shape, bool)
        for index in np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1].tolist():
            x, y, z = image.TransformIndexToPhysicalPoint(index)
            i, j, k = np.rint((np.linalg.inv(ijk_to_ras) @ (-x, -y, z, 1))[:3]).astype(int)
            mask[k, j, i] = True
        masks[segment["SegmentLabel"]] = mask
    shutil.rmtree(folder)
    return masks


def by_us(path, ijk_to_ras, shape):
    label_map = read_label_map(path)
    to_ijk = np.linalg.inv(ijk_to_ras) @ label_map.ijk_to_ras
    masks = {}
    for segment in label_map.segments:
        mask = masks[segment.name] = np.zeros(shape, bool)
        for index in np.argwhere(label_map.layers[segment.layer] == segment.value)[:, ::-1]:
            i, j, k = np.rint((to_ijk @ (*index, 1))[:3]).astype(int)
            mask[k, j, i] = True
    return masks


DECODERS = {"pydicom": by_pydicom, "highdicom": by_highdicom, "us": by_us}
if DCMQI:
    DECODERS["dcmqi"] = by_dcmqi


def check_decoded(path, source, labels, decoders):
    for name in decoders:
        found = DECODERS[name](path, source.ijk_to_ras, labels.shape)
        assert set(found) == {"Left hippocampus", "Größe"}, name
        for label in LABELS[:2]:
            np.testing.assert_array_equal(found[label.name], labels == label.value, name)


@pytest.mark.parametrize("series", [classic, enhanced])
@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_written_is_the_mask_to_the_voxel(tmp_path, series, decoder):
    source, labels = written(series(tmp_path / "series"), tmp_path / "x.dcm")
    check_decoded(tmp_path / "x.dcm", source, labels, [decoder])


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_however_the_axes_run(tmp_path, order, signs):
    source, labels = written(turned(tmp_path / "series", order, signs), tmp_path / "x.dcm")
    check_decoded(tmp_path / "x.dcm", source, labels, DECODERS)


@pytest.mark.slow
@pytest.mark.parametrize(("order", "signs"), [(order, signs) for order, signs in ORIENTATIONS if signs[2] > 0])
def test_however_oblique_frames_lie(tmp_path, order, signs):
    """Of a multi-frame file, whose third axis is across the other two."""
    rotation = np.reshape(oblique().GetDirection(), (3, 3)) @ (np.eye(3)[list(order)].T * signs)
    cosines = rotation[:, :2].T.ravel().round(9).tolist()
    source, labels = written(enhanced(tmp_path / "series", cosines), tmp_path / "x.dcm")
    check_decoded(tmp_path / "x.dcm", source, labels, DECODERS)


def test_an_object_says_what_it_shows_and_who_made_it(tmp_path):
    folder = classic(tmp_path / "series")
    written(folder, tmp_path / "x.dcm")
    images = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, folder.iterdir())}
    image, data = next(iter(images.values())), pydicom.dcmread(tmp_path / "x.dcm")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "StudyDate"):
        assert data[name].value == image[name].value, name
    assert data.SeriesInstanceUID != image.SeriesInstanceUID
    (series,) = data.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == set(images)
    assert (data.Manufacturer, data.ManufacturerModelName) == ("SAM3DSegment", "hippocampus-mri")
    assert data.DeviceSerialNumber == MADE_BY.sha256
    first, second = data.SegmentSequence  # the third is empty
    assert (first.SegmentNumber, first.SegmentLabel, second.SegmentLabel) == (1, "Left hippocampus", "Größe")
    (category,), (kind,) = first.SegmentedPropertyCategoryCodeSequence, first.SegmentedPropertyTypeCodeSequence
    (modifier,) = kind.SegmentedPropertyTypeModifierCodeSequence
    assert [(code.CodingSchemeDesignator, code.CodeValue) for code in (category, kind, modifier)] == [
        ("SCT", "123037004"),
        ("SCT", "72107004"),
        ("SCT", "7771000"),
    ]
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert (first.SegmentAlgorithmType, first.SegmentAlgorithmName) == ("AUTOMATIC", "SAM3DSegment")
    assert f"model_sha256={MADE_BY.sha256}" in algorithm.AlgorithmParameters
    colour = highdicom.color.CIELabColor.from_dicom_value(tuple(first.RecommendedDisplayCIELabValue))
    assert colour.to_rgb() == LABELS[0].color


def test_what_is_written_is_read_back_with_names_codes_and_colours(tmp_path):
    written(classic(tmp_path / "series"), tmp_path / "x.dcm")
    segments = read_label_map(tmp_path / "x.dcm").segments
    for segment, label in zip(segments, LABELS):
        assert (segment.name, segment.color) == (label.name, label.color)
        assert (segment.category, segment.type, segment.modifier) == (label.category, label.type, label.modifier)


def test_where_nothing_was_found_the_object_says_what_was_looked_for(tmp_path):
    source = read_volume(classic(tmp_path / "series"))
    write_labels(tmp_path / "x.dcm", np.zeros(source.array_kji.shape, np.uint8), source, LABELS, provenance=MADE_BY)
    label_map = read_label_map(tmp_path / "x.dcm")
    assert [segment.name for segment in label_map.segments] == [label.name for label in LABELS]
    assert not label_map.layers.any()


def altered(**changes):
    """A series all of whose slices have these tags as stated; None removes one."""

    def change(k, data):
        for name, text in changes.items():
            if text is None:
                delattr(data, name)
            else:
                make.state(data, name, text)

    return change


@pytest.mark.parametrize(
    "change",
    [
        altered(PatientSex="X", PatientBirthDate="unknown", StudyDate="2", StudyTime="noon"),
        altered(PatientName="M\u00fcller^\u00c4nne", SpecificCharacterSet="ISO_IR 192"),
        altered(SeriesNumber="2147483647"),
        altered(SeriesNumber="-3", SpacingBetweenSlices="1"),
        altered(SliceThickness=None),
        lambda k, data: setattr(data, "ImageOrientationPatient", [1, 0, 1e-7 * k, 0, 1, 0]),
    ],
)
def test_odd_headers_do_not_keep_a_mask_from_being_written(tmp_path, change):
    source, labels = written(make.dicom(tmp_path / "series", change=change), tmp_path / "x.dcm")
    check_decoded(tmp_path / "x.dcm", source, labels, ["pydicom", "us"])


def test_files_without_preamble_are_a_series_too(tmp_path):
    folder = make.dicom(tmp_path / "series")
    for path in folder.iterdir():
        make.without_preamble(path)
    source, labels = written(folder, tmp_path / "x.dcm")
    check_decoded(tmp_path / "x.dcm", source, labels, ["pydicom", "us"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (altered(FrameOfReferenceUID=None), r"slices without DICOM tag 0020,0052, FrameOfReferenceUID"),
        (altered(StudyInstanceUID=None), r"slices without DICOM tag 0020,000D, StudyInstanceUID"),
        (
            lambda k, data: setattr(data, "FrameOfReferenceUID", f"1.2.{k % 2}"),
            "slices of 2 frames of reference",
        ),
        (
            lambda k, data: setattr(data, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.4.1"),
            "DICOM tags of which no segmentation can be made",
        ),
    ],
)
def test_a_series_to_which_nothing_can_refer_is_refused_before_the_work(tmp_path, change, message):
    source = read_volume(make.dicom(tmp_path / "series", change=change))
    with pytest.raises(InputError, match=message) as caught:
        check_fits(tmp_path / "x.dcm", source, LABELS, MADE_BY)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".seg.nrrd.")


def test_no_mask_leaves_its_patient_out(tmp_path, run_cli):
    folder = make.dicom(tmp_path / "series")
    done = run_cli("segment", folder, "-o", tmp_path / "x.dcm", "--anonymous")
    assert done.returncode == 1
    assert "ERROR: --anonymous is not possible: a DICOM segmentation has to name the patient" in done.stderr
    assert not (tmp_path / "x.dcm").exists()


def test_a_mask_of_no_series_is_refused(tmp_path):
    source = read_volume(MRI)
    with pytest.raises(InputError, match="belongs to a DICOM series; give the folder of the series"):
        write_labels(tmp_path / "x.dcm", np.zeros(source.array_kji.shape, np.uint8), source, LABELS)
    assert not list(tmp_path.iterdir())


def test_without_highdicom_one_line_says_what_to_install(tmp_path, monkeypatch):
    folder = make.dicom(tmp_path / "series")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(DependencyError, match="pip install"):
        check_fits(tmp_path / "x.dcm", read_volume(folder), LABELS, MADE_BY)
    assert read_volume(folder).array_kji.any()


def rows_of(table):
    """Case, label, value, size and grey values, which do not depend on when and how they were found."""
    with open(table, newline="", encoding="utf-8") as file:
        keys = ("case", "label", "value", "volume_ml", "voxels", "mean", "sd", "cut_off")
        return [tuple(row[key] for key in keys) for row in csv.DictReader(file)]


@pytest.mark.parametrize("ending", [".dcm", ".seg.nrrd", ".nii.gz"])
def test_a_result_is_measured_with_all_labels_and_values_of_the_model(tmp_path, ending):
    source = read_volume(classic(tmp_path / "series"))
    labels = np.zeros(source.array_kji.shape, np.uint8)
    labels[1:3, 2:5, 3:6] = 7
    write_labels(tmp_path / f"x{ending}", labels, source, LABELS)
    segments = measure_result(read_result(tmp_path / f"x{ending}", source, LABELS), source, LABELS)["segments"]
    assert [(s["name"], s["value"], s["voxels"]) for s in segments] == [
        ("Left hippocampus", 3, 0),
        ("Größe", 7, 18),
        ("nowhere", 9, 0),
    ]
    assert segments[1]["mean"] == source.array_kji[1:3, 2:5, 3:6].mean()
    others = measure_masks(read_masks(tmp_path / f"x{ending}", source, {7: "Größe"}), source)["segments"]
    assert next(s for s in others if s["voxels"])["mean"] == segments[1]["mean"]


def test_a_mask_is_measured_on_a_converted_image_whose_slices_run_the_other_way(tmp_path):
    source, labels = written(classic(tmp_path / "series"), tmp_path / "x.dcm")
    matrix = source.ijk_to_ras.copy()
    matrix[:3, 3] += (len(labels) - 1) * matrix[:3, 2]
    matrix[:3, 2] *= -1
    converted = Volume(source.array_kji[::-1], matrix, tmp_path / "converted.nrrd")
    segments = measure_masks(read_masks(tmp_path / "x.dcm", converted, {}), converted)["segments"]
    assert {s["name"]: s["mean"] for s in segments} == {
        label.name: pytest.approx(source.array_kji[labels == label.value].mean()) for label in LABELS[:2]
    }


def test_of_a_mask_that_shows_something_else_nothing_is_said_but_that(tmp_path):
    source = read_volume(classic(tmp_path / "series"))
    write_labels(
        tmp_path / "x.dcm", np.ones(source.array_kji.shape, np.uint8), source, (Label(1, "Liver", (221, 130, 101)),)
    )
    shown = measure_result(read_result(tmp_path / "x.dcm", source, LABELS), source, LABELS)
    assert [s["name"] for s in shown["segments"]] == ["Liver"]


class TestCommand:
    """`segment` to DICOM, as it is called."""

    def test_a_series(self, d, command):
        make.dicom(d / "series")
        code, _, err = command("segment", "series", "-o", "x.dcm", "--report", "r.json")
        assert code == 0, err
        segments = json.loads((d / "r.json").read_text())["segmented"][0]["segments"]
        data = pydicom.dcmread(d / "x.dcm")
        assert bool(segments[0]["volume_ml"]) == np.frombuffer(data.PixelData, np.uint8).any()
        assert data.ManufacturerModelName == "tiny"
        assert sorted(path.name for path in d.iterdir()) == ["r.json", "series", "x.dcm"]
        before = (d / "x.dcm").read_bytes()
        code, _, err = command("segment", "series", "-o", "x.dcm")
        assert (code, err.count("\n")) == (1, 1)
        assert "'x.dcm' exists already; add --overwrite" in err
        assert (d / "x.dcm").read_bytes() == before
        assert command("segment", "series", "-o", "x.dcm", "--overwrite")[0] == 0
        assert (d / "x.dcm").read_bytes() != before

    def test_beside_its_images(self, d, command):
        """Where a later run takes it for no image, nor for a slice."""
        make.dicom(d / "series")
        for _ in range(2):
            code, _, err = command("segment", "series", "-o", "series/mask.dcm", "--overwrite")
            assert code == 0, err
        slice_of = next(path.name for path in (d / "series").iterdir() if path.name != "mask.dcm")
        code, _, err = command("segment", "series", "-o", f"series/{slice_of}", "--overwrite")
        assert (code, "is also an input and would be lost" in err) == (1, True)

    def test_what_is_no_series(self, d, command):
        make.write(d / "a.nrrd")
        code, _, err = command("segment", "a.nrrd", "-o", "x.dcm")
        assert (code, err.count("\n")) == (1, 1)
        assert "output 'x.dcm' is a DICOM segmentation, which belongs to a DICOM series" in err
        assert not (d / "x.dcm").exists()

    def test_several_series(self, d, command):
        for name in "ab":
            make.dicom(d / name, series=f"1.2.3.{ord(name)}")
        make.write(d / "c.nrrd")
        code, _, err = command("segment", "a", "b", "c.nrrd", "-o", "out", "--format", "dcm")
        assert code == 1
        assert sorted(path.name for path in (d / "out").iterdir()) == ["a.dcm", "b.dcm"]
        assert "2 segmented, 0 already there, 1 failed" in err
        assert "belongs to a DICOM series" in err
        for name in "ab":
            (series,) = pydicom.dcmread(d / "out" / f"{name}.dcm").ReferencedSeriesSequence
            assert series.SeriesInstanceUID == f"1.2.3.{ord(name)}"
        code, _, err = command("segment", "a", "b", "-o", "out", "--format", "dcm")
        assert (code, "2 already there" in err) == (0, True)

    def test_what_no_volume_of_the_folder_can_become_is_refused_before_the_work(self, d, command):
        for folder in ("in", "bids/sub-1"):
            (d / folder).mkdir(parents=True)
        make.write(d / "in" / "c.nrrd")
        make.write(d / "bids" / "sub-1" / "sub-1_T1w.nrrd")
        no_series = f"{str(Path('out', 'c.dcm'))!r} is a DICOM segmentation, which belongs to a DICOM series"
        for arguments, message in (
            (["in", "-o", "out"], no_series),
            (["in", "-o", "out", "--recursive"], no_series),
            (["bids", "-o", "out", "--recursive"], "--format 'dcm' is not for a BIDS dataset"),
        ):
            code, _, err = command("segment", *arguments, "--format", "dcm")
            assert (code, message in err) == (1, True), err
            assert not (d / "out").exists()

    @pytest.mark.parametrize("out", ["out", "in"])
    def test_a_tree_of_series_in_parts_with_one_table(self, d, command, out):
        """The masks may lie among the images; what a later run measures of them is what the first one noted."""
        cases = ["a/x", "a/y", "b/x", "c"]
        for number, case in enumerate(cases):
            (d / "in" / case).parent.mkdir(parents=True, exist_ok=True)
            make.dicom(d / "in" / case, series=f"1.2.3.{number + 1}")
        arguments = ("segment", "in", "-o", out, "--format", "dcm", "--recursive", "--table")
        for part in ("1/2", "2/2"):
            code, _, err = command(*arguments, "t.csv", "--report", "r.json", "--part", part)
            assert code == 0, err
        for number, case in enumerate(cases):
            (series,) = pydicom.dcmread(d / out / f"{case}.dcm").ReferencedSeriesSequence
            assert series.SeriesInstanceUID == f"1.2.3.{number + 1}"
        assert len(json.loads((d / "r.json").read_text())["segmented"]) == len(cases)
        code, _, err = command(*arguments, "later.csv")
        assert code == 0, err
        assert "0 segmented, 4 already there, 0 failed" in err
        code, _, err = command("measure", "--predictions", out, "--images", "in", "--table", "measured.csv")
        assert code == 0, err
        noted, later, measured = (rows_of(d / name) for name in ("t.csv", "later.csv", "measured.csv"))
        assert [row[0] for row in noted] == cases
        assert all(int(row[4]) for row in noted)
        assert noted == later == measured

    def test_a_segmentation_is_no_image(self, d, command):
        written(make.dicom(d / "series"), d / "x.dcm")
        code, _, err = command("segment", "x.dcm", "-o", "y.seg.nrrd")
        assert (code, "is a segmentation; give the image" in err) == (1, True)
        code, _, err = command("segment", "series", "-o", "y.nrrd", "--format", "dcm")
        assert (code, "--format 'dcm' is for a folder of results" in err) == (1, True)
        code, _, err = command("segment", "series", "-o", "y.nrrd", "--anonymize")
        assert code == 2


def described(number, name):
    return highdicom.seg.SegmentDescription(
        number,
        name,
        highdicom.sr.CodedConcept("123037004", "SCT", "Anatomical Structure"),
        highdicom.sr.CodedConcept("72107004", "SCT", "Hippocampus"),
        "MANUAL",
    )


def segmentation(folder, path, frames, kind="BINARY", names=("a", "b"), change=lambda data: None):
    """What somebody else wrote: frames (K, J, I) of numbers, or (K, J, I, segments) of masks."""
    images = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda image: image.ImagePositionPatient[2])
    for image in images:
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"):
            setattr(image, name, "")
        image.StudyDate, image.StudyTime = "20200101", "120000"
    data = highdicom.seg.Segmentation(
        images,
        frames,
        kind,
        [described(number + 1, name) for number, name in enumerate(names)],
        *("1.2.3.4.5", 7, "1.2.3.4.5.6", 1, "somebody", "else", "1", "0"),
    )
    change(data)
    data.save_as(path)
    return path


def test_segments_that_overlap_are_layers(tmp_path):
    masks = np.random.default_rng(2).random((*make.SHAPE, 3)) < 0.3
    masks[..., 2] &= ~masks[..., 0]
    segmentation(make.dicom(tmp_path / "s"), tmp_path / "x.dcm", masks.astype(np.uint8), names="abc")
    label_map = read_label_map(tmp_path / "x.dcm")
    assert [segment.layer for segment in label_map.segments] == [0, 1, 0]
    for number, segment in enumerate(label_map.segments):
        np.testing.assert_array_equal(label_map.layers[segment.layer] == segment.value, masks[..., number])


def test_label_maps_of_dicom_are_read(tmp_path):
    frames = np.random.default_rng(2).integers(0, 3, make.SHAPE).astype(np.uint8)
    segmentation(make.dicom(tmp_path / "s"), tmp_path / "x.dcm", frames, "LABELMAP")
    label_map = read_label_map(tmp_path / "x.dcm")
    assert [segment.name for segment in label_map.segments] == ["a", "b"]
    np.testing.assert_array_equal(label_map.layers, frames[None])


@pytest.mark.parametrize("stated", [True, False])
def test_slices_without_a_frame_are_empty(tmp_path, stated):
    """By the distance that the file states, or, where it does not, the smallest between two frames."""

    def forget(data):
        if not stated:
            del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices

    frames = np.zeros((12, *make.SHAPE[1:]), np.uint8)
    frames[[1, 4, 9] if stated else [1, 2, 4, 9], 2:5, 3:9] = 1
    folder = make.dicom(tmp_path / "s", np.zeros(frames.shape, np.int16))
    label_map = read_label_map(segmentation(folder, tmp_path / "x.dcm", frames, names="a", change=forget))
    np.testing.assert_array_equal(label_map.layers[0], frames[1:10])
    np.testing.assert_allclose(label_map.ijk_to_ras[:3, 3], (-5, 6, 9))


def number_of_frame(number):
    def change(data):
        data.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = number

    return change


def shift(data):
    data.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [5, -6, 3.1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (number_of_frame(5), r"frames of the segments \[5\], which it does not name"),
        (lambda data: data.PerFrameFunctionalGroupsSequence[2].clear(), "has no valid position"),
        (lambda data: delattr(data, "SegmentSequence"), "names no segments"),
        (lambda data: setattr(data.SegmentSequence[1], "SegmentNumber", 1), "'b' the number '1', which is taken or"),
        (lambda data: setattr(data.SegmentSequence[1], "SegmentNumber", 300), "the number '300', which is taken or"),
        (lambda data: setattr(data, "PixelData", data.PixelData[:40]), "the voxels of .* cannot be read"),
        (lambda data: setattr(data, "NumberOfFrames", 3), "describes 12 frames but has a different number"),
        (lambda data: setattr(data, "SegmentationType", "FRACTIONAL"), "segments as 'FRACTIONAL'; give a binary"),
        (shift, "frames 2.00 to 3.90 mm apart, which are on no regular grid"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(tmp_path, change, message):
    frames = np.stack([make.voxels() > 50, make.voxels() <= 50], -1).astype(np.uint8)
    segmentation(make.dicom(tmp_path / "s"), tmp_path / "x.dcm", frames, change=change)
    with pytest.raises(InputError, match=message) as caught:
        read_label_map(tmp_path / "x.dcm")
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    written(make.dicom(tmp_path / "s"), tmp_path / "x.dcm")
    whole = (tmp_path / "x.dcm").read_bytes()
    for share in (0.3, 0.6, 0.9, 0.99):
        (tmp_path / "cut.dcm").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError):
            read_label_map(tmp_path / "cut.dcm")


def classes_of(case, labels=LABELS):
    return read_case(case, labels)[1]


def expected(labels):
    return (labels == 3) + 2 * (labels == 7).astype(np.uint8)


def test_a_converted_image_finds_its_segmentation_whatever_its_axes(tmp_path):
    """As converters leave them: rows and slices reversed, axes in another order; with the segmentation beside it."""
    folder = classic(tmp_path / "series")
    _, labels = written(folder, tmp_path / "unused.dcm")
    reader = oblique()
    for number, image in enumerate((sitk.Flip(reader, (False, True, True)), sitk.PermuteAxes(reader, (2, 0, 1)))):
        data = tmp_path / f"data{number}"
        data.mkdir()
        sitk.WriteImage(image, str(data / "case.nrrd"))
        shutil.copy(tmp_path / "unused.dcm", data / "case.dcm")
        (case,) = find_dataset(data, least=1).cases
        assert (case.name, case.label_map.name) == ("case", "case.dcm")
        back = sitk.GetImageFromArray(classes_of(case))
        back.CopyInformation(image)
        back = sitk.PermuteAxes(back, (1, 2, 0)) if number else sitk.Flip(back, (False, True, True))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), expected(labels))


LAYOUTS = {
    "a folder for each case": ("{0}", "{0}/mask.dcm"),
    "beside the series": ("{0}", "{0}_mask.dcm"),
    "a tree": ("patient{0}/study/1", "patient{0}/study/2/1-1.dcm"),
    "images and labels": ("imagesTr/{0}", "labelsTr/{0}.dcm"),
    "labels of no such name": ("images/x{0}", "masks/1{0}.dcm"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_series_find_their_segmentations_by_uid(tmp_path, layout):
    known = {}
    for number, name in enumerate("abc"):
        images, masks = (tmp_path / part.format(name) for part in LAYOUTS[layout])
        images.parent.mkdir(parents=True, exist_ok=True)
        masks.parent.mkdir(parents=True, exist_ok=True)
        make.dicom(images, make.voxels() + number, series=f"1.2.3.{number + 1}")
        if name == "c":
            continue
        source, labels = written(images, masks, np.roll(masks_of(make.SHAPE), number + 1, 1))
        known[str(images)] = source.array_kji, expected(labels)
    dataset = find_dataset(tmp_path)
    assert len(dataset.cases) == len({case.name for case in dataset.cases}) == 2
    assert any("1 DICOM series without a segmentation, left out" in notice for notice in dataset.notices)
    for case in dataset.cases:
        voxels, classes = known[str(case.image)]
        image, found = read_case(case, LABELS)
        np.testing.assert_array_equal(image.array_kji, voxels)
        np.testing.assert_array_equal(found, classes)
    looks = look_at_cases(dataset, hashed=True)
    assert [look.problem for look in looks] == ["", ""]
    assert [label.name for label in looks[0].own] == ["Left hippocampus", "Größe"]
    assert looks[0].sha256 != looks[1].sha256


def test_two_series_in_one_folder_are_two_cases(tmp_path):
    for number in (1, 2):
        make.dicom(tmp_path / f"s{number}", series=f"1.2.3.{number}", names=f"s{number}" + "{:03d}.dcm")
        written(tmp_path / f"s{number}", tmp_path / f"mask{number}.dcm")
        for path in (tmp_path / f"s{number}").iterdir():
            path.rename(tmp_path / path.name)
        (tmp_path / f"s{number}").rmdir()
    cases = find_dataset(tmp_path).cases
    assert [(case.name, case.series_uid) for case in cases] == [("mask1", "1.2.3.1"), ("mask2", "1.2.3.2")]
    for case in cases:
        np.testing.assert_array_equal(classes_of(case), expected(masks_of(make.SHAPE)))


def test_what_belongs_to_two_is_refused(tmp_path):
    make.dicom(tmp_path / "s")
    written(tmp_path / "s", tmp_path / "x.dcm")
    shutil.copy(tmp_path / "x.dcm", tmp_path / "y.dcm")
    with pytest.raises(InputError, match=r"x.dcm' and .*y.dcm' both belong to one DICOM series; keep one"):
        find_dataset(tmp_path)
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    with pytest.raises(InputError, match="both hold slices of the DICOM series"):
        find_dataset(tmp_path)


def test_evaluate_takes_segmentations_of_dicom_as_references_and_as_results(tmp_path, run_cli):
    for name in ("results", "truth", "slicer"):
        (tmp_path / name).mkdir()
    source, labels = written(make.dicom(tmp_path / "s"), tmp_path / "truth" / "case.dcm")
    wrong = np.roll(labels, 1, 1)
    write_labels(tmp_path / "results" / "case.dcm", wrong, source, LABELS, provenance=MADE_BY)
    write_labels(tmp_path / "slicer" / "case.seg.nrrd", wrong, source, LABELS)
    tables = []
    for name in ("results", "slicer"):
        done = run_cli(
            *("evaluate", "--predictions", tmp_path / name, "--labels", tmp_path / "truth"),
            *("--json", tmp_path / f"{name}.json"),
        )
        assert done.returncode == 0, done.stderr
        tables.append(json.loads((tmp_path / f"{name}.json").read_text())["rows"])
    assert tables[0] == tables[1]
    dice = {row["label"]: row["dice"] for row in tables[0] if row["case"] == "case"}
    for label in LABELS[:2]:
        ours, theirs = wrong == label.value, labels == label.value
        assert dice[label.name] == pytest.approx(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))


def test_evaluate_finds_what_belongs_together_by_uid(tmp_path, run_cli):
    """Results named after their series, references in a tree as archives keep them."""
    (tmp_path / "results").mkdir()
    for name in "ab":
        truth = tmp_path / "truth" / name
        truth.mkdir(parents=True)
        folder = make.dicom(tmp_path / name, series=f"1.2.3.{ord(name)}")
        written(folder, tmp_path / "results" / f"{name}{name}.dcm")
        written(folder, truth / "1-1.dcm")
    done = run_cli("evaluate", "--predictions", tmp_path / "results", "--labels", tmp_path / "truth")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("aa", "bb"))]
    assert all("1.0000" in row for row in rows)
    assert {row[0] for row in rows} == {"aa", "bb"}


def jpeg_2000(path):
    """The same file in lossless JPEG 2000, whose codestream Pillow writes."""
    data = pydicom.dcmread(path)
    frame = io.BytesIO()
    Image.fromarray(data.pixel_array.astype(np.uint16)).save(frame, "JPEG2000", no_jp2=True, irreversible=False)
    data.PixelRepresentation = 0
    data.PixelData = pydicom.encaps.encapsulate([frame.getvalue()])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    data.save_as(path)


@pytest.mark.parametrize(
    "compress",
    [
        lambda path: make.reencode(path, pydicom.uid.RLELossless),
        lambda path: make.reencode(path, pydicom.uid.JPEGLSLossless),  # by pyjpegls, which highdicom needs
        jpeg_2000,
    ],
    ids=["RLE", "JPEG-LS", "JPEG 2000"],
)
def test_a_compressed_series_is_read_and_masked_as_any(tmp_path, compress):
    folder = make.dicom(tmp_path / "series")
    for path in folder.iterdir():
        compress(path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    source, labels = written(folder, tmp_path / "x.dcm")
    np.testing.assert_array_equal(source.array_kji, make.voxels())
    check_decoded(tmp_path / "x.dcm", source, labels, ["pydicom", "us"])
