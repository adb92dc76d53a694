"""The button "Open next" on the host: which volume of a folder comes next, and what is chosen with it."""

from __future__ import annotations

import shutil

import pytest
import slicer
from panel_fixtures import ROOT
from train_fixtures import (
    add_case,
    add_patient,
    folders,  # noqa: F401 - a fixture
    the_error,
    widget,  # noqa: F401 - a fixture
)

import host

IMAGES = ROOT / "Testing" / "Data" / "hippocampus" / "imagesTr"


@pytest.fixture
def images(folders):
    """A folder of three MRIs, of which the second has a segmentation beside it."""
    folder = folders / "images"
    folder.mkdir()
    for name, path in zip(("a 1", "b", "c"), sorted(IMAGES.glob("*.nii.gz"))):
        shutil.copy(path, folder / f"{name}.nii.gz")
    labels = sorted((IMAGES.parent / "labelsTr").glob("*.nii.gz"))[1]
    shutil.copy(labels, folder / "b_label.nii.gz")
    return folder


def open_next(widget):
    widget.ui.openNextButton.click()
    node = widget.ui.caseVolumeSelector.currentNode()
    return node.GetName() if node is not None else None


def test_volumes_that_nobody_has_drawn_come_one_after_the_other(widget, images):
    volume, segmentation = add_patient()
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    host.answerNext("file", str(images))
    assert open_next(widget) == "a 1"
    assert widget.ui.caseSegmentationSelector.currentNode() is None
    assert widget.ui.inputSelector.currentNode() is widget.ui.caseVolumeSelector.currentNode()
    assert widget.ui.outputSelector.currentNode() is None
    assert widget.ui.caseNameEdit.text == "a 1"
    assert str(images) in widget.ui.nextFolderButton.toolTip
    assert open_next(widget) == "c"  # b has a segmentation beside it
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    assert open_next(widget) == "a 1"  # which was passed over
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes  # it was there already
    composite = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == widget.ui.caseVolumeSelector.currentNode().GetID()


def test_what_is_a_case_by_now_is_not_opened_again(widget, images):
    host.answerNext("file", str(images))
    open_next(widget)
    for name in ("a 1", "c"):
        volume = widget.ui.caseVolumeSelector.currentNode()
        assert volume.GetName() == name
        add_case(widget, *add_patient(name))
        open_next(widget)
    assert "no volume left" in widget.ui.caseStatusLabel.text
    assert str(images) in widget.ui.caseStatusLabel.text


def test_who_chooses_no_folder_opens_nothing(widget):
    host.messages.clear()
    host.answerNext("file", "")
    assert open_next(widget) is None
    assert [message.title for message in host.messages] == ["Folder of images"]


def test_a_file_that_cannot_be_read_is_told_and_passed_over(widget, images):
    (images / "a 1.nii.gz").write_bytes(b"no image")
    host.answerNext("file", str(images))
    widget.ui.openNextButton.click()
    assert "a 1.nii.gz" in the_error()
    assert open_next(widget) == "c"


def test_a_folder_that_is_gone_is_told_and_another_can_be_chosen(widget, images, folders):
    host.answerNext("file", str(images))
    widget.ui.nextFolderButton.click()
    images.rename(folders / "moved")
    widget.ui.openNextButton.click()
    assert "does not exist" in the_error()
    host.answerNext("file", str(folders / "moved"))
    widget.ui.nextFolderButton.click()
    assert open_next(widget) == "a 1"
