"""Results and corrections are never lost: several patients, edits by hand, volumes that change, undo, saved scenes."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from panel_fixtures import LABELS, TIMEOUT_S, add_volume, choose, is_idle

import host
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.bridge.logic import segment, startSegment, undo
from SAM3DSegmentLib.bridge.scene.segmentations import readProvenance, referenceVolume

NAMES = [label.name for label in LABELS]


def add_patient(array, name, seed=0):
    noise = np.random.default_rng(seed).normal(size=array.shape).astype(np.float32)
    return add_volume(array + noise, np.diag([1.5, 1, 2, 1]), name)


def masks_of(node, volume):
    segmentation = node.GetSegmentation()
    return {
        segmentation.GetSegment(i).GetName(): slicer.util.arrayFromSegmentBinaryLabelmap(node, i, volume).copy()
        for i in segmentation.GetSegmentIDs()
    }


def assert_same(masks, others):
    assert list(masks) == list(others)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, others[name])


def correct(node, volume, name="Inside"):
    """One voxel less or more, as with the brush."""
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume).copy()
    mask[2, 3, 4] = 1 - mask[2, 3, 4]
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, volume)


def click_segment(widget):
    widget.ui.segmentButton.click()
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S), widget.ui.statusLabel.text
    return widget.ui.outputSelector.currentNode()


def choose_result(widget, volume, model):
    """The volume and a result of it, as after a click, but computed here, which is faster than in a child."""
    choose(widget, model)
    node = segment(volume, model=model, device="cpu")
    widget.ui.inputSelector.setCurrentNode(volume)
    assert widget.ui.outputSelector.currentNode() is node
    return node


def questions():
    return [message for message in host.messages if message.kind == "question"]


@pytest.mark.slow
def test_two_patients_in_a_row_have_a_segmentation_each(widget, array, tiny_model):
    choose(widget, tiny_model)
    first, second = add_patient(array, "A"), add_patient(array, "B", 1)
    widget.ui.inputSelector.setCurrentNode(first)
    of_first = click_segment(widget)
    before = masks_of(of_first, first)
    assert any(mask.any() for mask in before.values())
    widget.ui.inputSelector.setCurrentNode(second)
    assert widget.ui.outputSelector.currentNode() is None  # a new one
    assert widget.ui.resultsTable.rowCount == 0
    of_second = click_segment(widget)
    assert [node.GetName() for node in (of_first, of_second)] == ["A segmentation", "B segmentation"]
    assert_same(masks_of(of_first, first), before)
    widget.ui.inputSelector.setCurrentNode(first)
    assert widget.ui.outputSelector.currentNode() is of_first
    widget.ui.inputSelector.setCurrentNode(second)
    assert widget.ui.outputSelector.currentNode() is of_second
    assert questions() == []


def test_a_segmentation_that_was_made_for_the_volume_stays_chosen(widget, array):
    """A new one, without segments, or one that was drawn on it by hand."""
    volume, other = add_patient(array, "A"), add_patient(array, "B")
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    widget.ui.outputSelector.setCurrentNode(mine)
    widget.ui.inputSelector.setCurrentNode(volume)
    assert widget.ui.outputSelector.currentNode() is mine
    mine.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    mine.GetSegmentation().AddEmptySegment("", "by hand")
    widget.ui.inputSelector.setCurrentNode(other)
    assert widget.ui.outputSelector.currentNode() is None
    widget.ui.outputSelector.setCurrentNode(mine)
    widget.ui.inputSelector.setCurrentNode(volume)
    assert widget.ui.outputSelector.currentNode() is mine


def test_the_segmentation_of_another_volume_is_replaced_only_if_the_user_wants_it(
    widget,
    array,
    tiny_model,
):
    first, second = add_patient(array, "A"), add_patient(array, "B", 1)
    of_first = choose_result(widget, first, tiny_model)
    before, provenance = masks_of(of_first, first), readProvenance(of_first)
    widget.ui.inputSelector.setCurrentNode(second)
    widget.ui.outputSelector.setCurrentNode(of_first)
    host.answerNext("question", False)
    widget.ui.segmentButton.click()
    assert is_idle(widget)
    [question] = questions()
    assert "Segmentation 'A segmentation' belongs to the volume 'A', and not to 'B'" in question.text
    assert_same(masks_of(of_first, first), before)
    assert not widget.ui.undoButton.enabled

    assert click_segment(widget) is of_first  # and the question is answered with OK
    assert referenceVolume(of_first) is second
    assert any((mask != before[name]).any() for name, mask in masks_of(of_first, first).items())
    widget.ui.undoButton.click()
    assert_same(masks_of(of_first, first), before)
    assert readProvenance(of_first) == provenance
    assert referenceVolume(of_first) is first
    assert not widget.ui.undoButton.enabled
    assert host.messages[2:] == []


def test_corrections_are_replaced_only_if_the_user_wants_it(widget, array, tiny_model):
    volume = add_patient(array, "A")
    node = choose_result(widget, volume, tiny_model)
    delivered = masks_of(node, volume)
    assert segment(volume, node, model=tiny_model, device="cpu") is node  # nobody has touched it
    correct(node, volume)
    corrected = masks_of(node, volume)
    host.answerNext("question", False)
    widget.ui.segmentButton.click()
    assert is_idle(widget)
    assert "drawn or edited by hand ('Inside')" in questions()[0].text
    assert_same(masks_of(node, volume), corrected)
    click_segment(widget)
    assert_same(masks_of(node, volume), delivered)
    widget.ui.undoButton.click()
    assert_same(masks_of(node, volume), corrected)
    host.answerNext("question", False)
    widget.ui.segmentButton.click()
    assert len(questions()) == 3  # what was undone is somebody's work as before


def test_undo_asks_before_it_takes_later_edits_along(widget, array, tiny_model):
    volume = add_patient(array, "A")
    node = choose_result(widget, volume, tiny_model)
    delivered = masks_of(node, volume)
    segment(volume, node, model=tiny_model, device="cpu")
    assert host.pump(lambda: widget.ui.undoButton.enabled, 5)
    correct(node, volume, "Outside")
    corrected = masks_of(node, volume)
    host.answerNext("question", False)
    widget.ui.undoButton.click()
    assert_same(masks_of(node, volume), corrected)
    widget.ui.undoButton.click()
    assert_same(masks_of(node, volume), delivered)


def test_an_edit_during_the_computation_sends_the_result_into_a_new_segmentation(
    widget,
    array,
    tiny_model,
):
    volume = add_patient(array, "A")
    node = choose_result(widget, volume, tiny_model)
    delivered = masks_of(node, volume)
    widget.ui.segmentButton.click()
    correct(node, volume)
    corrected = masks_of(node, volume)
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    assert "edited meanwhile" in widget.ui.statusLabel.text
    again = widget.ui.outputSelector.currentNode()
    assert again is not node
    assert_same(masks_of(node, volume), corrected)
    assert_same(masks_of(again, volume), delivered)


def test_scripts_replace_only_with_overwrite(array, tiny_model):
    first, second = add_patient(array, "A"), add_patient(array, "B", 1)
    node = segment(first, model=tiny_model, device="cpu")
    for start in (segment, startSegment):
        with pytest.raises(InputError, match="belongs to the volume 'A', and not to 'B'; choose another .* overwrite"):
            start(second, node, model=tiny_model, device="cpu")
    correct(node, first)
    corrected, provenance = masks_of(node, first), readProvenance(node)
    for start in (segment, startSegment):
        with pytest.raises(InputError, match=r"edited by hand \('Inside'\); choose another segmentation, or give"):
            start(first, node, model=tiny_model, device="cpu")
    assert_same(masks_of(node, first), corrected)
    with pytest.raises(InputError, match="nothing to undo"):
        undo(node)
    assert segment(second, node, model=tiny_model, device="cpu", overwrite=True) is node
    assert referenceVolume(node) is second
    undo(node)
    assert_same(masks_of(node, first), corrected)
    assert readProvenance(node) == provenance
    assert referenceVolume(node) is first


def test_a_segment_drawn_under_the_name_of_a_label_is_an_edit_and_others_are_none(array, tiny_model):
    volume = add_patient(array, "A")
    node = segment(volume, model=tiny_model, device="cpu")
    mine = node.GetSegmentation().AddEmptySegment("", "mine")
    drawn = np.zeros(array.shape, np.uint8)
    drawn[1:3, 2:5, 3:6] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, node, mine, volume)
    node.GetSegmentation().GetSegment(mine).SetColor(1, 0, 0)
    segment(volume, node, model=tiny_model, device="cpu")
    np.testing.assert_array_equal(masks_of(node, volume)["mine"], drawn)
    node.GetSegmentation().RemoveSegment(node.GetSegmentation().GetSegmentIdBySegmentName("Inside"))
    node.GetSegmentation().GetSegment(mine).SetName("Inside")
    with pytest.raises(InputError, match=r"edited by hand \('Inside'\)"):
        segment(volume, node, model=tiny_model, device="cpu")


def test_a_moved_segment_is_an_edit(array, tiny_model):
    volume = add_patient(array, "A")
    node = segment(volume, model=tiny_model, device="cpu")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = 3
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    node.HardenTransform()
    with pytest.raises(InputError, match="edited by hand"):
        segment(volume, node, model=tiny_model, device="cpu")


def test_segments_of_an_unknown_volume_are_not_replaced(array, tiny_model):
    """As after opening a segmentation's file, or after its volume was removed."""
    first, second = add_patient(array, "A"), add_patient(array, "B", 1)
    node = segment(first, model=tiny_model, device="cpu")
    slicer.mrmlScene.RemoveNode(first)
    with pytest.raises(InputError, match="may belong to another volume than 'B'"):
        segment(second, node, model=tiny_model, device="cpu")


