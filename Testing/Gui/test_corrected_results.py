"""Results that were repainted on some slices, corrected with the buttons "Complete" on the host."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from complete_fixtures import (
    complete,
    folders,  # noqa: F401 - a fixture
    go,  # noqa: F401 - a fixture
    is_idle,
    place,  # noqa: F401 - a fixture
    questions,
    wait_for_end,
    widget,  # noqa: F401 - a fixture
)
from painting_fixtures import OBLIQUE, SHAPE, image_of, masks, masks_of, tag_of
from panel_fixtures import add_volume
from train_fixtures import the_error

from SAM3DSegmentLib.bridge.completion import PAINTED as PAINTED_FILE
from SAM3DSegmentLib.bridge.completion import CompletionRequest
from SAM3DSegmentLib.bridge.scene.painting import COMPLETED_TAG, setOnlyPainted
from SAM3DSegmentLib.bridge.scene.segmentations import readDelivered, writeSegments
from SAM3DSegmentLib.card import Label
from SAM3DSegmentLib.formats.delivered import describe_slices
from SAM3DSegmentLib.formats.label_maps import read_label_map


def add_result(name="patient"):
    """A volume, and a segmentation that a model has delivered."""
    whole = masks()
    volume = add_volume(image_of(whole), OBLIQUE, name)
    labels = tuple(Label(number + 1, one, (10, 20, 30)) for number, one in enumerate(whole))
    labelsKji = sum(label.value * whole[label.name] for label in labels)
    return volume, writeSegments(labelsKji, labels, volume, None, {}, {})


def repaint(volume, result, k=5):
    """A slice of the first segment."""
    mask = masks_of(result, volume)["Left kidney"]
    mask[k, 2:9, 2:9] = 1
    segment_id = result.GetSegmentation().GetNthSegmentID(0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, result, segment_id, volume)
    return mask[k]


def notes_of(result):
    segmentation = result.GetSegmentation()
    return {segmentation.GetSegment(i).GetName(): readDelivered(segmentation.GetSegment(i)) for i in ids_of(result)}


def ids_of(result):
    return list(result.GetSegmentation().GetSegmentIDs())


def test_the_question_names_the_repainted_slices_and_the_result_is_noted_anew(place, go):
    volume, result = add_result()
    repaint(volume, result)
    complete(place, go, volume, result)
    assert place.status.text.startswith("Done")
    assert questions()[0].startswith(
        "In 'patient segmentation', 1 of 11 coronal slices was repainted since it was delivered. The slices nearby"
    )
    noted = {name: describe_slices(mask, {0: (5,)}) for name, mask in masks_of(result, volume).items()}
    assert notes_of(result) == noted
    tags = {tag_of(result.GetSegmentation().GetSegment(i), COMPLETED_TAG) for i in ids_of(result)}
    assert tags == {"1"}
    repaint(volume, result, 4)
    repaint(volume, result, 7)
    place.button.click()
    wait_for_end(place)
    tags = {tag_of(result.GetSegmentation().GetSegment(i), COMPLETED_TAG) for i in ids_of(result)}
    assert tags == {"3"}  # all that were painted so far


def test_the_child_gets_the_notes(tmp_path):
    volume, result = add_result()
    before = notes_of(result)
    repaint(volume, result)
    request = CompletionRequest.make(volume, result, "", "cpu")
    request.writeFiles(tmp_path)
    segments = read_label_map(tmp_path / PAINTED_FILE).segments
    assert {segment.name: segment.delivered for segment in segments} == before
    setOnlyPainted(result, True)  # of a painting, nothing is known between the slices
    assert CompletionRequest.make(volume, result, "", "cpu").repainted is None


def test_a_result_that_is_unchanged_is_told_without_a_question(place, go):
    volume, result = add_result()
    place.choose(volume, result)
    place.button.click()
    assert "'patient segmentation' is as it was delivered" in the_error()
    assert questions() == []
    assert is_idle(place)


def test_a_segment_that_was_added_by_hand_stays_so(tmp_path):
    volume, result = add_result()
    repaint(volume, result)
    mine = np.zeros(SHAPE, np.uint8)
    mine[:, 12:, 1:4] = 1
    segment_id = result.GetSegmentation().AddEmptySegment("", "Mine")
    slicer.util.updateSegmentBinaryLabelmapFromArray(mine, result, segment_id, volume)
    request = CompletionRequest.make(volume, result, "", "cpu")
    assert request.repainted.numbers == (5,)
    found = request.deliver((request.labelsKji, request.repainted.drawn))
    np.testing.assert_array_equal(masks_of(found, volume)["Mine"], mine)
    notes = notes_of(found)
    assert notes["Mine"] == ""
    assert notes["Left kidney"] == describe_slices(masks_of(found, volume)["Left kidney"], {0: (5,)})


@pytest.mark.slow
def test_the_real_command_corrects_a_result_and_again(place):
    volume, result = add_result()
    for k in (1, 9):
        before, slice_ = masks_of(result, volume), repaint(volume, result, k)
        place.choose(volume, result)
        place.button.click()
        wait_for_end(place)
        assert place.status.text.startswith("Done"), place.status.text
        after = masks_of(result, volume)
        np.testing.assert_array_equal(after["Left kidney"][k], slice_)
        for name, mask in after.items():
            np.testing.assert_array_equal(mask[[0, -1]], before[name][[0, -1]])
        nearby = 2 if k == 1 else 8
        assert (after["Left kidney"][nearby] != before["Left kidney"][nearby]).any()
