"""All frames of a sequence in the panel: real sequence nodes, browser and logic, real child process."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from panel_fixtures import TIMEOUT_S, add_volume, choose, is_computing, is_idle, scene_state, temporary_folders
from test_logic import label_map

import host
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.bridge.logic import segment, startSegment
from SAM3DSegmentLib.bridge.scene.segmentations import readProvenance, referenceVolume
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.training.dataset import find_dataset

MATRIX = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]], float)


def frames_of(array, count=3):
    return [np.roll(array, number, 1) + np.float32(number) for number in range(count)]


def add_sequence(arrays, matrices=None):
    """A browser with a sequence of volumes, and the node that shows one of them."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("ms")
    for number, array in enumerate(arrays):
        volume = add_volume(array, MATRIX if matrices is None else matrices[number])
        sequence.SetDataNodeAtValue(volume, str(40 * number))
        slicer.mrmlScene.RemoveNode(volume)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "heart browser")
    browser.AddSynchronizedSequenceNode(sequence)
    show(browser, 1)
    return browser, browser.GetProxyNode(sequence)


def show(browser, number):
    browser.SetSelectedItemNumber(number)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


def sequences_beside(browser):
    import vtk

    found = vtk.vtkCollection()
    browser.GetSynchronizedSequenceNodes(found)
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]


def ask_for_all(widget, volume, model):
    choose(widget, model)
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.framesBox.setCurrentIndex(1)


@pytest.mark.slow
def test_all_frames_become_a_sequence_in_the_same_browser_with_the_voxels_of_single_runs(widget, array, tiny_model):
    arrays = frames_of(array)
    singles = []
    for number, frame in enumerate(arrays):
        volume = add_volume(frame, MATRIX, f"single {number}")
        singles.append(label_map(segment(volume, model=tiny_model, device="cpu"), volume))
    assert not np.array_equal(singles[0], singles[1])
    widget.ui.inputSelector.setCurrentNode(volume)
    assert not widget.ui.framesBox.isVisibleTo(widget.parent)
    browser, volume = add_sequence(arrays)
    widget.ui.inputSelector.setCurrentNode(volume)
    assert widget.ui.framesBox.isVisibleTo(widget.parent)
    assert "only the frame that is shown" in widget.ui.warningLabel.text
    ask_for_all(widget, volume, tiny_model)
    assert "only the frame that is shown" not in widget.ui.warningLabel.text
    assert not widget.ui.outputSelector.enabled
    values = []
    widget.ui.segmentButton.click()
    assert host.pump(lambda: values.append(widget.ui.progressBar.value) or is_idle(widget), TIMEOUT_S)
    assert widget.ui.statusLabel.text == "Done."
    assert values == sorted(values)
    shown = widget.ui.outputSelector.currentNode()
    assert len(sequences_beside(browser)) == 1
    assert browser.GetProxyNode(sequences_beside(browser)[0]) is shown
    assert browser.GetNumberOfItems() == 3
    assert referenceVolume(shown) is volume
    for number in (2, 0, 1):
        show(browser, number)
        np.testing.assert_array_equal(label_map(shown, volume), singles[number])
        assert readProvenance(shown)["Model"] == "tiny"
        ml = 9 / 1000 * np.count_nonzero(singles[number] == 1)
        assert host.pump(lambda ml=ml: abs(float(widget.ui.resultsTable.item(0, 2).text()) - ml) < 0.006, TIMEOUT_S)
    assert not temporary_folders()


def test_a_correction_is_kept_and_frames_are_training_cases_of_one_patient(widget, array, tiny_model, tmp_path):
    browser, volume = add_sequence(frames_of(array))
    ask_for_all(widget, volume, tiny_model)
    widget.ui.segmentButton.click()
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    shown = widget.ui.outputSelector.currentNode()
    painted = np.zeros(array.shape, np.uint8)
    painted[2:4, 3:5, 4:6] = 1
    first = shown.GetSegmentation().GetNthSegmentID(0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(painted, shown, first, volume)
    host.answerNext("file", str(tmp_path))
    for number in (0, 2):
        show(browser, number)
        widget.ui.useAsCaseButton.click()
    dataset = find_dataset(tmp_path)
    assert dataset.patients == {"heart_frame000": "heart", "heart_frame002": "heart"}
    for case, number in zip(dataset.cases, (0, 2)):
        np.testing.assert_array_equal(read_volume(case.image).array_kji, frames_of(array)[number])
    show(browser, 1)
    kept = slicer.util.arrayFromSegmentBinaryLabelmap(shown, shown.GetSegmentation().GetNthSegmentID(0), volume)
    np.testing.assert_array_equal(kept > 0, painted > 0)


@pytest.mark.slow
def test_this_frame_is_segmented_alone_as_any_volume(widget, array, tiny_model):
    browser, volume = add_sequence(frames_of(array))
    choose(widget, tiny_model)
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.segmentButton.click()
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    assert sequences_beside(browser) == []
    assert widget.ui.outputSelector.currentNode().GetSegmentation().GetNumberOfSegments() == 2


def test_cancel_leaves_the_scene_as_it_was(widget, tiny_model):
    frame = np.random.default_rng(0).normal(size=(60, 64, 64)).astype(np.float32)
    browser, volume = add_sequence(frames_of(frame, 40))
    ask_for_all(widget, volume, tiny_model)
    before = scene_state()
    widget.ui.segmentButton.click()
    assert host.pump(lambda: is_computing(widget), TIMEOUT_S)
    widget.ui.segmentButton.click()
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    assert widget.ui.statusLabel.text == "Cancelled; nothing was changed."
    assert scene_state() == before
    assert not temporary_folders()


def test_frames_that_change_meanwhile_get_no_segmentations(widget, array, tiny_model):
    browser, volume = add_sequence(frames_of(array))
    ask_for_all(widget, volume, tiny_model)
    widget.ui.segmentButton.click()
    frame = browser.GetMasterSequenceNode().GetNthDataNode(2)
    slicer.util.arrayFromVolume(frame)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(frame)
    before = scene_state()
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    assert "were changed meanwhile" in widget.ui.statusLabel.text
    assert scene_state() == before
    assert "were changed meanwhile" in host.messages[-1].text


def test_what_cannot_be_segmented_is_told_before_the_work(array, tiny_model):
    single = add_volume(array, MATRIX)
    with pytest.raises(InputError, match="is not a frame of a sequence"):
        startSegment(single, model=tiny_model, allFrames=True)
    moved = MATRIX.copy()
    moved[0, 3] += 1
    _browser, volume = add_sequence(frames_of(array), [MATRIX, MATRIX, moved])
    with pytest.raises(InputError, match="frame 2 of 'heart' is on another grid"):
        startSegment(volume, model=tiny_model, allFrames=True)
    with pytest.raises(InputError, match="a confidence map is made of one frame only"):
        startSegment(volume, model=tiny_model, allFrames=True, confidenceMap=True)
    with pytest.raises(InputError, match="by startSegment only"):
        segment(volume, model=tiny_model, allFrames=True)
