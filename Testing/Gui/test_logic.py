"""The logic on the real scene: what goes into a segmentation node, and that nothing else is touched."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from panel_fixtures import LABELS, add_volume, temporary_folders
from vtk.util.numpy_support import vtk_to_numpy

import host
from SAM3DSegmentLib.base.errors import Cancelled, GeometryError, InputError, WeightsError
from SAM3DSegmentLib.bridge.logic import segment, startSegment
from SAM3DSegmentLib.bridge.preferences import setSamCheckpoint
from SAM3DSegmentLib.bridge.scene import figures
from SAM3DSegmentLib.bridge.scene.figures import SegmentMeter, readFigures
from SAM3DSegmentLib.bridge.scene.segmentations import readProvenance, writeSegments
from SAM3DSegmentLib.model_file import load_model, save_model

SAMPLE = Path(__file__).resolve().parents[2] / "SAM3DSegment" / "Resources" / "SampleData" / "hippocampus_015.nii.gz"
OBLIQUE = np.array([[0.96, -0.28, 0, 4], [0.28, 0.96, 0, -9], [0, 0, 1, 2], [0, 0, 0, 1]])


def label_map(segmentation, volume):
    """The segments as one label map (K, J, I) on the volume's grid."""
    labels = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    for label in LABELS:
        segment_id = segmentation.GetSegmentation().GetSegmentIdBySegmentName(label.name)
        labels[slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume) > 0] = label.value
    return labels


def stored_otherwise(array, matrix, order, flips):
    """The same voxels in the same places of the world, with axes k, j, i permuted and reversed."""
    moved, moved_matrix = array, matrix.copy()
    for axis in range(3):
        if flips[axis]:
            column = 2 - axis
            moved_matrix[:3, 3] += moved_matrix[:3, column] * (array.shape[axis] - 1)
            moved_matrix[:3, column] *= -1
            moved = np.flip(moved, axis)
    columns = [2 - order[2 - column] for column in range(3)]
    moved_matrix[:3, :3] = moved_matrix[:3, columns]
    return moved.transpose(order), moved_matrix


def as_before(labels, order, flips):
    restored = labels.transpose(np.argsort(order))
    return np.flip(restored, [axis for axis in range(3) if flips[axis]])


def linear_transform(matrix):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return transform


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("base", ["straight", "oblique", "anisotropic"])
def test_all_orders_and_directions_of_axes_give_the_same_voxels_in_the_world(array, tiny_model, order, base):
    """Eight flips of six orders are all 48, half of them left-handed."""
    matrix = {
        "straight": np.eye(4),
        "oblique": OBLIQUE,
        "anisotropic": np.diag([1.5, 1, 4, 1]),
    }[base].astype(float)
    volume = add_volume(array, matrix)
    expected = label_map(segment(volume, model=tiny_model, device="cpu"), volume)
    assert len(np.unique(expected)) > 1
    for flips in itertools.product((False, True), repeat=3):
        slicer.mrmlScene.Clear()
        moved, moved_matrix = stored_otherwise(array, matrix, order, flips)
        volume = add_volume(moved, moved_matrix)
        found = label_map(segment(volume, model=tiny_model, device="cpu"), volume)
        np.testing.assert_array_equal(as_before(found, order, flips), expected)


