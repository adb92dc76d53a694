"""The two buttons "Complete" on the host: real form, scene, files and child process; a simple program computes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import slicer
from complete_fixtures import (
    Results,
    Train,
    begin,
    complete,
    folders,  # noqa: F401 - a fixture
    go,  # noqa: F401 - a fixture
    is_idle,
    place,  # noqa: F401 - a fixture
    questions,
    wait_for_end,
    widget,  # noqa: F401 - a fixture
)
from painting_fixtures import (
    OBLIQUE,
    PAINTED,
    SHAPE,
    add_painting,
    add_segmentation,
    assert_same,
    described,
    masks,
    masks_of,
    nearest,
    painted,
    tag_of,
)
from panel_fixtures import JOB_CLASSES, add_volume, is_running, scene_state, seconds_until_gone, temporary_folders
from train_fixtures import TIMEOUT_S, the_error

import host
from SAM3DSegmentLib.bridge.completion import CompletionRequest
from SAM3DSegmentLib.bridge.scene.painting import COMPLETED_TAG, isOnlyPainted, setOnlyPainted
from SAM3DSegmentLib.bridge.scene.segmentations import referenceVolume


def filled():
    return {name: nearest(mask) for name, mask in painted(masks()).items()}


def test_the_unpainted_slices_are_filled_and_all_else_stays(place, go):
    volume, painting = add_painting()
    painting.GetSegmentation().GetNthSegment(0).SetTag("Mine", "kept")
    setOnlyPainted(painting, True)
    painting.GetSegmentation().AddEmptySegment("", "not begun")
    before, ids = described(painting), painting.GetSegmentation().GetSegmentIDs()
    complete(place, go, volume, painting)
    assert place.status.text.startswith("Done")
    assert not place.status.isHidden()
    assert place.chosen() is painting
    expected = filled()
    expected["not begun"] = np.zeros(SHAPE, np.uint8)
    assert_same(masks_of(painting, volume), expected)
    assert described(painting) == before
    assert painting.GetSegmentation().GetSegmentIDs() == ids
    assert not isOnlyPainted(painting)
    assert tag_of(painting.GetSegmentation().GetNthSegment(0), COMPLETED_TAG) == "3"
    assert questions() == [
        "The slices of 'patient painting' that are not painted will be filled; the painted ones stay as they are.\n\n"
        "Go on? Undo, in Results, brings the segmentation back."
    ]
    assert temporary_folders() == []


def test_undo_brings_the_painting_back_in_one_step(widget, place, go):
    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    before, voxels = described(painting), masks_of(painting, volume)
    complete(place, go, volume, painting)
    assert widget.ui.outputSelector.currentNode() is painting
    assert widget.ui.undoButton.enabled
    widget.ui.undoButton.click()
    assert_same(masks_of(painting, volume), voxels)
    assert described(painting) == before
    assert isOnlyPainted(painting)
    assert tag_of(painting.GetSegmentation().GetNthSegment(0), COMPLETED_TAG) is None
    assert not widget.ui.undoButton.enabled


def test_who_declines_has_changed_nothing(place, go):
    volume, painting = add_painting()
    place.choose(volume, painting)
    host.process_events()
    before = scene_state()
    host.answerNext("question", False)
    place.button.click()
    assert is_idle(place)
    assert scene_state() == before
    assert temporary_folders() == []


def test_cancel_leaves_the_scene_as_it_was(widget, place, go):
    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    voxels = masks_of(painting, volume)
    place.choose(volume, painting)
    host.process_events()
    before = scene_state()
    begin(place, volume, painting)
    assert place.bar.isVisibleTo(widget.parent)
    child = go.process()
    place.button.click()
    wait_for_end(place)
    assert place.status.text == "Cancelled; nothing was changed."
    assert not place.bar.isVisibleTo(widget.parent)
    assert scene_state() == before
    assert_same(masks_of(painting, volume), voxels)
    assert not widget.ui.undoButton.enabled
    assert seconds_until_gone(child) < 5
    assert temporary_folders() == []


def test_a_failure_is_told_once_and_leaves_the_scene_as_it_was(place, use_program):
    use_program("import sys; sys.exit('ERROR: all slices are painted.')")
    volume, painting = add_painting()
    place.choose(volume, painting)
    host.process_events()
    before = scene_state()
    place.button.click()
    wait_for_end(place)
    assert the_error() == "all slices are painted."
    assert scene_state() == before
    assert temporary_folders() == []


def test_a_failure_in_delivery_leaves_the_painting_as_it_was(widget, place, go, monkeypatch):
    from SAM3DSegmentLib.base.errors import InputError
    from SAM3DSegmentLib.bridge.scene import segmentations

    write, count = segmentations._writeMask, []

    def fail_at_second(*arguments):
        count.append(1)
        if len(count) == 2:
            raise InputError("no room.")
        write(*arguments)

    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    before, voxels = described(painting), masks_of(painting, volume)
    monkeypatch.setattr(segmentations, "_writeMask", fail_at_second)
    complete(place, go, volume, painting)
    assert the_error() == "no room."
    assert_same(masks_of(painting, volume), voxels)
    assert described(painting) == before
    assert isOnlyPainted(painting)
    assert not widget.ui.undoButton.enabled


def move(*nodes):
    """Put nodes under a transform."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.array([[0, -1, 0, 4.0], [1, 0, 0, 5.0], [0, 0, 1, 6.0], [0, 0, 0, 1]])
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())


