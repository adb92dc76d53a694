"""The section "Folder" on the host: real form, folders and child processes, on images that are done at once."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import slicer
from panel_fixtures import STOP_S, is_running

import host

ROOT = Path(__file__).resolve().parents[2]
MODULE = Path(os.environ.get("SAM3DSEGMENT_MODULE", ROOT / "SAM3DSegment")) / "SAM3DSegment.py"
SAMPLE = MODULE.parent / "Resources" / "SampleData" / "hippocampus_015.nii.gz"
TIMEOUT_S = 180

# Stands in for the command line: it has done one of three volumes, and goes on until it is told to stop.
HALF = """
import sys
print('{"process_id": %d}' % __import__("os").getpid())
for done in (0, 1):
    print('{"event": "volumes", "done": %d, "total": 3, "failed": 0}' % done)
print('{"stage": "encode", "done": 1, "total": 4, "eta_s": 7.5}', flush=True)
sys.stdin.read()
sys.exit(130)
"""


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("MODELS", "WEIGHTS", "CACHE"):
        monkeypatch.setenv(f"SAM3DSEGMENT_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        shutil.copy(SAMPLE, tmp_path / "in" / f"{name}.nii.gz")
    return tmp_path


@pytest.fixture
def widget(folders, tiny_model):
    widget = host.load_module(MODULE)[2]
    widget.ui.folderSection.collapsed = False
    widget.logic.getParameterNode().model = tiny_model
    choose(widget.ui.chooseImagesFolderButton, folders / "in")
    choose(widget.ui.chooseResultsFolderButton, folders / "new" / "out")
    return widget


def choose(button, folder):
    host.answerNext("file", str(folder))
    button.click()


def is_idle(widget):
    return widget.ui.folderButton.text == "Segment folder"


def run(widget):
    widget.ui.folderButton.click()
    assert not is_idle(widget), widget.ui.folderStatusLabel.text
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S), widget.ui.folderStatusLabel.text
    return widget.ui.folderStatusLabel.text


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_folder_becomes_masks_a_table_and_a_page(widget, folders):
    ui, out = widget.ui, folders / "new" / "out"
    assert not ui.folderPageButton.enabled
    assert not ui.folderTableButton.enabled
    ui.folderTreeBox.checked = True
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    assert run(widget) == "Done: 2 volumes were segmented."
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes
    found = files(out)
    assert {"a.seg.nrrd", "sub/b.seg.nrrd", "qc.html", "volumes.csv", "report.json"} <= set(found)
    assert sum(name.endswith(".jpg") for name in found) == 2
    for button, name in ((ui.folderPageButton, "qc.html"), (ui.folderTableButton, "volumes.csv")):
        button.click()
        assert host.openedUrls[-1] == (out / name).as_uri()
    assert run(widget) == "Done: all results were there already."


def test_the_folders_are_remembered_and_the_model_is_that_of_segment(widget, folders):
    host.unload_all()
    again = host.load_module(MODULE)[2]
    assert again.ui.folderImagesLabel.text == (folders / "in").as_posix()
    assert again.ui.folderResultsLabel.text == (folders / "new" / "out").as_posix()
    again.ui.folderModelBox.currentIndex = again.ui.folderModelBox.findData("hippocampus-mri")
    assert again.logic.getParameterNode().model == "hippocampus-mri"
    again.logic.getParameterNode().model = "nothing"
    assert again.ui.folderModelBox.itemData(again.ui.folderModelBox.currentIndex) == "nothing"
    assert not again.ui.folderButton.enabled
    assert "nothing" in again.ui.folderButton.toolTip


def test_the_button_says_what_is_needed_first(folders):
    ui = host.load_module(MODULE)[2].ui
    ui.folderSection.collapsed = False
    assert ui.folderButton.toolTip == "Choose the folder of the images first."
    choose(ui.chooseImagesFolderButton, folders / "in")
    assert ui.folderButton.toolTip == "Choose the folder for the results first."
    choose(ui.chooseResultsFolderButton, folders / "out")
    assert ui.folderButton.enabled
    shutil.rmtree(folders / "in")
    ui.folderSection.collapsed = True
    ui.folderSection.collapsed = False
    assert ui.folderButton.toolTip == "Choose the folder of the images first."


def test_what_failed_is_told_once_and_the_rest_is_done(widget, folders):
    (folders / "in" / "broken.nii.gz").write_bytes(b"no image")
    status = run(widget)
    assert status.startswith("Failed: 1 of 2 volumes; the page says why. The last: ")
    assert "broken.nii.gz" in status
    assert "a.seg.nrrd" in files(folders / "new" / "out")
    assert widget.ui.folderPageButton.enabled


def test_progress_counts_volumes_and_cancel_keeps_what_is_done(widget, use_program):
    use_program(HALF)
    ui = widget.ui
    ui.folderButton.click()
    assert host.pump(lambda: "25 %" in ui.folderStatusLabel.text, TIMEOUT_S), ui.folderStatusLabel.text
    assert ui.folderStatusLabel.text == "1 of 3 volumes; this one: 25 % done, about 8 s to go"
    assert (ui.folderProgressBar.value, ui.folderProgressBar.maximum) == (125, 300)
    assert not ui.chooseImagesFolderButton.enabled
    assert not ui.segmentButton.enabled
    assert not ui.trainButton.enabled
    slicer.mrmlScene.Clear()
    assert not is_idle(widget)  # which no node is part of
    ui.folderButton.click()
    assert host.pump(lambda: is_idle(widget), STOP_S)
    assert ui.folderStatusLabel.text == "Cancelled; the volumes that are done stay."
    assert ui.chooseImagesFolderButton.enabled


def test_a_killed_child_is_told(widget, use_program):
    use_program(HALF)
    widget.ui.folderButton.click()
    assert host.pump(lambda: "25 %" in widget.ui.folderStatusLabel.text, TIMEOUT_S)
    os.kill(widget.panel._folder._box._job.childId(), signal.SIGKILL)
    assert host.pump(lambda: is_idle(widget), STOP_S)
    assert "was stopped from outside" in widget.ui.folderStatusLabel.text
    assert "stopped from outside" in host.messages[-1].text


def test_closing_the_module_stops_the_child(widget, use_program):
    use_program(HALF)
    widget.ui.folderButton.click()
    assert host.pump(lambda: "25 %" in widget.ui.folderStatusLabel.text, TIMEOUT_S)
    child = widget.panel._folder._box._job.childId()
    host.unload_all()
    assert not is_running(child)