def test_a_failure_in_delivery_leaves_the_segmentation_as_it_was(array, tiny_model, monkeypatch):
    from SAM3DSegmentLib.bridge.scene import segmentations

    volume = add_patient(array, "A")
    node = segment(volume, model=tiny_model, device="cpu", quality="fast")
    before, provenance = masks_of(node, volume), readProvenance(node)
    write, count = segmentations._writeMask, []

    def fail_at_second(*arguments):
        count.append(1)
        if len(count) == 2:
            raise InputError("no room.")
        write(*arguments)

    monkeypatch.setattr(segmentations, "_writeMask", fail_at_second)
    with pytest.raises(InputError, match="no room"):
        segment(volume, node, model=tiny_model, device="cpu")
    assert_same(masks_of(node, volume), before)
    assert readProvenance(node) == provenance
    count.clear()
    with pytest.raises(InputError, match="no room"):
        segment(volume, model=tiny_model, device="cpu")
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == [node]


def turn(volume):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = 30
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    volume.SetAndObserveTransformNodeID(transform.GetID())


def flip(volume):
    slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(volume)[::-1].copy())


def draw(volume):
    slicer.util.arrayFromVolume(volume)[1, 2, 3] += 1
    slicer.util.arrayFromVolumeModified(volume)


CHANGES = {
    "voxels": flip,
    "one voxel": draw,
    "spacing": lambda volume: volume.SetSpacing(4, 4, 4),
    "origin": lambda volume: volume.SetOrigin(1, 2, 3),
    "transform": turn,
    "shape": lambda volume: slicer.util.updateVolumeFromArray(volume, np.zeros((3, 4, 5), np.float32)),
}


