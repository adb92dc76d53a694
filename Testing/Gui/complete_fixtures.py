"""What the tests of the two buttons "Complete" share: both places, and a simple program that computes."""

from __future__ import annotations

import pytest
from painting_fixtures import NEAREST
from train_fixtures import MODULE, TIMEOUT_S

import host


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """The user's own folders, empty."""
    for name in ("MODELS", "WEIGHTS", "CACHE"):
        monkeypatch.setenv(f"SAM3DSEGMENT_{name}", str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    return tmp_path


@pytest.fixture
def widget(folders):
    widget = host.load_module(MODULE)[2]
    widget.ui.trainSection.collapsed = False
    return widget


@pytest.fixture
def go(use_program, tmp_path):
    """go() lets the child go on to its end; go.arguments() are those that it got, go.process() is its ID."""
    use_program(f"GO, ARGUMENTS = {str(tmp_path / 'go')!r}, {str(tmp_path / 'arguments')!r}\n{NEAREST}")

    def let_go():
        (tmp_path / "go").touch()

    let_go.arguments = lambda: (tmp_path / "arguments").read_text().partition(" ")[2]
    let_go.process = lambda: int((tmp_path / "arguments").read_text().partition(" ")[0])
    return let_go


class Results:
    """The button under Results, and what is chosen for it."""

    name = "results"

    def __init__(self, widget):
        self.button, self.status = widget.ui.completeButton, widget.ui.completeStatusLabel
        self.bar = widget.ui.completeProgressBar
        self.title = "Complete"
        self._ui = widget.ui

    def choose(self, volume, segmentation):
        self._ui.inputSelector.setCurrentNode(volume)
        self._ui.outputSelector.setCurrentNode(segmentation)

    def chosen(self):
        return self._ui.outputSelector.currentNode()


class Train:
    """The button of the second step in Train."""

    name = "train"

    def __init__(self, widget):
        self.button, self.status = widget.ui.completeCaseButton, widget.ui.caseStatusLabel
        self.bar = widget.ui.completeCaseProgressBar
        self.title = "2. Complete"
        self._ui = widget.ui

    def choose(self, volume, segmentation):
        self._ui.caseSegmentationSelector.setCurrentNode(segmentation)
        self._ui.caseVolumeSelector.setCurrentNode(volume)

    def chosen(self):
        return self._ui.caseSegmentationSelector.currentNode()


@pytest.fixture(params=[Results, Train], ids=lambda place: place.name)
def place(request, widget):
    return request.param(widget)


def begin(place, volume, segmentation):
    """Click, and wait until the child has told of its progress."""
    place.choose(volume, segmentation)
    assert place.button.enabled, place.button.toolTip
    place.button.click()
    assert place.button.text == "Cancel", place.status.text
    assert host.pump(lambda: "% done" in place.status.text or is_idle(place), TIMEOUT_S)
    assert not is_idle(place), place.status.text


def is_idle(place):
    return place.button.text == place.title


def wait_for_end(place):
    assert host.pump(lambda: is_idle(place), TIMEOUT_S), place.status.text


def complete(place, go, volume, segmentation):
    begin(place, volume, segmentation)
    go()
    wait_for_end(place)


def questions():
    return [message.text for message in host.messages if message.kind == "question"]
