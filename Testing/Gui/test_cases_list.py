"""The cases of the section "Train" on the host: how they are written, replaced, removed and looked at."""

from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_fixtures import add_volume
from train_fixtures import (
    MODULE,
    OBLIQUE,
    SHAPE,
    add_case,
    add_patient,
    add_segmentation,
    choose_folder,
    files,
    folders,  # noqa: F401 - a fixture
    masks,
    patients,  # noqa: F401 - a fixture
    read,
    settle,
    table,
    the_error,
    widget,  # noqa: F401 - a fixture
)

import host
import image_files as make
import qt


def test_a_case_is_written_by_slicer_as_the_headless_command_reads_it(widget, folders):
    volume, segmentation = add_patient()
    assert not widget.ui.addCaseButton.enabled
    add_case(widget, volume, segmentation)
    assert files(folders / "cases") == ["patient.nrrd", "patient.seg.nrrd"]
    image, indices, labels = read(folders / "cases", "patient")
    np.testing.assert_array_equal(image.array_kji, slicer.util.arrayFromVolume(volume))
    np.testing.assert_allclose(image.ijk_to_ras, OBLIQUE, atol=1e-6)
    expected = masks()
    np.testing.assert_array_equal(indices, expected["Left kidney"] + 2 * expected["Right kidney"])
    assert [label.name for label in labels] == ["Left kidney", "Right kidney"]
    assert labels[0].color == (51, 153, 255)
    assert (labels[0].type.meaning, labels[0].modifier.meaning) == ("Kidney", "Left")
    assert table(widget) == [("patient", "Left kidney 0.60, Right kidney 0.58")]
    assert "at least 2 are needed" in widget.ui.casesLabel.text
    assert widget.ui.caseStatusLabel.text == "patient was added to the cases."
    assert volume.GetStorageNode() is None  # the user's nodes do not take the case for their own file


def test_the_volume_of_a_segmentation_and_its_name_are_suggested(widget):
    other, (volume, segmentation) = add_volume(np.zeros(SHAPE, np.int16), np.eye(4), "other"), add_patient("T1/post: 2")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    segmentation.SetNodeReferenceID(role, volume.GetID())
    widget.ui.caseVolumeSelector.setCurrentNode(other)
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    assert widget.ui.caseVolumeSelector.currentNode() is volume
    assert widget.ui.caseNameEdit.text == "T1_post_ 2"


def test_only_ticked_segments_are_taken(widget, folders):
    volume, segmentation = add_patient()
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    widget.ui.caseVolumeSelector.setCurrentNode(volume)
    assert [widget.ui.segmentsList.item(row).text() for row in range(2)] == ["Left kidney", "Right kidney"]
    widget.ui.segmentsList.item(0).setCheckState(qt.Qt.Unchecked)
    widget.panel.enter()  # from the Segment Editor, which keeps the ticks
    widget.ui.addCaseButton.click()
    settle(widget)
    assert [label.name for label in read(folders / "cases", "patient")[2]] == ["Right kidney"]
    widget.ui.segmentsList.item(1).setCheckState(qt.Qt.Unchecked)
    widget.ui.caseNameEdit.text = "none"
    widget.ui.addCaseButton.click()
    assert "no chosen segment has voxels" in the_error()


def test_transforms_of_both_nodes_are_taken_into_account(widget, folders):
    """The segmentation is drawn beside the volume, and its own transform brings it there; the volume has one, too."""
    volume, _ = add_patient()
    moved = OBLIQUE.copy()
    moved[:3, 3] += OBLIQUE[:3, :3] @ (3, 0, 0)  # three voxels on
    segmentation = add_segmentation(add_volume(np.zeros(SHAPE, np.int16), moved, "elsewhere"), masks())
    to_world = np.array([[0, -1, 0, 4.0], [1, 0, 0, 5.0], [0, 0, 1, 6.0], [0, 0, 0, 1]])
    back = np.eye(4)
    back[:3, 3] = -OBLIQUE[:3, :3] @ (3, 0, 0)
    for node, matrix in ((volume, to_world), (segmentation, to_world @ back)):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        node.SetAndObserveTransformNodeID(transform.GetID())
    add_case(widget, volume, segmentation)
    image, indices, _ = read(folders / "cases", "patient")
    np.testing.assert_allclose(image.ijk_to_ras, to_world @ OBLIQUE, atol=1e-6)
    expected = masks()
    np.testing.assert_array_equal(indices, expected["Left kidney"] + 2 * expected["Right kidney"])