class Once:
    """Does something when the first progress is told, which is in the middle of the computation."""

    def __init__(self, action):
        self._action = action

    def __call__(self, stage, done, total):
        action, self._action = self._action, lambda: None
        action()


@pytest.mark.parametrize("change", CHANGES)
def test_a_volume_that_changed_meanwhile_gets_no_result(array, tiny_model, change):
    volume = add_patient(array, "A")
    with pytest.raises(InputError, match="^the image or the place of 'A' was changed meanwhile; segment again.$"):
        segment(volume, model=tiny_model, device="cpu", onProgress=Once(lambda: CHANGES[change](volume)))
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_voxels_count_within_the_region_only(array, tiny_model):
    volume = add_patient(array, "A")
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetCenter(3, 3, 2)
    roi.SetSize(2, 3, 2)
    options = {"model": tiny_model, "device": "cpu", "roiNode": roi}

    def draw_at(*kji):
        slicer.util.arrayFromVolume(volume)[kji] += 1
        slicer.util.arrayFromVolumeModified(volume)

    assert segment(volume, onProgress=Once(lambda: draw_at(6, 8, 10)), **options)
    with pytest.raises(InputError, match="was changed meanwhile"):
        segment(volume, onProgress=Once(lambda: draw_at(1, 3, 2)), **options)


