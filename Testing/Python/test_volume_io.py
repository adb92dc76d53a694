import zlib

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

import image_files as make
from conftest import MRI, write_dicom
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import Label, Terminology
from SAM3DSegmentLib.formats.label_maps import read_label_map, write_labels
from SAM3DSegmentLib.formats.volumes import read_volume, volume_name, write_volume
from SAM3DSegmentLib.training.classes import own_labels

LABELS = (
    Label(1, "Anterior", (230, 159, 0), type=Terminology("SCT", "72107004", "Hippocampus")),
    Label(7, "Posterior", (86, 180, 233)),
)


def oblique_image(shape_ijk=(11, 7, 5)):
    image = sitk.GetImageFromArray(np.arange(np.prod(shape_ijk), dtype=np.int16).reshape(shape_ijk[::-1]))
    image.SetSpacing((0.5, 0.75, 2.5))
    image.SetOrigin((-12.5, 30.25, 7.0))
    transform = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.4)
    image.SetDirection(transform.GetMatrix())
    return image


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".nhdr", ".mhd"])
def test_every_format_gives_the_same_voxels_and_matrix(tmp_path, ending):
    image = oblique_image()
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    volume = read_volume(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(volume.array_kji, sitk.GetArrayFromImage(image))
    for ijk in ((0, 0, 0), (10, 0, 0), (3, 6, 4)):
        lps = np.array(image.TransformIndexToPhysicalPoint(ijk))
        np.testing.assert_allclose((volume.ijk_to_ras @ (*ijk, 1))[:3], lps * (-1, -1, 1), atol=1e-4)


def test_a_dicom_folder_is_one_volume(tmp_path):
    image = oblique_image()
    write_dicom(tmp_path / "series", image)
    volume = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(volume.array_kji, sitk.GetArrayFromImage(image))
    lps = np.array(image.TransformIndexToPhysicalPoint((10, 6, 4)))
    np.testing.assert_allclose((volume.ijk_to_ras @ (10, 6, 4, 1))[:3], lps * (-1, -1, 1), atol=1e-3)


def test_voxels_outlive_the_volume():
    array = read_volume(MRI).array_kji
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(sitk.ReadImage(str(MRI))))


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz", ".nrrd", ".mha"])
def test_a_mask_lies_on_the_sources_grid(tmp_path, ending):
    sitk.WriteImage(oblique_image(), str(tmp_path / "source.nrrd"))
    image = oblique_image()
    source = read_volume(tmp_path / "source.nrrd")
    labels = (source.array_kji % 3 == 0).astype(np.uint8) * 7
    write_labels(tmp_path / f"mask{ending}", labels, source, LABELS)
    back = sitk.ReadImage(str(tmp_path / f"mask{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), labels)
    np.testing.assert_allclose(back.GetSpacing(), image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(back.GetOrigin(), image.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(back.GetDirection(), image.GetDirection(), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"mask{ending}", "source.nrrd"]


def test_a_segmentation_names_and_colours_its_segments(tmp_path):
    source = read_volume(MRI)
    write_labels(tmp_path / "x.seg.nrrd", np.ones(source.array_kji.shape, np.uint8), source, LABELS)
    image = sitk.ReadImage(str(tmp_path / "x.seg.nrrd"))
    assert image.GetMetaData("Segment1_Name") == "Posterior"
    assert image.GetMetaData("Segment1_LabelValue") == "7"
    assert [float(c) for c in image.GetMetaData("Segment0_Color").split()] == pytest.approx(
        [230 / 255, 159 / 255, 0], abs=1e-5
    )
    assert "SCT^72107004^Hippocampus" in image.GetMetaData("Segment0_Tags")


def test_names_lose_their_whole_ending():
    names = {"a/b.c.nii.gz": "b.c", "x.seg.nrrd": "x", "x.NRRD": "x", "folder": "folder"}
    from pathlib import Path

    assert {path: volume_name(Path(path)) for path in names} == names


def test_bad_inputs_say_what_to_do_in_one_line(tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"nonsense")
    (tmp_path / "photo.jpg").write_bytes(b"nonsense")
    (tmp_path / "empty").mkdir()
    sitk.WriteImage(sitk.Image((4, 4, 4, 3), sitk.sitkFloat32), str(tmp_path / "four.nrrd"))
    sitk.WriteImage(sitk.Image((4, 4, 4), sitk.sitkVectorUInt8, 3), str(tmp_path / "colour.nrrd"))
    cases = {
        "nowhere.nii": "does not exist",
        "broken.nii.gz": "not a NIfTI file, or it is damaged",
        "photo.jpg": "not in a known format",
        "empty": "no DICOM series",
        "four.nrrd": "4 dimensions",
        "colour.nrrd": "3 values per voxel",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message) as error:
            read_volume(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".nhdr", ".mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_file_that_is_cut_short_is_refused(tmp_path, ending, compress):
    sitk.WriteImage(sitk.ReadImage(str(MRI)), str(tmp_path / f"a{ending}"), useCompression=compress)
    largest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(data[: int(0.97 * len(data))])
    with pytest.raises(InputError, match="cut short|damaged") as error:
        read_volume(tmp_path / f"a{ending}")
    assert "No such file" not in str(error.value)
    assert "\n" not in str(error.value)


def change_dicom(path, target=None, **tags):
    """Rewrite one DICOM file, in place or as another; a tag of None is removed."""
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(target or path)


def second_series(files):
    for path in files:
        change_dicom(path, path.with_name("b" + path.name), SeriesInstanceUID="1.2.826.0.1.3680043.2.1125.9")


def missing_slice(files):
    files[2].unlink()


def cut_short(files):
    files[2].write_bytes(files[2].read_bytes()[:300])


def two_acquisitions(files):
    for number, path in enumerate(files):
        uid = f"1.2.826.0.1.3680043.2.1125.5.{number}"
        change_dicom(path, path.with_name("b" + path.name), SOPInstanceUID=uid, InstanceNumber=100 + number)


def two_acquisitions_of_two_slices(files):
    """They end up in the order 0, 1, 0, 1: all neighbours are equally far apart."""
    for path in files[2:]:
        path.unlink()
    two_acquisitions(files[1::-1])


def localiser(files):
    change_dicom(files[0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])


def tilted_gantry(files):
    for number, path in enumerate(files):
        change_dicom(
            path, ImagePositionPatient=[0, -0.3 * number, 1.0 * number], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
        )


def no_position(files):
    for path in files:
        change_dicom(path, ImagePositionPatient=None)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (second_series, "holds 2 DICOM series"),
        (missing_slice, "some are missing, or"),
        (cut_short, "slice003.dcm' is cut short"),
        (two_acquisitions, "several acquisitions are mixed"),
        (two_acquisitions_of_two_slices, "several acquisitions are mixed"),
        (localiser, "several orientations"),
        (tilted_gantry, "tilted gantry"),
        (no_position, "slice001.dcm' has no valid position .DICOM tag 0020,0032"),
    ],
)
def test_a_dicom_folder_that_is_no_regular_stack_is_refused(tmp_path, capfd, harm, message):
    """Stacked all the same, the mask would lie in the wrong place."""
    write_dicom(tmp_path / "series", oblique_image())
    harm(sorted((tmp_path / "series").iterdir()))
    with pytest.raises(InputError, match=message) as error:
        read_volume(tmp_path / "series")
    assert "\n" not in str(error.value)
    assert "WARNING" not in capfd.readouterr().err  # ITK's own warnings, which name its source files


@pytest.mark.parametrize("name", ["a.nii.gz.nii.gz", "a.nii.gz.nii", "a.hdr.nii.gz", "a.img.nii", "a.nii.gz.nrrd"])
def test_a_name_with_two_endings_is_written_as_it_is(tmp_path, name):
    """As a script makes it of a file's name; ITK takes one of them off."""
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    write_volume(tmp_path / name, voxels, np.eye(4))
    np.testing.assert_array_equal(read_volume(tmp_path / name).array_kji, voxels)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_outputs_that_cannot_be_written_are_refused(tmp_path):
    source = read_volume(MRI)
    labels = np.zeros(source.array_kji.shape, np.uint8)
    with pytest.raises(InputError, match="unknown ending"):
        write_labels(tmp_path / "mask.png", labels, source, LABELS)
    with pytest.raises(InputError, match="make it first"):
        write_labels(tmp_path / "nowhere" / "mask.nrrd", labels, source, LABELS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [-1, 256, 1000])
def test_a_label_that_does_not_fit_into_a_byte_is_refused(tmp_path, value):
    array = np.zeros((3, 4, 5), np.int16)
    array[1, 1, 1] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match=rf"values from {min(0, value)} to {max(0, value)}, outside 0\.\.255"):
        read_label_map(tmp_path / "a.nrrd")


def test_all_labels_of_a_byte_are_read(tmp_path):
    array = np.arange(256, dtype=np.int32).reshape(4, 8, 8)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.nrrd").layers[0], array)


def test_a_segment_without_a_voxel_is_not_present(tmp_path):
    array = (make.voxels() > 300).astype(np.uint8)
    make.named_segments(tmp_path / "a.seg.nrrd", array, {1: "Drawn", 2: "Empty"})
    label_map = read_label_map(tmp_path / "a.seg.nrrd")
    assert [segment.name for segment in label_map.segments] == ["Drawn", "Empty"]
    assert [segment.name for segment in label_map.present()] == ["Drawn"]


def changed_segments(path, *changes):
    """A segmentation of two segments with changes (old, new) in its header."""
    make.named_segments(path, (make.voxels() > 300).astype(np.uint8), {1: "Left", 2: "Right"})
    content = path.read_bytes()
    for old, new in changes:
        assert old in content
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"Binary labelmap", b"Fractional labelmap"), "stores its segments as 'Fractional labelmap'; make 'Binary"),
        (
            (b"Segmentation_MasterRepresentation:=Binary", b"Segmentation_SourceRepresentation:=Fractional"),
            "'Fractional labelmap'; make 'Binary labelmap' the source representation",
        ),
        ((b"LabelValue:=1", b"LabelValue:=0"), "gives the segment 'Left' the value 0, which is the background"),
        ((b"Segment0_Layer", b"Segment0_Color:=inf 0 0\nSegment0_Layer"), "invalid segment fields"),
        ((b"Segment0_Layer", b"Segment0_Color:=nan 0 0\nSegment0_Layer"), "invalid segment fields"),
        ((b"Segment0_Layer", b"Segment0_Color:=1e300 0 0\nSegment0_Layer"), "colour .* is not three numbers in 0..255"),
        ((b"Segment0_Layer", b"Segment0_Color:=1 0\nSegment0_Layer"), "invalid segment fields"),
        ((b"LabelValue:=1", b"LabelValue:=" + b"1" * 5000), "invalid segment fields"),
        ((b"Segment0_ID", b"Segment" + b"1" * 5000 + b"_ID"), "invalid segment fields|layer that it does not have"),
    ],
)
def test_segments_that_cannot_be_read_are_refused_by_name(tmp_path, change, message):
    path = changed_segments(tmp_path / "a.seg.nrrd", change)
    with pytest.raises(InputError, match=message) as error:
        own_labels(read_label_map(path))
    assert "\n" not in str(error.value)


