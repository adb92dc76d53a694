"""Training on segmentations that Slicer's own storage node (slicer-core) has written."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from vtk.util import numpy_support

from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import Terminology
from SAM3DSegmentLib.settings import TrainingConfig
from SAM3DSegmentLib.training.classes import agree_on_labels
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.look import look_at_cases
from SAM3DSegmentLib.training.reading import read_case
from SAM3DSegmentLib.training.run import train
from SAM3DSegmentLib.training.run_folder import Options

SHAPE = (6, 20, 24)
HIPPOCAMPUS = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^5366008^Hippocampus"
    "~SCT^255549009^Anterior~Anatomic codes - DICOM master list~^^~^^"
)
COLOR = (0.2, 0.6, 1.0)


def find_labels(dataset):
    return agree_on_labels(dataset, look_at_cases(dataset))[0]


def mask(name, shift=0):
    array = np.zeros(SHAPE, np.uint8)
    if name.lower() == "anterior":
        array[1:4, 3:9, 4 + shift : 12 + shift] = 1
    elif name == "Posterior":
        array[2:5, 11:17, 6 + shift : 14 + shift] = 1
    elif name == "Over":
        array[1:3, 5:13, 8:16] = 1
    else:
        array[:, 18:, :] = 1
    return array


@pytest.fixture(scope="module")
def scene():
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logic = slicer.vtkSlicerSegmentationsModuleLogic()
    logic.SetMRMLScene(scene)
    scene.application, scene.logic = application, logic
    return scene


def write_case(scene, folder, name, segments, shift=0, crop=True):
    """An image, and a segmentation with these segments in this order, as Slicer saves them."""
    folder.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 100, SHAPE, dtype=np.int16))
    image.SetSpacing((0.8, 0.9, 2.0))
    image.SetOrigin((-12.5, 30.25, 7.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.4).GetMatrix())
    sitk.WriteImage(image, str(folder / f"{name}.nrrd"))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for number, segment_name in enumerate(segments):
        segment = slicer.vtkSegment()
        segment.SetName(segment_name)
        segment.SetColor(*(COLOR if segment_name == "Anterior" else (1.0, 0.5, 0.1 * number)))
        if segment_name == "Anterior":
            segment.SetTag("TerminologyEntry", HIPPOCAMPUS)
        segment.AddRepresentation("Binary labelmap", oriented(image, mask(segment_name, shift)))
        node.GetSegmentation().AddSegment(segment, f"S{number}")
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetCropToMinimumExtent(crop)
    storage.SetFileName(str(folder / f"{name}.seg.nrrd"))
    assert storage.WriteData(node)


def oriented(image, array):
    """As the Segment Editor holds a mask: voxels with the image's matrix in RAS."""
    data = slicer.vtkOrientedImageData()
    depth, height, width = array.shape
    data.SetDimensions(width, height, depth)
    scalars = numpy_support.numpy_to_vtk(array.ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR)
    data.GetPointData().SetScalars(scalars)
    matrix = vtk.vtkMatrix4x4()
    directions = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    for row, sign in enumerate((-1, -1, 1)):
        for column in range(3):
            matrix.SetElement(row, column, sign * directions[row, column])
        matrix.SetElement(row, 3, sign * image.GetOrigin()[row])
    data.SetImageToWorldMatrix(matrix)
    return data


def test_segments_are_matched_by_name_whatever_their_order_layers_and_extent(scene, tmp_path):
    write_case(scene, tmp_path, "a", ["Anterior", "Posterior"])
    write_case(scene, tmp_path, "b", ["Posterior", "anterior"], shift=1)
    write_case(scene, tmp_path, "c", ["Background", "Posterior", "Anterior"], crop=False)
    dataset = find_dataset(tmp_path)
    labels = find_labels(dataset)
    assert [(label.value, label.name.lower()) for label in labels] == [(1, "anterior"), (2, "posterior")]
    for case, shift in zip(dataset.cases, (0, 1, 0)):
        _, indices = read_case(case, labels)
        assert np.array_equal(indices, mask("Anterior", shift) + 2 * mask("Posterior", shift)), case.name


def test_colour_and_terminology_are_carried(scene, tmp_path):
    write_case(scene, tmp_path, "a", ["Posterior", "Anterior"])
    write_case(scene, tmp_path, "b", ["Anterior"])
    anterior = next(label for label in find_labels(find_dataset(tmp_path)) if label.name == "Anterior")
    assert anterior.color == (51, 153, 255)
    assert anterior.type == Terminology("SCT", "5366008", "Hippocampus")
    assert anterior.modifier == Terminology("SCT", "255549009", "Anterior")


def test_names_of_a_description_keep_their_values(scene, tmp_path):
    for name in ("a", "b"):
        write_case(scene, tmp_path, name, ["Posterior", "Anterior"])
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Anterior": 4, "Posterior": 9}}))
    labels = find_labels(find_dataset(tmp_path))
    assert [(label.value, label.name) for label in labels] == [(4, "Anterior"), (9, "Posterior")]
    assert labels[0].color == (51, 153, 255)


def test_segments_that_overlap_are_refused_with_their_names(scene, tmp_path):
    write_case(scene, tmp_path, "a", ["Anterior", "Over"])
    write_case(scene, tmp_path, "b", ["Anterior"])
    dataset = find_dataset(tmp_path)
    problem = agree_on_labels(dataset, look_at_cases(dataset))[1][0].problem
    assert "the segments 'Anterior' and 'Over' overlap in 32 voxels" in problem
    assert "a.seg.nrrd" in problem


def test_a_segment_that_no_label_names_is_refused(scene, tmp_path):
    for name in ("a", "b"):
        write_case(scene, tmp_path, name, ["Anterior", "Posterior"])
    dataset = find_dataset(tmp_path)
    with pytest.raises(InputError, match="has the segment 'Posterior', which is none of Anterior"):
        read_case(dataset.cases[0], find_labels(dataset)[:1])


def test_names_and_bare_values_are_not_mixed(scene, tmp_path):
    write_case(scene, tmp_path, "a", ["Anterior"])
    write_case(scene, tmp_path, "b", ["Anterior"])
    plain = sitk.ReadImage(str(tmp_path / "b.nrrd"))
    (tmp_path / "b.seg.nrrd").unlink()
    sitk.WriteImage(sitk.Cast(plain > 50, sitk.sitkUInt8), str(tmp_path / "b_label.nrrd"))
    with pytest.raises(InputError, match=r"a\.seg\.nrrd names its structures and b_label\.nrrd does not"):
        find_labels(find_dataset(tmp_path))


def test_they_train(scene, tmp_path):
    for number, order in enumerate((["Anterior", "Posterior"], ["Posterior", "Anterior"], ["Anterior"])):
        write_case(scene, tmp_path / "cases", f"case{number}", order)
    config = TrainingConfig(
        encoder="compact_vit", image_size=32, channels=(256, 16, 16, 8, 8), training_depth=4, validations=1, epochs=1
    )
    model = train(tmp_path / "cases", tmp_path / "m.sam3d", config, Options(device="cpu"))
    assert [label.name for label in model.card.labels] == ["Anterior", "Posterior"]
    assert model.card.labels[0].type.meaning == "Hippocampus"
    assert model.card.training.steps > 0
