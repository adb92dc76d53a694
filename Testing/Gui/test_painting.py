"""Painting in "Train" on the host: the row of three steps, cases of which only some slices are known, their cost."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import slicer
from painting_fixtures import (
    COLORS,
    KIDNEY,
    SHAPE,
    add_painting,
    add_segmentation,
    assert_same,
    image_of,
    masks,
    masks_of,
    painted,
    tag_of,
)
from panel_fixtures import add_volume
from train_fixtures import (
    MODULE,
    OBLIQUE,
    TIMEOUT_S,
    add_case,
    choose_folder,
    files,
    folders,  # noqa: F401 - a fixture
    is_idle,
    settle,
    table,
    the_error,
    wait_for_end,
    wait_for_steps,
)

import host
import qt
from SAM3DSegmentLib.bridge.scene.painting import isOnlyPainted, setOnlyPainted
from SAM3DSegmentLib.bridge.scene.segmentations import referenceVolume
from SAM3DSegmentLib.formats.label_maps import read_label_map


@pytest.fixture
def widget(folders, tiny_model):
    """The panel with the section open; the folder of cases is chosen, and a tiny encoder to train on."""
    shutil.copy(tiny_model, folders / "models" / "tiny.sam3d")
    widget = host.load_module(MODULE)[2]
    widget.ui.trainSection.collapsed = False
    choose_folder(widget, folders / "cases")
    box = widget.ui.encoderBox
    box.currentIndex = [box.itemText(i) for i in range(box.count)].index("Encoder of tiny")
    widget.ui.minutesBox.value = 0.1
    return widget


def choose(widget, volume, segmentation):
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    widget.ui.caseVolumeSelector.setCurrentNode(volume)


def paint(widget):
    widget.ui.paintButton.click()
    return widget.ui.caseSegmentationSelector.currentNode()


def segments_of(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetSegment(segment_id) for segment_id in segmentation.GetSegmentIDs()]


def add_whole(name="whole", shift=0):
    whole = masks(shift)
    volume = add_volume(image_of(whole, shift), OBLIQUE, name)
    return volume, add_segmentation(volume, whole, f"{name} segmentation")


def scene_ids():
    return [slicer.mrmlScene.GetNthNode(i).GetID() for i in range(slicer.mrmlScene.GetNumberOfNodes())]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_case_notes_that_only_painted_slices_are_complete(widget, folders):
    volume, painting = add_painting()
    choose(widget, volume, painting)
    assert not widget.ui.onlyPaintedBox.checked
    widget.ui.onlyPaintedBox.click()
    assert isOnlyPainted(painting)
    add_case(widget, volume, painting)
    segments = read_label_map(folders / "cases" / "patient.seg.nrrd").segments
    assert [segment.only_painted for segment in segments] == [True, True]
    assert table(widget) == [("patient", "3 of 11 slices, Left kidney 0.36, Right kidney 0.32")]
    assert widget.ui.casesCostLabel.text == "1 case, 3 painted slices"
    widget.ui.onlyPaintedBox.click()
    assert not isOnlyPainted(painting)
    host.answerNext("question", True)
    add_case(widget, volume, painting)
    segments = read_label_map(folders / "cases" / "patient.seg.nrrd").segments
    assert [segment.only_painted for segment in segments] == [False, False]


def test_a_painting_that_is_not_marked_as_one_is_pointed_out(widget):
    add_case(widget, *add_painting())
    assert table(widget)[0][1].startswith("\u26a0 3 of 11 slices, but not marked as only painted, Left kidney")


def test_the_note_survives_slicer(widget, folders):
    """A case that is loaded, corrected and saved by Slicer is read as before."""
    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    add_case(widget, volume, painting)
    path = folders / "cases" / "patient.seg.nrrd"
    loaded = slicer.util.loadSegmentation(str(path))
    choose(widget, volume, loaded)
    assert widget.ui.onlyPaintedBox.checked
    slicer.util.saveNode(loaded, str(path))
    assert all(segment.only_painted for segment in read_label_map(path).segments)
    widget.panel.enter()
    settle(widget)
    assert table(widget)[0][1].startswith("3 of 11 slices")


def test_the_box_follows_the_chosen_segmentation(widget):
    (first, painting), (second, other) = add_painting("A"), add_painting("B")
    assert not widget.ui.onlyPaintedBox.enabled
    setOnlyPainted(painting, True)
    choose(widget, first, painting)
    assert widget.ui.onlyPaintedBox.checked
    choose(widget, second, other)
    assert not widget.ui.onlyPaintedBox.checked
    setOnlyPainted(other, True)
    assert widget.ui.onlyPaintedBox.checked
    choose(widget, None, None)
    assert not widget.ui.onlyPaintedBox.checked
    assert not widget.ui.onlyPaintedBox.enabled


def test_a_result_is_a_whole_case_unless_it_says_otherwise(widget, folders):
    volume, segmentation = add_whole()
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.outputSelector.setCurrentNode(segmentation)
    widget.ui.useAsCaseButton.click()
    settle(widget)
    assert not any(segment.only_painted for segment in read_label_map(folders / "cases" / "whole.seg.nrrd").segments)
    assert not isOnlyPainted(segmentation)


def test_a_model_that_replaces_a_painting_makes_it_whole_until_that_is_undone(tiny_model):
    from SAM3DSegmentLib.bridge.logic import segment, undo

    own = painted(masks())
    volume = add_volume(image_of(masks()), OBLIQUE, "volume")
    painting = add_segmentation(volume, {"Inside": own["Left kidney"], "Outside": own["Right kidney"]})
    setOnlyPainted(painting, True)
    segment(volume, painting, model=tiny_model, device="cpu", overwrite=True)
    assert not isOnlyPainted(painting)
    undo(painting)
    assert isOnlyPainted(painting)


def test_what_the_cases_have_cost(widget, folders):
    """A painting costs its slices, also after it is completed; a whole one all of its own; a model's result none."""
    from SAM3DSegmentLib.bridge.scene.edits import markDelivered
    from SAM3DSegmentLib.bridge.scene.painting import writeCompletion

    assert widget.ui.casesCostLabel.text == ""
    volume, painting = add_painting("a")
    setOnlyPainted(painting, True)
    add_case(widget, volume, painting)
    add_case(widget, *add_whole("b"))
    assert widget.ui.casesCostLabel.text == "2 cases, 10 painted slices"
    ids = painting.GetSegmentation().GetSegmentIDs()
    writeCompletion(dict(zip(ids, masks().values())), {0: (2, 5, 8)}, volume, painting)
    widget.ui.caseNameEdit.text = "completed"
    widget.ui.caseSegmentationSelector.setCurrentNode(painting)
    widget.ui.caseVolumeSelector.setCurrentNode(volume)
    widget.ui.caseNameEdit.text = "completed"
    widget.ui.addCaseButton.click()
    settle(widget)
    assert widget.ui.casesCostLabel.text == "3 cases, 13 painted slices"
    volume, result = add_whole("c")
    markDelivered(result, list(masks()))
    add_case(widget, volume, result)
    assert widget.ui.casesCostLabel.text == "4 cases, 13 painted slices, 1 made by a model"