def test_transforms_of_the_nodes_are_taken_into_account(place, go):
    """The volume is under one, and the painting, which was hardened, under none."""
    volume, painting = add_painting()
    move(volume, painting)
    painting.HardenTransform()
    complete(place, go, volume, painting)
    assert painting.GetTransformNodeID() is None
    from SAM3DSegmentLib.bridge.scene.segmentations import readMasks

    found = readMasks(volume, painting, list(painting.GetSegmentation().GetSegmentIDs()))
    assert_same(dict(zip(masks(), found.values())), filled())


def test_a_cropped_segmentation_is_filled(place, go, tmp_path):
    """As after saving and loading, which crops it to what it shows."""
    volume, painting = add_painting()
    slicer.util.saveNode(painting, str(tmp_path / "painting.seg.nrrd"))
    slicer.mrmlScene.RemoveNode(painting)
    loaded = slicer.util.loadSegmentation(str(tmp_path / "painting.seg.nrrd"))
    complete(place, go, volume, loaded)
    assert_same(masks_of(loaded, volume), filled())


def test_a_painting_on_another_grid_is_refused(place, go):
    volume, _ = add_painting()
    fine = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1])
    array = masks()["Left kidney"].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    grid = add_volume(np.zeros(array.shape, np.int16), fine, "fine")
    painting = add_segmentation(grid, {"Left kidney": array})
    role = painting.GetReferenceImageGeometryReferenceRole()
    painting.SetNodeReferenceID(role, None)
    place.choose(volume, painting)
    place.button.click()
    assert "segment 'Left kidney' is not on the voxels of 'patient'" in the_error()
    assert is_idle(place)


def test_the_painting_of_another_volume_is_refused(widget, go):
    (_first, painting), (second, _) = add_painting("A"), add_painting("B")
    place = Train(widget)
    place.choose(second, painting)
    place.button.click()
    assert "'A painting' belongs to the volume 'A', and not to 'B'; choose that volume" in the_error()


def test_what_is_empty_or_overlaps_is_refused(place, go):
    volume, _ = add_painting()
    nothing = add_segmentation(volume, {"Left kidney": np.zeros(SHAPE, np.uint8)})
    place.choose(volume, nothing)
    place.button.click()
    assert "no chosen segment has voxels" in the_error()
    two = add_segmentation(volume, {"a": masks()["Left kidney"]})
    two.GetSegmentation().AddEmptySegment("b", "A ")
    slicer.util.updateSegmentBinaryLabelmapFromArray(masks()["Right kidney"], two, "b", volume)
    place.choose(volume, two)
    place.button.click()
    assert "two segments are named" in the_error()
    assert is_idle(place)


def turn(volume, painting):
    move(volume)


def redraw(volume, painting):
    slicer.util.arrayFromVolume(volume)[1, 2, 3] += 1
    slicer.util.arrayFromVolumeModified(volume)


def remove_volume(volume, painting):
    slicer.mrmlScene.RemoveNode(volume)


def remove_painting(volume, painting):
    slicer.mrmlScene.RemoveNode(painting)