def test_a_parent_transform_moves_the_result_along(array, tiny_model):
    reference = add_volume(array, OBLIQUE)
    expected = label_map(segment(reference, model=tiny_model, device="cpu"), reference)
    volume = add_volume(array, np.eye(4))
    volume.SetAndObserveTransformNodeID(linear_transform(OBLIQUE).GetID())
    segmentation = segment(volume, model=tiny_model, device="cpu")
    assert segmentation.GetTransformNodeID() == volume.GetTransformNodeID()
    np.testing.assert_array_equal(label_map(segmentation, volume), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_every_scalar_type_is_taken(array, tiny_model, dtype):
    volume = add_volume((array - array.min()).round().astype(dtype), np.eye(4))
    assert segment(volume, model=tiny_model, device="cpu").GetSegmentation().GetNumberOfSegments() == 2


def test_one_slice_is_enough(array, tiny_model):
    volume = add_volume(array[:1], np.eye(4))
    assert label_map(segment(volume, model=tiny_model, device="cpu"), volume).shape == (1, 9, 11)


def test_the_node_is_complete(array, tiny_model):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    volume = add_volume(array, OBLIQUE)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    node = segment(volume, model=tiny_model, device="cpu")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume
    for label, segment_id in zip(LABELS, node.GetSegmentation().GetSegmentIDs()):
        piece = node.GetSegmentation().GetSegment(segment_id)
        assert piece.GetName() == label.name
        np.testing.assert_allclose(np.array(piece.GetColor()) * 255, label.color)
        tag = vtk.reference("")
        assert piece.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), tag)
        assert str(tag).startswith("Segmentation category and type")
    provenance = readProvenance(node)
    assert provenance["Model"] == "tiny"
    assert len(provenance["ModelSha256"]) == 64
    assert provenance["Device"] == "cpu"
    assert provenance["Quality"] == "best"
    assert set(provenance) >= {"Versions", "Seconds", "Date", "Volume", "Precision"}


def test_other_segments_and_their_place_are_kept(array, tiny_model):
    volume = add_volume(array, np.eye(4))
    existing = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    existing.CreateDefaultDisplayNodes()
    existing.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    existing.SetAndObserveTransformNodeID(linear_transform(OBLIQUE).GetID())
    mine = existing.GetSegmentation().AddEmptySegment("", "By hand")
    drawn = np.zeros(array.shape, np.uint8)
    drawn[2:4, 3:6, 4:8] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, existing, mine, volume)
    drawn_before = slicer.util.arrayFromSegmentBinaryLabelmap(existing, mine).copy()
    transform_id = existing.GetTransformNodeID()
    expected = label_map(segment(volume, model=tiny_model, device="cpu"), volume)

    # Under the same transform the volume's grid is the segmentation's, so that voxels can be compared.
    volume.SetAndObserveTransformNodeID(transform_id)
    under = label_map(segment(volume, model=tiny_model, device="cpu"), volume)
    assert segment(volume, existing, model=tiny_model, device="cpu") is existing
    assert existing.GetTransformNodeID() == transform_id
    np.testing.assert_array_equal(label_map(existing, volume), under)
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(existing, mine), drawn_before)

    # Without the volume's transform, the voxels have to be found at the volume's own place in the world.
    volume.SetAndObserveTransformNodeID(None)
    segment(volume, existing, model=tiny_model, device="cpu")
    assert existing.GetTransformNodeID() == transform_id
    volumes_ml = {row.name: row.volumeMl for row in readFigures(existing, SegmentMeter())}
    assert volumes_ml["By hand"] == pytest.approx(np.count_nonzero(drawn) / 1000)
    for value, label in enumerate(LABELS, start=1):
        voxels = np.argwhere(expected == value)[:, ::-1]
        if len(voxels):
            assert volumes_ml[label.name] == pytest.approx(len(voxels) / 1000, rel=0.25)  # on a turned grid
            assert np.linalg.norm(world_centre(existing, label.name) - voxels.mean(0)) < 1


def world_centre(segmentation, name):
    """Mean of the voxels of a segment in the world, from its own image and the parent transform."""
    segment_id = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    image, to_local, to_world = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    segmentation.GetBinaryLabelmapRepresentation(segment_id, image)
    image.GetImageToWorldMatrix(to_local)
    segmentation.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    voxels = np.argwhere(values)[:, ::-1]
    centre = voxels.mean(0) + np.array(image.GetExtent())[::2]
    matrix = slicer.util.arrayFromVTKMatrix(to_world) @ slicer.util.arrayFromVTKMatrix(to_local)
    return (matrix @ [*centre, 1])[:3]


