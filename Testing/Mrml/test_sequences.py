"""Slicer's own sequence nodes read the frames that we write, and write those that we read."""

import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from SAM3DSegmentLib.formats.frames_writing import write_frames
from SAM3DSegmentLib.formats.images import read_header
from SAM3DSegmentLib.formats.volumes import read_volume

STACK = np.random.default_rng(0).integers(0, 3, (4, 5, 6, 7)).astype(np.uint8)
MATRIX = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]], float)
TIMES = (0.0, 0.25, 0.5, 0.75)


@pytest.fixture
def scene():
    return slicer.vtkMRMLScene()


def array_and_matrix(node):
    image, matrix = node.GetImageData(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    return array, np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


@pytest.mark.parametrize("name", ["a.seq.nrrd", "a.nii.gz"])
def test_slicer_shows_our_frames_as_a_sequence_in_place_and_in_time(scene, tmp_path, name):
    write_frames(tmp_path / name, STACK, MATRIX, TIMES)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeSequenceStorageNode")
    storage.SetFileName(str(tmp_path / name))
    assert storage.ReadData(sequence)
    assert sequence.GetNumberOfDataNodes() == len(STACK)
    assert [float(sequence.GetNthIndexValue(number)) for number in range(len(STACK))] == list(TIMES)
    for number, frame in enumerate(STACK):
        node = sequence.GetNthDataNode(number)
        array, matrix = array_and_matrix(node)
        np.testing.assert_array_equal(array, frame)
        np.testing.assert_allclose(matrix, MATRIX, atol=1e-5)
        assert name.endswith(".nii.gz") or node.IsA("vtkMRMLLabelMapVolumeNode")


def test_we_read_the_frames_that_slicer_saves(scene, tmp_path):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    for frame, time in zip(STACK, TIMES):
        node, image = slicer.vtkMRMLScalarVolumeNode(), vtk.vtkImageData()
        image.SetDimensions(*frame.shape[::-1])
        image.GetPointData().SetScalars(numpy_to_vtk(frame.ravel(), deep=True))
        node.SetAndObserveImageData(image)
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy(MATRIX.ravel())
        node.SetIJKToRASMatrix(matrix)
        sequence.SetDataNodeAtValue(node, str(time))
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeSequenceStorageNode")
    storage.SetFileName(str(tmp_path / "a.seq.nrrd"))
    assert storage.WriteData(sequence)
    header = read_header(tmp_path / "a.seq.nrrd")
    assert (header.frames, header.times) == (len(STACK), TIMES)
    for number, frame in enumerate(STACK):
        volume = read_volume(tmp_path / "a.seq.nrrd", frame=number)
        np.testing.assert_array_equal(volume.array_kji, frame)
        np.testing.assert_allclose(volume.ijk_to_ras, MATRIX, atol=1e-6)