CHANGES = {
    turn: "the image or the place of 'patient' was changed meanwhile; complete again.",
    redraw: "the image or the place of 'patient' was changed meanwhile; complete again.",
    remove_volume: "the volume or the segmentation was removed from the scene meanwhile; complete again.",
    remove_painting: "the volume or the segmentation was removed from the scene meanwhile; complete again.",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changed_meanwhile_gets_no_result(place, go, change):
    volume, painting = add_painting()
    voxels = masks_of(painting, volume)
    begin(place, volume, painting)
    change(volume, painting)
    go()
    wait_for_end(place)
    assert the_error() == CHANGES[change]
    if painting.GetScene() is not None and volume.GetScene() is not None:
        volume.SetAndObserveTransformNodeID(None)
        assert_same(masks_of(painting, volume), voxels)


def paint_more(volume, painting):
    segment_id = painting.GetSegmentation().GetNthSegmentID(0)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(painting, segment_id, volume).copy()
    mask[4, 4, 3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, painting, segment_id, volume)


def paint_another(volume, painting):
    painting.GetSegmentation().AddEmptySegment("new", "new")
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, 0] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, painting, "new", volume)


def remove_one(volume, painting):
    painting.GetSegmentation().RemoveSegment(painting.GetSegmentation().GetNthSegmentID(0))


@pytest.mark.parametrize("edit", [paint_more, paint_another, remove_one], ids=lambda edit: edit.__name__)
def test_a_painting_that_was_edited_meanwhile_stays_and_the_result_is_in_a_new_one(place, go, edit):
    volume, painting = add_painting()
    before = described(painting)
    begin(place, volume, painting)
    edit(volume, painting)
    edited = masks_of(painting, volume)
    go()
    wait_for_end(place)
    assert "edited meanwhile" in place.status.text
    assert_same(masks_of(painting, volume), edited)
    completed = place.chosen()
    assert completed is not painting
    assert completed.GetName() == "patient painting completed"
    assert referenceVolume(completed) is volume
    assert_same(masks_of(completed, volume), filled())
    assert [(name, color) for name, color, *_ in described(completed).values()] == [
        (name, color) for name, color, *_ in before.values()
    ]


def test_another_patient_may_be_chosen_meanwhile(widget, place, go):
    (first, painting), (second, other) = add_painting("A"), add_painting("B", 1)
    untouched = masks_of(other, second)
    begin(place, first, painting)
    place.choose(second, other)
    go()
    wait_for_end(place)
    assert place.chosen() is other
    assert_same(masks_of(painting, first), filled())
    assert_same(masks_of(other, second), untouched)


def test_a_scene_that_is_closed_meanwhile_gets_nothing(place, go):
    begin(place, *add_painting())
    child = go.process()
    slicer.mrmlScene.Clear()
    assert is_idle(place)
    assert place.status.text == "Cancelled; nothing was changed."
    assert not is_running(child)
    assert temporary_folders() == []
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None
    assert not place.button.enabled


def test_one_thing_is_done_at_a_time(widget, place, go):
    other = next(kind(widget) for kind in (Results, Train) if kind.name != place.name)
    volume, painting = add_painting()
    other.choose(volume, painting)
    begin(place, volume, painting)
    for button in (other.button, widget.ui.segmentButton, widget.ui.addAndTrainButton):
        assert not button.enabled
        assert button.toolTip == "A segmentation is being completed."
    go()
    wait_for_end(place)
    assert other.button.enabled
    assert widget.ui.segmentButton.enabled


def test_nothing_is_completed_while_a_volume_is_segmented(widget, place, go, use_program):
    place.choose(*add_painting())
    use_program("import sys; print('{}', flush=True); sys.stdin.read(); sys.exit(130)")
    widget.ui.inputSelector.setCurrentNode(add_painting()[0])
    widget.ui.segmentButton.click()
    place.choose(*add_painting())
    assert not place.button.enabled
    assert place.button.toolTip == "A volume is being segmented."
    widget.ui.segmentButton.click()
    assert host.pump(lambda: place.button.enabled, TIMEOUT_S)