def test_only_the_region_is_segmented(array, tiny_model):
    volume = add_volume(array, OBLIQUE)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetSize(4.8, 4.8, 2.8)
    centre = OBLIQUE @ [5, 4, 3, 1]
    roi.SetCenter(*centre[:3])
    node = segment(volume, model=tiny_model, device="cpu", roiNode=roi)
    inside, region = label_map(node, volume), readProvenance(node)["Region"]
    assert inside.shape == array.shape
    assert inside.any()
    assert not inside[0].any()
    assert not inside[:, 0].any()
    node = segment(volume, model=tiny_model, device="cpu", region=region)
    np.testing.assert_array_equal(label_map(node, volume), inside)
    assert readProvenance(node)["Region"] == region
    roi.SetCenter(500, 500, 500)
    with pytest.raises(GeometryError, match="outside of the volume"):
        segment(volume, model=tiny_model, device="cpu", roiNode=roi)


def test_a_label_that_is_not_found_is_an_empty_segment(array):
    volume = add_volume(array, OBLIQUE)
    labels = np.zeros(array.shape, np.uint8)
    labels[2, 3, 4] = 2
    node = writeSegments(labels, LABELS, volume, None, {}, {})
    np.testing.assert_array_equal(label_map(node, volume), labels)
    assert [row.volumeMl for row in readFigures(node, SegmentMeter())] == pytest.approx([0, 0.001])


def test_segmenting_again_replaces_the_same_segments(array, tiny_model):
    volume = add_volume(array, np.eye(4))
    node = segment(volume, model=tiny_model, device="cpu")
    again = segment(volume, node, model=tiny_model, device="cpu")
    assert again is node
    assert node.GetSegmentation().GetNumberOfSegments() == 2


def test_an_error_or_a_cancel_changes_nothing(array, tiny_model):
    volume = add_volume(array, np.eye(4))
    existing = segment(volume, model=tiny_model, device="cpu")
    before = existing.GetMTime(), slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(Cancelled):
        segment(volume, existing, model=tiny_model, device="cpu", shouldCancel=lambda: True)
    with pytest.raises(InputError, match="no-such-model"):
        segment(volume, existing, model="no-such-model")
    with pytest.raises(InputError, match="no volume"):
        segment(None, existing)
    assert (existing.GetMTime(), slicer.mrmlScene.GetNumberOfNodes()) == before


def test_a_volume_under_a_curved_transform_is_refused(array):
    volume = add_volume(array, np.eye(4))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(InputError, match="not linear"):
        segment(volume)


@pytest.mark.slow
@pytest.mark.parametrize("with_region", [False, True])
def test_both_ways_give_the_same_voxels(with_region):
    """The real MRI and model: once in this process, once in a child."""
    volume, roi = slicer.util.loadVolume(str(SAMPLE)), None
    if with_region:
        roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        bounds = np.zeros(6)
        volume.GetRASBounds(bounds)
        roi.SetCenter(*bounds.reshape(3, 2).mean(1))
        roi.SetSize(*(np.ptp(bounds.reshape(3, 2), axis=1) * 0.7))
    here = segment(volume, device="cpu", roiNode=roi)
    ended = []
    startSegment(volume, device="cpu", roiNode=roi, onFinished=ended.append, onFailed=ended.append)
    assert host.pump(lambda: ended, 180)
    [there] = ended
    for segment_id, other_id in zip(here.GetSegmentation().GetSegmentIDs(), there.GetSegmentation().GetSegmentIDs()):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(here, segment_id, volume)
        np.testing.assert_array_equal(mask, slicer.util.arrayFromSegmentBinaryLabelmap(there, other_id, volume))
        assert mask.any()


def in_a_child(volume, model, **options):
    """What startSegment gives: the segmentation, or the error message."""
    ended = []
    startSegment(volume, model=model, device="cpu", onFinished=ended.append, onFailed=ended.append, **options)
    assert host.pump(lambda: ended, 180)
    return ended[0]


def test_both_ways_give_the_same_voxels_of_another_quality(array, tiny_model):
    volume = add_volume(array, np.eye(4))
    best = segment(volume, model=tiny_model, device="cpu")
    here = segment(volume, model=tiny_model, device="cpu", quality="fast")
    there = in_a_child(volume, tiny_model, quality="fast")
    np.testing.assert_array_equal(label_map(here, volume), label_map(there, volume))
    assert (label_map(here, volume) != label_map(best, volume)).any()
    assert [readProvenance(node)["Quality"] for node in (best, here, there)] == ["best", "fast", "fast"]