def test_a_segmentation_on_another_grid_is_brought_to_that_of_the_volume(widget, folders):
    volume, _ = add_patient()
    fine = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = (OBLIQUE @ (-0.25, -0.25, -0.25, 1))[:3]
    array = masks()["Left kidney"].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    grid = add_volume(np.zeros(array.shape, np.int16), fine, "fine")
    add_case(widget, volume, add_segmentation(grid, {"Left kidney": array}))
    np.testing.assert_array_equal(read(folders / "cases", "patient")[1], masks()["Left kidney"])


def under_curved_transform(volume, segmentation):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    segmentation.SetAndObserveTransformNodeID(transform.GetID())


def with_overlap(volume, segmentation):
    first = segmentation.GetSegmentation().GetNthSegmentID(0)
    segmentation.GetSegmentation().SeparateSegmentLabelmap(first)
    both = np.maximum(*masks().values())
    slicer.util.updateSegmentBinaryLabelmapFromArray(both, segmentation, first, volume)


def elsewhere(volume, segmentation):
    volume.SetOrigin(500, 500, 500)


def with_two_of_a_name(volume, segmentation):
    for index in range(2):
        segmentation.GetSegmentation().GetNthSegment(index).SetName("Kidney")


def without_labelmap(volume, segmentation):
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segmentation.RemoveBinaryLabelmapRepresentation()