@pytest.mark.slow
def test_a_model_is_given_if_its_labels_are_those_of_the_painting(widget, folders, go, tiny_model):
    place = Results(widget)
    shutil.copy(tiny_model, folders / "models" / "tiny.sam3d")
    volume, painting = add_painting()
    complete(place, go, volume, painting)
    assert go.arguments() == "--progress json --device auto"
    own = painted(masks())
    inside = add_segmentation(volume, {"inside": own["Left kidney"], "Outside": own["Right kidney"]})
    complete(place, go, volume, inside)
    assert "--model" not in go.arguments()
    widget.logic.getParameterNode().model = "tiny"
    inside = add_segmentation(volume, {"inside": own["Left kidney"], "Outside": own["Right kidney"]})
    complete(place, go, volume, inside)
    assert go.arguments() == f"--progress json --device auto --model {folders / 'models' / 'tiny.sam3d'}"
    one = add_segmentation(volume, {"inside": own["Left kidney"]})
    complete(place, go, volume, one)
    assert "--model" not in go.arguments()


def test_segments_of_what_is_known_stay_as_they_are(place, go):
    volume, painting = add_painting()
    known = np.zeros(SHAPE, np.uint8)
    known[10, 2:4, 2:4] = 1
    segment_id = painting.GetSegmentation().AddEmptySegment("", "empty")
    slicer.util.updateSegmentBinaryLabelmapFromArray(known, painting, segment_id, volume)
    complete(place, go, volume, painting)
    np.testing.assert_array_equal(masks_of(painting, volume)["empty"], known)
    assert tag_of(painting.GetSegmentation().GetSegment(segment_id), COMPLETED_TAG) is None


def test_what_nobody_knows_is_not_filled(tmp_path):
    """The command fills it, too; then it would overlap, and could not be a case."""
    from SAM3DSegmentLib.bridge.completion import COMPLETED
    from SAM3DSegmentLib.formats.label_maps import write_labels
    from SAM3DSegmentLib.formats.volumes import Volume

    volume, painting = add_painting()
    unknown = np.zeros(SHAPE, np.uint8)
    unknown[5, 9:13, 1:5] = 1
    segment_id = painting.GetSegmentation().AddEmptySegment("", "Ignore")
    slicer.util.updateSegmentBinaryLabelmapFromArray(unknown, painting, segment_id, volume)
    request = CompletionRequest.make(volume, painting, "", "cpu")
    everywhere = np.full(SHAPE, 1, np.uint8)
    source = Volume(request.arrayKji, request.ijkToWorld, tmp_path)
    write_labels(tmp_path / COMPLETED, everywhere, source, request.labels[:1])
    request.deliver(request.readFiles(tmp_path))
    found = masks_of(painting, volume)
    np.testing.assert_array_equal(found["Left kidney"], 1 - unknown)
    np.testing.assert_array_equal(found["Ignore"], unknown)


@pytest.mark.slow
def test_nothing_is_kept_after_the_end(place, go):
    volume, painting = add_painting()
    complete(place, go, volume, painting)
    setOnlyPainted(painting, True)  # else there would be nothing to correct
    begin(place, volume, painting)
    place.button.click()
    wait_for_end(place)
    host.process_events()
    for name in (*JOB_CLASSES, "SceneJob", "CompletionRequest"):
        assert host.objects_alive(name) == []


@pytest.mark.slow
def test_the_real_command_fills_the_slices(place):
    volume, painting = add_painting()
    setOnlyPainted(painting, True)
    place.choose(volume, painting)
    place.button.click()
    wait_for_end(place)
    assert place.status.text.startswith("Done"), place.status.text
    known = np.isin(np.arange(SHAPE[0]), PAINTED)
    for name, mask in masks_of(painting, volume).items():
        truth = masks()[name]
        np.testing.assert_array_equal(mask[known], truth[known])
        assert 2 * np.count_nonzero(mask & truth) / (mask.sum() + truth.sum()) > 0.9
        assert mask[~known].any()


@pytest.mark.slow
def test_what_the_real_command_refuses_is_told(place):
    volume, _ = add_painting()
    whole = add_segmentation(volume, {"Left kidney": masks()["Left kidney"]})
    before = masks_of(whole, volume)
    place.choose(volume, whole)
    place.button.click()
    wait_for_end(place)
    assert "leaves nothing to fill" in the_error()
    assert_same(masks_of(whole, volume), before)