TOUCHES = {
    "display": lambda volume, folder: volume.GetDisplayNode().SetWindowLevel(10, 5),
    "modified": lambda volume, folder: slicer.util.arrayFromVolumeModified(volume),
    "saved": lambda volume, folder: slicer.util.saveNode(volume, str(folder / "a.nrrd")),
    "not a number": lambda volume, folder: slicer.util.arrayFromVolumeModified(volume),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_what_leaves_the_voxels_as_they_are_costs_no_result(array, tiny_model, tmp_path, touch):
    volume = add_patient(array, "A")
    if touch == "not a number":
        slicer.util.arrayFromVolume(volume)[0, 0, 0] = np.nan
    action = Once(lambda: TOUCHES[touch](volume, tmp_path))
    assert segment(volume, model=tiny_model, device="cpu", onProgress=action)


@pytest.mark.slow
def test_five_patients_with_a_correction_each_are_as_left_after_saving(widget, array, tiny_model, tmp_path):
    choose(widget, tiny_model)
    names = [f"patient {number}" for number in range(5)]
    left = {}
    volumes = [add_patient(array, name, seed) for seed, name in enumerate(names)]
    for volume in volumes:
        widget.ui.inputSelector.setCurrentNode(volume)
        correct(click_segment(widget), volume)
    for volume in reversed(volumes):  # a second walk, to look at them again
        widget.ui.inputSelector.setCurrentNode(volume)
        left[volume.GetName()] = masks_of(widget.ui.outputSelector.currentNode(), volume)
    assert questions() == []
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert widget.ui.inputSelector.currentNode().GetName() == names[0]
    for name in names:
        volume = slicer.util.getNode(name)
        widget.ui.inputSelector.setCurrentNode(volume)
        node = widget.ui.outputSelector.currentNode()
        assert node.GetName() == f"{name} segmentation"
        assert_same(masks_of(node, volume), left[name])
        host.answerNext("question", False)
        widget.ui.segmentButton.click()  # the corrections are known as such
        assert is_idle(widget)
        assert "edited by hand ('Inside')" in questions()[-1].text
    assert len(questions()) == 5


def test_what_a_model_delivered_is_known_as_such_after_saving(array, tiny_model, tmp_path):
    """Whatever extent, layers and data type the file has."""
    volume = add_patient(array, "A")
    node = segment(volume, model=tiny_model, device="cpu")
    before = masks_of(node, volume)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    volume, node = slicer.util.getNode("A"), slicer.util.getNode("A segmentation")
    assert_same(masks_of(node, volume), before)
    assert segment(volume, node, model=tiny_model, device="cpu") is node
    correct(node, volume, "Outside")
    with pytest.raises(InputError, match=r"edited by hand \('Outside'\)"):
        segment(volume, node, model=tiny_model, device="cpu")
