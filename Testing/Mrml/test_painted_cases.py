"""Slicer's own storage node (slicer-core) keeps what the segments of a case say of how they were painted."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from test_training_cases import SHAPE, oriented, scene  # noqa: F401 - a fixture

from SAM3DSegmentLib.card import UNKNOWN
from SAM3DSegmentLib.formats.images import read_header
from SAM3DSegmentLib.formats.segments import EMPTY, IGNORE, ONLY_PAINTED_TAG
from SAM3DSegmentLib.training.classes import agree_on_labels
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.look import look_at_cases
from SAM3DSegmentLib.training.reading import read_case

PAINTED = (1, 3, 4)


def masks():
    """A structure on two slices, the mark of a slice without it, and voxels that nobody knows."""
    found = {name: np.zeros(SHAPE, np.uint8) for name in ("Organ", EMPTY, IGNORE)}
    found["Organ"][[1, 3], 4:12, 5:15] = 1
    found[EMPTY][4, 2:5, 2:5] = 1
    found[IGNORE][3, 14:16, 5:15] = 1
    return found


@pytest.fixture(params=["whole", "cropped"])
def case(scene, tmp_path, request):  # noqa: F811
    """A folder with a case that Slicer has written, read and written again."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 100, SHAPE, dtype=np.int16))
    image.SetSpacing((0.8, 0.9, 2.0))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for name, mask in masks().items():
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetTag(ONLY_PAINTED_TAG, "1")
        segment.SetTag("SAM3DSegment.CompletedFrom", "3")
        segment.AddRepresentation("Binary labelmap", oriented(image, mask))
        node.GetSegmentation().AddSegment(segment, name)
    for _ in range(2):
        storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.SetCropToMinimumExtent(request.param == "cropped")
        storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
        assert storage.WriteData(node)
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        assert storage.ReadData(node)
    return tmp_path


def test_a_painted_case_is_known_on_its_painted_slices_only(case):
    dataset = find_dataset(case, least=1)
    looks = look_at_cases(dataset)
    labels = agree_on_labels(dataset, looks)[0]
    assert [label.name for label in labels] == ["Organ"]
    assert (looks[0].painted.axis, looks[0].painted.numbers, looks[0].painted.total) == (0, PAINTED, SHAPE[0])
    classes = read_case(dataset.cases[0], labels)[1]
    expected = np.full(SHAPE, UNKNOWN, np.uint8)
    expected[list(PAINTED)] = 0
    expected[masks()["Organ"] > 0] = 1
    expected[masks()[IGNORE] > 0] = UNKNOWN
    np.testing.assert_array_equal(classes, expected)


def test_the_notes_of_all_segments_are_kept(case):
    fields = read_header(case / "a.seg.nrrd").fields
    tags = [fields[f"Segment{number}_Tags"].split("|") for number in range(3)]
    assert all({f"{ONLY_PAINTED_TAG}:1", "SAM3DSegment.CompletedFrom:3"} <= set(notes) for notes in tags)
