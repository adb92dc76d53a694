"""Slicer's own segmentation and storage nodes keep what tells which slices of a result were repainted."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from test_training_cases import oriented, scene  # noqa: F401 - a fixture
from vtk import reference
from vtk.util.numpy_support import vtk_to_numpy

from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import Label
from SAM3DSegmentLib.formats.delivered import describe_slices
from SAM3DSegmentLib.formats.label_maps import read_label_map, write_delivered
from SAM3DSegmentLib.formats.segments import DELIVERED_TAG
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.training.painted_volume import read_painted

SHAPE = (20, 24, 28)
LABELS = (Label(3, "Front", (255, 0, 0)), Label(7, "Back", (0, 0, 255)))


def result():
    """What a model has found: two structures that touch."""
    found = np.zeros(SHAPE, np.uint8)
    found[4:16, 5:12, 6:22] = 3
    found[4:16, 12:19, 6:22] = 7
    return found


@pytest.fixture
def files(tmp_path):
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 100, SHAPE, dtype=np.int16))
    image.SetSpacing((0.8, 0.9, 2.0))
    image.SetOrigin((-12.5, 30.25, 7.0))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    write_delivered(tmp_path / "a.seg.nrrd", result(), read_volume(tmp_path / "a.nrrd"), LABELS)
    return tmp_path / "a.nrrd", tmp_path / "a.seg.nrrd"


def load(scene, path):  # noqa: F811
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


def save(scene, node, path, crop):  # noqa: F811
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetCropToMinimumExtent(crop)
    storage.SetFileName(str(path))
    assert storage.WriteData(node)


def voxels(segment):
    """Of the segment's layer, to be changed in place, with the index of the first voxel along K, J and I."""
    image = segment.GetRepresentation("Binary labelmap")
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    return array, image.GetExtent()[4::-2]


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_repainted_slices_are_known_after_slicer_has_read_and_saved_them(scene, files, crop, axis):  # noqa: F811
    image, segmentation = files
    node = load(scene, segmentation)
    save(scene, node, segmentation, crop)
    with pytest.raises(InputError, match="no slice was changed"):
        read_painted(image, segmentation)
    node = load(scene, segmentation)
    front = node.GetSegmentation().GetSegment(node.GetSegmentation().GetSegmentIdBySegmentName("Front"))
    front.SetName("Renamed")
    array, first = voxels(front)
    for number in (8, 10):
        place = tuple(slice(6, 12) if one != axis else number for one in range(3))
        inside = tuple(
            slice(at.start - start, at.stop - start) if isinstance(at, slice) else at - start
            for at, start in zip(place, first)
        )
        array[inside] = np.where(array[inside] == front.GetLabelValue(), 0, array[inside])
    save(scene, node, segmentation, crop)
    found = read_painted(image, segmentation)
    assert found.painted.axis == axis
    assert found.described.startswith(f"2 of {SHAPE[axis]} ")
    assert {8, 10} <= set(found.painted.numbers)
    assert not {7, 9, 11, 13} & set(found.painted.numbers)
    assert "Renamed" in [label.name for label in found.labels]


def test_the_tag_of_a_large_volume_is_kept(scene, tmp_path):  # noqa: F811
    text = describe_slices(np.ones((300, 512, 512), bool))
    assert len(text) > 5000
    image = sitk.GetImageFromArray(np.zeros(SHAPE, np.int16))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segment = slicer.vtkSegment()
    segment.SetName("Front")
    segment.SetTag("Before", "1")
    segment.SetTag(DELIVERED_TAG, text)
    segment.SetTag("Behind", "2")
    segment.AddRepresentation("Binary labelmap", oriented(image, (result() == 3).astype(np.uint8)))
    node.GetSegmentation().AddSegment(segment, "front")
    for _ in range(2):
        save(scene, node, tmp_path / "a.seg.nrrd", True)
        node = load(scene, tmp_path / "a.seg.nrrd")
    tag = reference("")
    for name, value in (("Before", "1"), (DELIVERED_TAG, text), ("Behind", "2")):
        assert node.GetSegmentation().GetNthSegment(0).GetTag(name, tag)
        assert str(tag) == value
    assert read_label_map(tmp_path / "a.seg.nrrd").segments[0].delivered == text