def test_a_segment_called_background_may_have_the_value_0(tmp_path):
    path = changed_segments(tmp_path / "a.seg.nrrd", (b"Name:=Right", b"Name:=Background"), (b"Value:=2", b"Value:=0"))
    assert [label.name for label in own_labels(read_label_map(path))] == ["Left"]


def test_separators_and_line_breaks_in_names_and_codes_shift_nothing(tmp_path):
    source = read_volume(MRI)
    codes = Terminology("99~x", "1^2|3", "Left ~ right | both")
    label = Label(1, "Left\nlobe \\n ~^|", (1, 2, 3), category=codes, type=codes, modifier=codes)
    write_labels(tmp_path / "a.seg.nrrd", np.ones(source.array_kji.shape, np.uint8), source, (label,))
    (segment,) = read_label_map(tmp_path / "a.seg.nrrd").segments
    assert segment.name == "Left lobe \\n ~^|"
    assert (segment.color, segment.value) == ((1, 2, 3), 1)
    assert segment.category == segment.type == segment.modifier
    assert segment.type == Terminology("99-x", "1 2/3", "Left - right / both")


@pytest.mark.parametrize("scale", [2 / 32767, 1.0000001, 1 / 3])
def test_whole_numbers_up_to_a_scale_are_rounded(tmp_path, scale):
    labels = (make.voxels() > 300).astype(np.uint8) + (make.voxels() > 350)
    stored = np.rint(labels / scale)
    make.nifti(tmp_path / "a.nii", (112, "<2f", scale, 0), array=stored.astype(np.int16))
    make.nrrd(tmp_path / "a.nrrd", (stored * scale).astype(np.float32))
    for name in ("a.nii", "a.nrrd"):
        np.testing.assert_array_equal(read_label_map(tmp_path / name).layers[0], labels)


@pytest.mark.parametrize("value", [0.998, 1.002, -0.01, np.nan, np.inf])
def test_what_is_no_whole_number_is_refused_and_quoted(tmp_path, value):
    array = np.ones((3, 4, 5), np.float32)
    array[1, 1, 1] = value
    with pytest.raises(InputError, match=f"has values such as {value:g}; give a label map of whole numbers"):
        read_label_map(make.nrrd(tmp_path / "a.nrrd", array))


class CountedStream:
    """A zlib stream that counts the bytes that all such streams have given."""

    given = 0
    make = zlib.decompressobj

    def __init__(self, *arguments):
        self._stream = CountedStream.make(*arguments)

    def decompress(self, *arguments):
        data = self._stream.decompress(*arguments)
        CountedStream.given += len(data)
        return data

    def __getattr__(self, name):
        return getattr(self._stream, name)


def test_a_compressed_file_is_decompressed_once(tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 200, (40, 128, 128)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nii.gz"))
    monkeypatch.setattr(zlib, "decompressobj", CountedStream)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array_kji, array)
    assert array.nbytes <= CountedStream.given < 1.2 * array.nbytes