def test_paint_opens_the_editor_with_the_segments_of_the_cases(widget):
    add_case(widget, *add_whole())
    new = add_volume(np.zeros(SHAPE, np.int16), OBLIQUE, "new")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    new.SetAndObserveTransformNodeID(transform.GetID())
    choose(widget, new, None)
    painting = paint(widget)
    assert painting.GetName() == "new segmentation"
    assert painting.GetTransformNodeID() == transform.GetID()
    assert referenceVolume(painting) is new
    assert [segment.GetName() for segment in segments_of(painting)] == ["Left kidney", "Right kidney"]
    for segment in segments_of(painting):
        np.testing.assert_allclose(segment.GetColor(), COLORS[segment.GetName()], atol=0.003)
        assert tag_of(segment, "TerminologyEntry").split("~")[1:4] == KIDNEY.split("~")[1:4]
    assert isOnlyPainted(painting)
    assert widget.ui.onlyPaintedBox.checked
    assert host.selectedModules == ["SegmentEditor"]
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    assert editor.segmentationNode() is painting
    assert editor.sourceVolumeNode() is new
    # What is painted lies on the volume's grid.
    segment_id = painting.GetSegmentation().GetNthSegmentID(0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(masks()["Left kidney"], painting, segment_id, new)
    assert_same(masks_of(painting, new), {"Left kidney": masks()["Left kidney"], "Right kidney": np.zeros(SHAPE)})


def test_without_cases_there_is_one_segment_to_be_named(widget):
    new = add_volume(np.zeros(SHAPE, np.int16), OBLIQUE, "new")
    assert not widget.ui.paintButton.enabled
    assert widget.ui.paintButton.toolTip == "Choose a volume first."
    choose(widget, new, None)
    painting = paint(widget)
    assert [segment.GetName() for segment in segments_of(painting)] == ["Segment_1"]
    assert isOnlyPainted(painting)


def test_paint_again_goes_on_with_the_same_painting(widget):
    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    before = masks_of(painting, volume)
    choose(widget, volume, painting)
    nodes = scene_ids()
    for _ in range(2):
        assert paint(widget) is painting
    assert scene_ids() == nodes
    assert_same(masks_of(painting, volume), before)
    add_case(widget, *add_whole())
    painting.GetSegmentation().GetNthSegment(0).SetName("left  KIDNEY")
    painting.GetSegmentation().RemoveSegment(painting.GetSegmentation().GetNthSegmentID(1))
    choose(widget, volume, painting)
    assert paint(widget) is painting
    assert [segment.GetName() for segment in segments_of(painting)] == ["left  KIDNEY", "Right kidney"]


def test_the_segmentation_of_another_volume_is_not_painted_on(widget):
    first, painting = add_painting()
    second = add_volume(np.zeros(SHAPE, np.int16), OBLIQUE, "second")
    before = masks_of(painting, first)
    choose(widget, second, painting)
    other = paint(widget)
    assert other is not painting
    assert referenceVolume(other) is second
    assert_same(masks_of(painting, first), before)


def test_a_painting_that_cannot_be_made_leaves_the_scene_as_it_was(widget, monkeypatch):
    from SAM3DSegmentLib.base.errors import InputError
    from SAM3DSegmentLib.bridge.scene import painting

    def fail(*_arguments):
        raise InputError("no room.")

    choose(widget, add_volume(np.zeros(SHAPE, np.int16), OBLIQUE, "new"), None)
    nodes = scene_ids()
    monkeypatch.setattr(painting, "tagOnlyPainted", fail)
    widget.ui.paintButton.click()
    assert the_error() == "no room."
    assert scene_ids() == nodes
    assert host.selectedModules == []


WAITING = """
import json, os, sys
print(json.dumps({"process_id": os.getpid()}), flush=True)
print(json.dumps({"stage": "look", "done": 1, "total": 2, "eta_s": 9}), flush=True)
sys.stdin.read()
sys.exit(130)
"""


def test_add_and_train_adds_the_case_and_starts(widget, folders, use_program):
    button = widget.ui.addAndTrainButton
    add_case(widget, *add_whole())
    use_program(WAITING)
    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    assert button.toolTip == "Give the model a name first."
    choose(widget, None, None)
    assert button.toolTip == "Choose a volume and its segmentation first."
    choose(widget, volume, painting)
    widget.ui.modelNameEdit.text = "kidneys"
    assert button.enabled
    button.click()
    assert host.pump(lambda: "Reading case 1 of 2" in widget.ui.trainingStatusLabel.text, TIMEOUT_S)
    assert widget.ui.caseStatusLabel.text == "patient was added to the cases."
    assert files(folders / "cases") == ["patient.nrrd", "patient.seg.nrrd", "whole.nrrd", "whole.seg.nrrd"]
    assert not button.enabled
    widget.ui.trainButton.click()
    wait_for_end(widget)
    assert files(folders / "models") == ["tiny.sam3d"]
    assert button.enabled


def test_with_a_single_case_nothing_is_trained_and_the_panel_says_why(widget, folders, use_program):
    use_program("import sys; sys.exit('ERROR: started')")
    choose(widget, *add_painting())
    widget.ui.modelNameEdit.text = "kidneys"
    widget.ui.addAndTrainButton.click()
    settle(widget)
    assert is_idle(widget)
    assert "at least 2 are needed" in widget.ui.casesLabel.text
    assert files(folders / "cases") == ["patient.nrrd", "patient.seg.nrrd"]
    add_case(widget, *add_whole())  # nothing is left over that would begin now
    assert is_idle(widget)
    assert [message for message in host.messages if message.kind == "error"] == []


def test_who_declines_a_question_has_added_nothing(widget, folders, use_program):
    use_program("import sys; sys.exit('ERROR: started')")
    add_case(widget, *add_whole())
    volume, painting = add_painting()
    add_case(widget, volume, painting)
    (folders / "models" / "kidneys.sam3d").write_bytes(b"former")
    before, nodes = contents(folders / "cases"), scene_ids()
    setOnlyPainted(painting, True)
    choose(widget, volume, painting)
    widget.ui.modelNameEdit.text = "kidneys"
    for answers in ([False], [True, False]):  # to replace the model; to replace the model, and the case
        host.messages.clear()
        for answer in answers:
            host.answerNext("question", answer)
        widget.ui.addAndTrainButton.click()
        settle(widget)
        assert len(host.messages) == len(answers)
        assert is_idle(widget)
        assert contents(folders / "cases") == before
        assert (folders / "models" / "kidneys.sam3d").read_bytes() == b"former"
    assert scene_ids() == nodes


def test_another_folder_that_is_chosen_meanwhile_is_not_trained_on(widget, folders, use_program):
    use_program("import sys; sys.exit('ERROR: started')")
    add_case(widget, *add_whole())
    add_case(widget, *add_whole("second"))
    shutil.copytree(folders / "cases", folders / "others")
    choose(widget, *add_painting())
    widget.ui.modelNameEdit.text = "kidneys"
    widget.ui.addAndTrainButton.click()
    choose_folder(widget, folders / "others")
    assert is_idle(widget)
    assert [message for message in host.messages if message.kind == "error"] == []


@pytest.mark.slow
def test_a_painted_case_is_trained_on_by_the_real_command(widget, folders):
    for number in range(3):
        volume, painting = add_painting(f"patient{number}", number)
        setOnlyPainted(painting, True)
        if number < 2:
            add_case(widget, volume, painting)
    choose(widget, volume, painting)
    widget.ui.modelNameEdit.text = "kidneys"
    widget.ui.addAndTrainButton.click()
    assert host.pump(lambda: not is_idle(widget), TIMEOUT_S)  # once the new case is read
    wait_for_steps(widget)
    wait_for_end(widget)
    assert "Done: kidneys" in widget.ui.trainingStatusLabel.text
    assert widget.ui.casesCostLabel.text == "3 cases, 9 painted slices"


def test_unticked_segments_are_left_out_of_a_painted_case(widget, folders):
    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    choose(widget, volume, painting)
    widget.ui.segmentsList.item(1).setCheckState(qt.Qt.Unchecked)
    widget.ui.addCaseButton.click()
    settle(widget)
    assert [s.name for s in read_label_map(folders / "cases" / "patient.seg.nrrd").segments] == ["Left kidney"]
    assert_same(masks_of(painting, volume), painted(masks()))