def test_what_is_chosen_automatically_is_told_before_it_is_computed(array, tiny_model):
    told = []
    node = in_a_child(
        add_volume(array, np.eye(4)),
        tiny_model,
        quality="auto",
        onChoice=lambda quality, seconds: told.append((quality, seconds)),
        onProgress=lambda *progress: told.append(progress[0]),
    )
    (quality, seconds), *stages = told
    assert quality == readProvenance(node)["Quality"] == "best"  # of a few slices, which take no minute
    assert 0 < seconds < 60
    assert stages
    assert not isinstance(stages[0], tuple)


@pytest.mark.parametrize("start", [segment, startSegment])
def test_an_unknown_quality_is_refused_before_anything_is_computed(array, tiny_model, start):
    with pytest.raises(InputError, match="quality 'superb' is unknown; use best, balanced, fast or auto"):
        start(add_volume(array, np.eye(4)), model=tiny_model, quality="superb")
    assert not temporary_folders()


@pytest.mark.parametrize("start", [segment, startSegment])
def test_an_unknown_keyword_is_refused_with_the_known_ones(array, start):
    with pytest.raises(TypeError, match="keyword 'modell' is unknown; use model, quality, device, region, roiNode"):
        start(add_volume(array, np.eye(4)), modell="tiny", quality="fast")
    assert not temporary_folders()


def test_a_volume_removed_meanwhile_is_an_error(array, tiny_model):
    volume, ended = add_volume(array, np.eye(4)), []
    startSegment(volume, model=tiny_model, device="cpu", onFinished=ended.append, onFailed=ended.append)
    slicer.mrmlScene.RemoveNode(volume)
    assert host.pump(lambda: ended, 180)
    assert "removed from the scene" in ended[0]
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_segments_are_counted_again_only_where_they_have_changed(array, monkeypatch):
    volume = add_volume(array, np.eye(4))
    labels = np.ones(array.shape, np.uint8)
    node = writeSegments(labels, LABELS, volume, None, {}, {})
    counted, count = [], figures._segmentVolumeMl

    def count_and_note(segmentation, segment_id):
        counted.append(segment_id)
        return count(segmentation, segment_id)

    monkeypatch.setattr(figures, "_segmentVolumeMl", count_and_note)
    meter, first = SegmentMeter(), node.GetSegmentation().GetNthSegmentID(0)
    before = meter.volumesMl(node)
    assert len(counted) == 2
    assert meter.volumesMl(node) == before
    assert len(counted) == 2
    drawn = np.zeros(array.shape, np.uint8)
    drawn[1, 2, 3:5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, node, first, volume)
    assert meter.volumesMl(node)[first] == pytest.approx(0.002)
    assert first in counted[2:]


@pytest.mark.parametrize("start", [segment, startSegment])
def test_scripts_use_the_checkpoint_that_was_chosen_in_the_panel(array, tiny_model, tmp_path, start):
    """With a model that needs SAM's weights, and a chosen file that is gone: the error names it."""
    model = load_model(tiny_model)
    encoder = dataclasses.replace(model.card.encoder, name="sam_vit_b", vit=None)
    card = dataclasses.replace(model.card, encoder=encoder)
    save_model(dataclasses.replace(model, card=card, encoder_tensors={}), tmp_path / "sam.sam3d")
    setSamCheckpoint(str(tmp_path / "chosen.pth"))
    volume, ended = add_volume(array, np.eye(4)), []
    if start is segment:
        with pytest.raises(WeightsError, match="chosen.pth"):
            segment(volume, model=str(tmp_path / "sam.sam3d"), device="cpu")
        return
    startSegment(volume, model=str(tmp_path / "sam.sam3d"), device="cpu", onFailed=ended.append)
    assert host.pump(lambda: ended, 180)
    assert "chosen.pth" in ended[0]