REFUSED = {
    under_curved_transform: "is under a transform that is not linear",
    with_overlap: "'Left kidney' and 'Right kidney' overlap in",
    elsewhere: "lies outside of the volume",
    with_two_of_a_name: "two segments are named 'Kidney'",
    without_labelmap: "has no binary labelmap",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_a_case_is_refused_and_nothing_is_written(widget, folders, spoil):
    volume, segmentation = add_patient()
    spoil(volume, segmentation)
    add_case(widget, volume, segmentation)
    assert REFUSED[spoil] in the_error()
    assert list((folders / "cases").iterdir()) == []
    assert table(widget) == []


@pytest.mark.parametrize("name", ["", "a/b", "ct_label"])
def test_a_name_that_would_be_taken_for_something_else_is_refused(widget, folders, name):
    volume, segmentation = add_patient()
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    widget.ui.caseVolumeSelector.setCurrentNode(volume)
    widget.ui.caseNameEdit.text = name
    widget.ui.addCaseButton.click()
    assert "cannot name a case" in the_error()
    assert list((folders / "cases").iterdir()) == []


def test_a_case_is_replaced_only_when_the_user_agrees(widget, folders):
    add_case(widget, *add_patient())
    before = {path.name: path.read_bytes() for path in (folders / "cases").iterdir()}
    volume, segmentation = add_patient(shift=2)
    host.answerNext("question", False)
    add_case(widget, volume, segmentation)
    assert "patient.nrrd, patient.seg.nrrd" in host.messages[-1].text
    assert {path.name: path.read_bytes() for path in (folders / "cases").iterdir()} == before
    host.answerNext("question", True)
    add_case(widget, volume, segmentation)
    assert files(folders / "cases") == ["patient.nrrd", "patient.seg.nrrd"]
    np.testing.assert_array_equal(read(folders / "cases", "patient")[1] == 1, masks(2)["Left kidney"])


def test_a_case_that_cannot_be_written_leaves_the_former_one(widget, folders, monkeypatch):
    """The disk fails when the second file is moved to its place."""
    add_case(widget, *add_patient())
    before = {path.name: path.read_bytes() for path in (folders / "cases").iterdir()}
    replace, targets = os.replace, []

    def fail_once(source, target):
        targets.append(target)
        if len(targets) == 4:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    host.answerNext("question", True)
    add_case(widget, *add_patient(shift=2))
    assert "No space left on device" in the_error()
    assert {path.name: path.read_bytes() for path in (folders / "cases").iterdir()} == before


def test_a_case_is_removed_only_when_the_user_agrees(patients, folders):
    ui = patients.ui
    assert not ui.removeCaseButton.enabled
    ui.casesTable.selectRow(1)
    host.answerNext("question", False)
    ui.removeCaseButton.click()
    assert len(files(folders / "cases")) == 6
    host.answerNext("question", True)
    ui.removeCaseButton.click()
    settle(patients)
    assert [row[0] for row in table(patients)] == ["patient0", "patient2"]
    assert len(files(folders / "cases")) == 4
    if sys.platform == "linux":
        assert len(list((folders / "data" / "Trash" / "files").iterdir())) == 2


def test_a_tree_of_dicom_series_and_contours(widget, folders):
    """Of which no header tells what it has cost: its slices are counted."""
    for number in range(2):
        series = f"1.2.3.{number + 1}"
        make.dicom(folders / "cases" / f"s{number}", series=series)
        points = [[(10, 0, z), (14, 0, z), (14, 4, z), (10, 4, z)] for z in (9, 11, 13)]
        contours = [make.contour(np.array(one, float)) for one in points]
        make.structure_set(folders / "cases" / f"rs{number}.dcm", {"Blob": contours}, series)
    choose_folder(widget, folders / "cases")
    assert [name for name, _ in table(widget)] == ["s0", "s1"]
    assert widget.ui.casesCostLabel.text == "2 cases, 6 painted slices"


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_removed_or_replaced_case_leaves_no_voxels_of_a_second_file(widget, folders, ending, is_replaced):
    volume, segmentation = add_patient("a")
    add_case(widget, volume, segmentation)
    [image] = [path for path in (folders / "cases").iterdir() if ".seg" not in path.name]
    sitk.WriteImage(sitk.ReadImage(str(image)), str(folders / "cases" / f"a{ending}"))
    image.unlink()
    assert len(files(folders / "cases")) == 3
    widget.panel.enter()
    settle(widget)
    host.answerNext("question", True)
    if is_replaced:
        add_case(widget, volume, segmentation)
    else:
        widget.ui.casesTable.selectRow(0)
        widget.ui.removeCaseButton.click()
    question = host.messages[-1]
    assert f"a{ending}, a." in question.text.replace("a.seg.nrrd, ", "")
    assert files(folders / "cases") == ([image.name, "a.seg.nrrd"] if is_replaced else [])


def test_a_label_map_is_read_again_only_if_it_has_changed(patients, folders, monkeypatch):
    from SAM3DSegmentLib.training import look

    read, looked_at = look._look, []
    monkeypatch.setattr(look, "_look", lambda case, *options: looked_at.append(case.name) or read(case, *options))
    before = table(patients)
    patients.panel.enter()
    settle(patients)
    assert looked_at == []
    assert table(patients) == before
    changed = folders / "cases" / "patient1.seg.nrrd"
    os.utime(changed, ns=(0, 0))
    patients.panel.enter()
    settle(patients)
    assert looked_at == ["patient1"]
    changed.write_bytes(b"damaged")
    for _ in range(2):  # what has a problem is looked at again: it may be gone without a change of the file
        patients.panel.enter()
        settle(patients)
    assert looked_at == ["patient1"] * 3


def test_a_selector_that_tells_its_node_again_keeps_name_and_ticks(widget):
    first = add_volume(np.zeros(SHAPE, np.float32), OBLIQUE, "first")
    other = add_segmentation(first, masks(), "other")
    volume, segmentation = add_patient("second")
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    assert widget.ui.caseVolumeSelector.currentNode() is volume
    widget.ui.caseNameEdit.text = "my own name"
    widget.ui.segmentsList.item(0).setCheckState(qt.Qt.Unchecked)
    slicer.mrmlScene.RemoveNode(other)
    slicer.mrmlScene.RemoveNode(first)  # the rows of the chosen ones move
    volume.SetName("renamed")
    segmentation.SetName("renamed")
    assert widget.ui.caseNameEdit.text == "my own name"
    states = [widget.ui.segmentsList.item(row).checkState() for row in range(2)]
    assert states == [qt.Qt.Unchecked, qt.Qt.Checked]


def test_the_folder_is_opened_and_remembered(widget, folders):
    widget.ui.openCasesButton.click()
    assert host.openedUrls == [qt.QUrl.fromLocalFile(str(folders / "cases")).toString()]
    again = host.load_module(MODULE)[2]
    assert again.ui.casesFolderLabel.text == str(folders / "cases")


def test_odd_cases_are_shown_and_hold_training_up(patients, folders):
    volume, _ = add_patient()
    add_case(patients, volume, add_segmentation(volume, {"Left kidney": masks()["Left kidney"]}))
    assert ("patient", "Left kidney 0.60, no Right kidney") in table(patients)
    patients.ui.modelNameEdit.text = "kidneys"
    assert patients.ui.trainButton.enabled
    (folders / "cases" / "patient1.nrrd").write_bytes(b"not an image")
    patients.panel.enter()
    settle(patients)
    [row] = [row for row in table(patients) if row[0] == "patient1"]
    assert row[1].startswith("\u26a0")
    assert "patient1.nrrd" in row[1]
    assert not patients.ui.trainButton.enabled
    assert (
        patients.ui.trainButton.toolTip
        == patients.ui.casesLabel.text
        == ("Some cases cannot be used; repair or remove them.")
    )


def test_a_folder_that_has_gone_is_told(widget, folders):
    shutil.rmtree(folders / "cases")
    widget.panel.enter()
    settle(widget)
    assert "does not exist" in widget.ui.casesLabel.text
    assert not widget.ui.trainButton.enabled
    add_case(widget, *add_patient())
    assert "does not exist" in the_error()
    assert not (folders / "cases").exists()


def test_a_result_is_taken_among_the_cases_also_if_no_folder_was_chosen(folders):
    widget = host.load_module(MODULE)[2]
    volume, segmentation = add_patient()
    assert not widget.ui.useAsCaseButton.enabled
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.outputSelector.setCurrentNode(segmentation)
    widget.ui.useAsCaseButton.click()  # and no folder is chosen
    assert widget.ui.casesFolderLabel.text == "No folder is chosen."
    host.answerNext("file", str(folders / "cases"))
    widget.ui.useAsCaseButton.click()
    settle(widget)
    assert [row[0] for row in table(widget)] == ["patient"]
    assert not widget.ui.trainSection.collapsed
    assert sys.modules.get("SAM3DSegmentLib.training.dataset")


def test_a_dicom_series_is_not_removed_with_its_case(folders):
    """Its folder may hold more than the case."""
    from SAM3DSegmentLib.base.errors import InputError
    from SAM3DSegmentLib.bridge.scene.cases import CaseRow, removeCase

    series = folders / "cases" / "a"
    series.mkdir(parents=True)
    (series / "slice.dcm").write_bytes(b"\0")
    (folders / "cases" / "a.dcm").write_bytes(b"\0")
    with pytest.raises(InputError, match="is a folder of DICOM files"):
        removeCase(CaseRow("a", (series, folders / "cases" / "a.dcm")), folders / "cases")
    assert (series / "slice.dcm").exists()
    assert (folders / "cases" / "a.dcm").exists()
