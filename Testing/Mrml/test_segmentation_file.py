"""Our `.seg.nrrd` read by Slicer's own storage node (slicer-core), as Slicer reads it when a user opens the file."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from SAM3DSegmentLib.card import Label, Terminology
from SAM3DSegmentLib.formats.label_maps import write_labels
from SAM3DSegmentLib.formats.volumes import read_volume

LABELS = (
    Label(1, "Anterior", (230, 159, 0), type=Terminology("SCT", "5366008", "Hippocampus")),
    Label(7, "Posterior", (86, 180, 233), modifier=Terminology("SCT", "255551008", "Posterior")),
)


@pytest.fixture(scope="module")
def scene():
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)  # registers how segments are converted
    scene.application, scene.logic = application, logic  # kept alive with the scene
    return scene


def oblique_source(folder):
    image = sitk.GetImageFromArray(np.arange(5 * 7 * 11, dtype=np.int16).reshape(5, 7, 11))
    image.SetSpacing((0.5, 0.75, 2.5))
    image.SetOrigin((-12.5, 30.25, 7.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.4).GetMatrix())
    sitk.WriteImage(image, str(folder / "source.nrrd"))
    return read_volume(folder / "source.nrrd")


def segment_array(node, segment_id):
    """A segment's mask (K, J, I) and its ijk_to_ras; Slicer numbers voxels from the extent's corner."""
    image = slicer.vtkOrientedImageData()
    assert node.GetBinaryLabelmapRepresentation(segment_id, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    ijk_to_ras = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    low_i, _, low_j, _, low_k, _ = image.GetExtent()
    corner = np.eye(4)
    corner[:3, 3] = low_i, low_j, low_k
    mask = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]) > 0
    return mask, ijk_to_ras @ corner


def world_positions(mask, ijk_to_ras):
    return {tuple((ijk_to_ras @ (i, j, k, 1))[:3].round(3)) for k, j, i in np.argwhere(mask)}


def test_slicer_reads_names_colours_codes_voxels_and_geometry(scene, tmp_path):
    source = oblique_source(tmp_path)
    labels = np.zeros(source.array_kji.shape, np.uint8)
    labels[1:3, 2:6, 3:9] = 1
    labels[3:, 1:4, 5:] = 7
    write_labels(tmp_path / "x.seg.nrrd", labels, source, LABELS)

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "x.seg.nrrd"))
    assert storage.ReadData(node) == 1
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(LABELS)
    for label in LABELS:
        segment_id = segmentation.GetSegmentIdBySegmentName(label.name)
        segment = segmentation.GetSegment(segment_id)
        np.testing.assert_allclose(np.multiply(segment.GetColor(), 255), label.color, atol=0.5)
        assert segment.GetLabelValue() == label.value
        entry = vtk.reference("")
        assert segment.GetTag("TerminologyEntry", entry)
        assert f"{label.type.scheme}^{label.type.code}^{label.type.meaning}" in str(entry)

        found = world_positions(*segment_array(node, segment_id))
        assert found == world_positions(labels == label.value, source.ijk_to_ras)


def test_slicer_reads_codes_with_its_own_separators_in_them_at_their_places(scene, tmp_path):
    source = oblique_source(tmp_path)
    label = Label(1, "Left ~ right | both", (1, 2, 3), type=Terminology("SCT", "1", "Left ~ right | both^"))
    write_labels(tmp_path / "x.seg.nrrd", np.ones(source.array_kji.shape, np.uint8), source, (label,))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "x.seg.nrrd"))
    assert storage.ReadData(node) == 1
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == label.name
    entry = vtk.reference("")
    assert segment.GetTag("TerminologyEntry", entry)
    parts = str(entry).split("~")
    assert len(parts) == 7
    assert parts[2] == "SCT^1^Left - right / both "
