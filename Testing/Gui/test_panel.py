"""The module's panel on the host: the real form, scene, child process and bundled model."""

from __future__ import annotations

import hashlib
import html
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import slicer
import vtk
from panel_fixtures import STOP_S, add_volume, is_running, put_published_weights, temporary_folders

import host
import qt
from web_server import Server

ROOT = Path(__file__).resolve().parents[2]
# To test an installed module, point this at it.
MODULE = Path(os.environ.get("SAM3DSEGMENT_MODULE", ROOT / "SAM3DSegment")) / "SAM3DSegment.py"
SAMPLE = MODULE.parent / "Resources" / "SampleData" / "hippocampus_015.nii.gz"
DEFAULT_MODEL = "hippocampus-mri"
LABELS = ["Anterior hippocampus", "Posterior hippocampus"]
TIMEOUT_S = 180


@pytest.fixture
def widget():
    return host.load_module(MODULE)[2]


@pytest.fixture
def volume():
    return slicer.util.loadVolume(str(SAMPLE))


class Watch:
    """Measures how long the event loop was not running, with a timer of 10 ms."""

    def __init__(self):
        self.longest_ms, self._last = 0.0, time.monotonic()
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._tick)
        self._timer.start(10)

    def _tick(self):
        now = time.monotonic()
        self.longest_ms, self._last = max(self.longest_ms, (now - self._last) * 1000), now


def is_idle(widget):
    return widget.ui.segmentButton.text == "Segment"


def is_computing(widget):
    return widget.ui.progressBar.maximum > 0 and widget.ui.progressBar.value > 0


def masks_of(node, volume):
    """Name -> voxels (K, J, I) on the volume's grid."""
    segmentation = node.GetSegmentation()
    return {
        segmentation.GetSegment(i).GetName(): slicer.util.arrayFromSegmentBinaryLabelmap(node, i, volume)
        for i in segmentation.GetSegmentIDs()
    }


def scene_state():
    """IDs and modification times of all nodes but the panel's own parameters."""
    nodes = [slicer.mrmlScene.GetNthNode(i) for i in range(slicer.mrmlScene.GetNumberOfNodes())]
    return {node.GetID(): node.GetMTime() for node in nodes if not node.IsA("vtkMRMLScriptedModuleNode")}


def ask_for_confidence(widget):
    widget.ui.advancedBox.collapsed = False
    widget.ui.confidenceBox.click()


def choose(widget, model):
    widget.logic.getParameterNode().model = model


def segment(widget, volume, model=DEFAULT_MODEL):
    choose(widget, model)
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.segmentButton.click()
    assert not is_idle(widget)
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S), widget.ui.statusLabel.text
    return widget.ui.outputSelector.currentNode()


WITHOUT_TORCH = """
import sys
sys.path.insert(0, sys.argv[1])
import host
host.install()
import slicer
widget = host.load_module(sys.argv[2])[2]
assert "torch" not in sys.modules, "opening the panel"
assert "SimpleITK" not in sys.modules, "opening the panel"
volume = slicer.util.loadVolume(sys.argv[3])
ended = []
widget.logic.startSegment(volume, model=sys.argv[4], onFinished=ended.append, onFailed=ended.append)
assert host.pump(lambda: ended, 180)
assert ended[0].IsA("vtkMRMLSegmentationNode"), ended
assert "torch" not in sys.modules, "segmenting in a child"
host.unload_all()
"""


OBSERVED_FOR_EVER = """
import gc, sys
sys.path.insert(0, sys.argv[1])
import host
host.install()
import slicer
widget = host.load_module(sys.argv[2])[2]
node_id = widget.logic.getParameterNode().parameterNode.GetID()
slicer.mrmlScene.Clear()


def collect():
    # Without a reference to the node here, which would keep alive what it calls.
    gc.collect()
    slicer.mrmlScene.GetNodeByID(node_id).Modified()


collect()
widget.onReload()
del widget
collect()
host.unload_all()
collect()
print("still there")
"""


def test_a_parameter_node_that_is_observed_for_ever_calls_nobody_who_is_gone():
    """Slicer 5.10 does not remove the observer; a crash would end the process."""
    command = [sys.executable, "-c", OBSERVED_FOR_EVER, ROOT / "Testing" / "Host", MODULE]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.stdout.endswith("still there\n"), result.stderr


@pytest.mark.slow
def test_neither_the_panel_nor_a_child_brings_torch_into_slicer(tiny_model):
    """In a process of its own, because other tests import torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, ROOT / "Testing" / "Host", MODULE, SAMPLE, tiny_model]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_one_click_segments_and_the_event_loop_never_stalls(widget, volume):
    widget.ui.inputSelector.setCurrentNode(volume)
    ask_for_confidence(widget)
    assert widget.ui.segmentButton.enabled
    assert "168 cases" in widget.ui.modelCardLabel.text
    assert not widget.ui.warningLabel.isVisibleTo(widget.parent)
    assert host.pump(lambda: True, 1)
    watch, seen = Watch(), set()
    widget.ui.segmentButton.click()
    assert widget.ui.segmentButton.text == "Cancel"
    assert not widget.ui.inputSelector.enabled

    def finished():
        seen.add(widget.ui.progressBar.value)
        return is_idle(widget)

    assert host.pump(finished, TIMEOUT_S), widget.ui.statusLabel.text
    assert len(seen) > 2
    stalls_ms = [watch.longest_ms]
    while min(stalls_ms) >= 200 and len(stalls_ms) < 6:  # a busy machine may stall once; what we do stalls every time
        watch = Watch()
        segment(widget, volume)
        stalls_ms.append(watch.longest_ms)
    assert min(stalls_ms) < 200

    node = widget.ui.outputSelector.currentNode()
    masks = masks_of(node, volume)
    assert list(masks) == LABELS
    truth = slicer.util.arrayFromVolume(slicer.util.loadVolume(str(SAMPLE).replace(".nii.gz", "_label.nii.gz")))
    for value, mask in enumerate(masks.values(), start=1):
        overlap = 2 * np.count_nonzero((mask > 0) & (truth == value))
        assert overlap / (np.count_nonzero(mask) + np.count_nonzero(truth == value)) > 0.75
    table = widget.ui.resultsTable
    assert [table.item(row, 1).text() for row in range(2)] == LABELS
    assert float(table.item(0, 2).text()) == pytest.approx(np.count_nonzero(masks[LABELS[0]]) / 1000, abs=0.01)
    assert table.item(0, 3).text().endswith(" %")
    confidence = slicer.util.arrayFromVolume(slicer.util.getNode("hippocampus_015 confidence"))
    assert confidence.shape == truth.shape
    assert 30 < confidence.max() <= 100


def test_warnings_come_before_the_run(widget):
    array = np.zeros((20, 40, 40), np.int16)
    array[5:] = -1000
    matrix = np.diag([6.0, 6.0, 6.0, 1.0])
    widget.ui.inputSelector.setCurrentNode(slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name="CT"))
    text = widget.ui.warningLabel.text
    assert "as in a CT" in text
    assert "spacing" in text
    assert "It covers" in text
    colour = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "RGB")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    widget.ui.inputSelector.setCurrentNode(colour)
    assert "3 values per voxel" in widget.ui.warningLabel.text


def test_a_region_of_the_right_size_silences_the_warning_about_size(widget):
    array = np.random.default_rng(0).integers(0, 200, (120, 120, 120)).astype(np.int16)
    widget.ui.inputSelector.setCurrentNode(slicer.util.addVolumeFromArray(array, name="head"))
    assert "It covers" in widget.ui.warningLabel.text
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetSize(36, 50, 36)
    roi.SetCenter(-60, -60, 60)
    widget.ui.roiSelector.setCurrentNode(roi)
    assert not widget.ui.warningLabel.text


def test_a_region_that_is_drawn_later_is_followed(widget, volume):
    widget.ui.inputSelector.setCurrentNode(volume)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    widget.ui.roiSelector.setCurrentNode(roi)
    assert "region 'box' has no size yet; draw it in a slice view." in html.unescape(widget.ui.warningLabel.text)
    widget.ui.segmentButton.click()
    assert "has no size yet" in host.messages[-1].text
    bounds = np.zeros(6)
    volume.GetRASBounds(bounds)
    roi.SetCenter(*bounds.reshape(3, 2).mean(1))
    roi.SetSize(*np.ptp(bounds.reshape(3, 2), axis=1))
    assert host.pump(lambda: not widget.ui.warningLabel.text, 5)
    roi.SetSize(3, 50, 36)
    assert host.pump(lambda: "It covers" in widget.ui.warningLabel.text, 5)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    roi.SetSize(*np.ptp(bounds.reshape(3, 2), axis=1))
    roi.SetAndObserveTransformNodeID(transform.GetID())
    assert host.pump(lambda: not widget.ui.warningLabel.text, 5)
    matrix = np.diag([0.05, 1, 1, 1])
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    assert host.pump(lambda: widget.ui.warningLabel.text, 5)


def test_neither_a_hidden_volume_nor_a_label_map_is_chosen_at_the_start(widget, add_volume):
    hidden, shown = add_volume("hidden"), None
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    widget.panel.enter()
    assert widget.logic.getParameterNode().inputVolume is None
    shown = add_volume("shown")
    widget.panel.enter()
    assert widget.ui.inputSelector.currentNode() is shown


HTML = '<img src="file:///x"> & <a href="http://x">y</a>'


def test_texts_of_files_are_shown_as_they_are(widget, volume):
    """A name may look like HTML, which Qt's labels, boxes and tool tips would render."""
    for label in widget.parent.findChildren(qt.QLabel):
        if label.objectName.endswith("Label") and not label.buddy():
            assert label.textFormat != qt.Qt.AutoText or label.text, label.objectName
    for label in (widget.ui.statusLabel, widget.ui.casesLabel, widget.ui.provenanceLabel, widget.ui.encoderLabel):
        assert label.textFormat == qt.Qt.PlainText
    widget.ui.inputSelector.setCurrentNode(volume)
    choose(widget, f"{HTML}.sam3d")
    assert not widget.ui.segmentButton.enabled
    assert "&lt;img src=" in widget.ui.segmentButton.toolTip
    assert "&lt;img src=" in widget.ui.modelCardLabel.text
    choose(widget, DEFAULT_MODEL)
    volume.SetName(HTML)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    widget.ui.segmentButton.enabled = True
    widget.ui.segmentButton.click()
    [message] = host.messages
    assert message.text.startswith("<p>")
    assert "<img" not in message.text
    assert HTML in html.unescape(message.text)
    assert HTML in widget.ui.statusLabel.text


def test_a_long_path_does_not_widen_the_panel(widget, monkeypatch):
    from SAM3DSegmentLib.bridge.panel import setup_section

    folder = pathlib.PureWindowsPath("C:\\Users\\somebody") / "\\".join(["a long name of a folder"] * 6)
    monkeypatch.setattr(setup_section, "models_folder", lambda: folder)
    monkeypatch.setattr(setup_section, "samWeights", lambda _encoder: pathlib.Path(str(folder)))
    widget.ui.trainSection.collapsed = False
    widget.ui.setupSection.collapsed = False
    assert widget.ui.modelFolderLabel.text.startswith("C:/Users/somebody/a long")
    widget.parent.show()
    host.process_events()
    before = widget.parent.minimumSizeHint.width()
    for label in (widget.ui.statusLabel, widget.ui.trainingStatusLabel, widget.ui.setupStatusLabel):
        label.text = "C:\\" + "x" * 300
    host.process_events()
    assert widget.parent.minimumSizeHint.width() == before


def test_a_chosen_checkpoint_is_for_the_encoder_that_it_was_chosen_for():
    from SAM3DSegmentLib.bridge.preferences import samCheckpoint, setSamCheckpoint

    setSamCheckpoint("/weights/sam_vit_b.pth")
    assert samCheckpoint() == samCheckpoint("sam_vit_b") == "/weights/sam_vit_b.pth"
    assert samCheckpoint("sam_vit_l") is None
    assert samCheckpoint("/models/mine.sam3d") is None
    setSamCheckpoint("/weights/mine.safetensors", "medsam_vit_b")
    assert samCheckpoint("medsam_vit_b") == "/weights/mine.safetensors"
    assert samCheckpoint() == "/weights/sam_vit_b.pth"
    setSamCheckpoint(None, "medsam_vit_b")
    assert samCheckpoint("medsam_vit_b") is None


def test_setup_says_where_an_encoder_is_from_and_offers_it_once_it_is_chosen(widget, tmp_path):
    """MedSAM's weights have no known hash: they are chosen, not downloaded, and never taken for SAM's."""
    from SAM3DSegmentLib.bridge.panel.training_request import TrainingRequest

    ui = widget.ui
    ui.setupSection.collapsed = False
    assert "sam_vit_b_01ec64.pth" in ui.weightsLabel.text
    assert ui.downloadWeightsButton.text == "Download (375 MB)"
    ui.weightsEncoderBox.currentIndex = ui.weightsEncoderBox.findData("medsam_vit_b")
    for part in ("medsam_vit_b.pth", "https://github.com/bowang-lab/MedSAM", "Apache-2.0"):
        assert part in ui.weightsLabel.text
    assert not ui.downloadWeightsButton.enabled
    assert "hash" in ui.downloadWeightsButton.toolTip
    assert ui.encoderBox.findText("MedSAM ViT-B") < 0
    chosen = tmp_path / "model.safetensors"
    chosen.write_bytes(b"weights")
    host.answerNext("file", str(chosen))
    ui.chooseWeightsButton.click()
    assert str(chosen) in ui.weightsLabel.text
    assert not ui.verifyWeightsButton.enabled
    ui.encoderBox.currentIndex = ui.encoderBox.findText("MedSAM ViT-B")
    assert "MedSAM's, as it was published (Apache-2.0)" in ui.encoderLabel.text
    request = TrainingRequest("mine", tmp_path, "medsam_vit_b", 1.0, "cpu")
    assert request.checkArguments()[-5:-3] == ["--sam-checkpoint", str(chosen)]
    ui.removeWeightsButton.click()
    assert chosen.exists()
    assert ui.encoderBox.findText("MedSAM ViT-B") < 0


def test_results_lead_on_to_the_segment_editor_and_3d(widget, volume):
    node = segment(widget, volume)
    host.mouse_click(widget.ui.show3DButton)
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
    widget.ui.editButton.click()
    assert host.selectedModules == ["SegmentEditor"]
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    assert editor.segmentationNode() is node
    assert editor.sourceVolumeNode() is volume


def test_everything_survives_saving_and_loading_the_scene(widget, volume, tiny_model, tmp_path):
    node = segment(widget, volume, tiny_model)
    ask_for_confidence(widget)
    masks, provenance = masks_of(node, volume), node.GetAttribute("SAM3DSegment.ModelSha256")
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    assert widget.ui.resultsTable.rowCount == 0
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    loaded = slicer.util.getNode("hippocampus_015 segmentation")
    assert widget.ui.inputSelector.currentNode() is slicer.util.getNode("hippocampus_015")
    assert widget.ui.outputSelector.currentNode() is loaded
    assert widget.ui.confidenceBox.checked
    assert loaded.GetAttribute("SAM3DSegment.ModelSha256") == provenance
    assert len(provenance) == 64
    for name, mask in masks_of(loaded, slicer.util.getNode("hippocampus_015")).items():
        np.testing.assert_array_equal(mask, masks[name])
    table = widget.ui.resultsTable
    assert [table.item(row, 1).text() for row in range(table.rowCount)] == list(masks)


@pytest.mark.slow
def test_check_my_computer_measures_and_lists_devices(widget, volume, tiny_model, tmp_path, monkeypatch):
    choose(widget, tiny_model)
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path))
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.setupSection.collapsed = False
    widget.ui.checkButton.click()
    assert host.pump(lambda: widget.ui.checkLabel.text, TIMEOUT_S)
    text = widget.ui.checkLabel.text
    assert "s per slice" in text
    assert "hippocampus_015 will take" in text
    devices = [widget.ui.deviceBox.itemData(i) for i in range(widget.ui.deviceBox.count)]
    assert devices[:2] == ["auto", "cpu"]
    assert widget.ui.checkButton.enabled
    assert not widget.ui.verifyWeightsButton.enabled  # there is nothing to verify


def test_setup_forgets_a_chosen_checkpoint_and_verifies_it(widget, tmp_path):
    widget.ui.setupSection.collapsed = False
    assert widget.ui.packagesLabel.text == "All packages are installed."
    checkpoint = tmp_path / "sam_vit_b_01ec64.pth"
    checkpoint.write_bytes(b"not a checkpoint")
    host.answerNext("file", str(checkpoint))
    widget.ui.chooseWeightsButton.click()
    assert str(checkpoint) in widget.ui.weightsLabel.text
    widget.ui.verifyWeightsButton.click()
    assert host.pump(lambda: [m for m in host.messages if m.kind == "error"], TIMEOUT_S)
    assert "SHA-256" in host.messages[-1].text
    widget.ui.removeWeightsButton.click()
    assert str(checkpoint) not in widget.ui.weightsLabel.text
    assert checkpoint.exists()


def computing_process(widget):
    """The process id of the child that computes, once its progress is shown."""
    assert host.pump(lambda: is_computing(widget), TIMEOUT_S), widget.ui.statusLabel.text
    [process_id] = host.child_processes()
    return process_id


@pytest.fixture
def busy(widget, tiny_model):
    """The panel while it computes, for longer than any test waits."""
    array = np.random.default_rng(0).normal(size=(5000, 40, 40)).astype(np.float32)
    choose(widget, tiny_model)
    widget.ui.inputSelector.setCurrentNode(add_volume(array, np.eye(4)))
    widget.ui.segmentButton.click()
    return widget


def test_cancel_leaves_the_scene_as_it_was(busy):
    before, process_id = scene_state(), computing_process(busy)
    began = time.monotonic()
    busy.ui.segmentButton.click()
    assert busy.ui.statusLabel.text == "Cancelling..."
    assert host.pump(lambda: is_idle(busy), TIMEOUT_S)
    assert time.monotonic() - began < STOP_S
    assert not is_running(process_id)
    assert "Cancelled" in busy.ui.statusLabel.text
    assert scene_state() == before
    assert not temporary_folders()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_child_is_an_error_and_the_scene_stays(busy):
    before, process_id = scene_state(), computing_process(busy)
    os.kill(process_id, signal.SIGKILL)
    assert host.pump(lambda: is_idle(busy), TIMEOUT_S)
    assert scene_state() == before
    [message] = host.messages
    assert message.kind == "error"
    assert "memory" in message.text


def test_closing_the_scene_while_it_runs_stops_the_child(busy):
    process_id = computing_process(busy)
    began = time.monotonic()
    slicer.mrmlScene.Clear()
    assert is_idle(busy)
    assert time.monotonic() - began < STOP_S
    assert not is_running(process_id)
    assert not temporary_folders()


def test_closing_the_module_while_it_runs_stops_the_child(busy):
    process_id = computing_process(busy)
    began = time.monotonic()
    host.unload_all()
    assert time.monotonic() - began < STOP_S
    assert not is_running(process_id)
    assert not temporary_folders()


def test_an_error_of_the_child_is_told_in_its_own_words(widget, volume, tiny_model):
    choose(widget, tiny_model)
    widget.logic.getParameterNode().device = "cuda:7"
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.segmentButton.click()
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    assert "'cuda:7' is not available" in host.messages[-1].text
    assert "cuda:7" in widget.ui.statusLabel.text


def choose_quality(widget, title):
    widget.ui.advancedBox.collapsed = False
    widget.ui.qualityBox.setCurrentText(title)


def test_the_chosen_quality_is_computed_and_told_with_the_result(widget, volume, tiny_model):
    assert widget.ui.qualityBox.currentText == "Best"
    choose_quality(widget, "Fast")
    node = segment(widget, volume, tiny_model)
    assert node.GetAttribute("SAM3DSegment.Quality") == "fast"
    assert "with fast quality" in widget.ui.provenanceLabel.text
    node.RemoveAttribute("SAM3DSegment.Quality")  # as in a scene of a version that had no choice
    widget.panel.enter()
    assert "with best quality" in widget.ui.provenanceLabel.text


def test_what_automatic_chooses_is_told_until_the_end(widget, tiny_model):
    array = np.random.default_rng(0).normal(size=(600, 40, 40)).astype(np.float32)
    choose(widget, tiny_model)
    choose_quality(widget, "Automatic")
    widget.ui.inputSelector.setCurrentNode(add_volume(array, np.eye(4)))
    widget.ui.segmentButton.click()
    said = []

    def finished():
        said.append(widget.ui.statusLabel.text)
        return is_idle(widget)

    assert host.pump(finished, TIMEOUT_S)
    chosen = [text for text in said if "quality was chosen" in text]
    assert re.match(r"(Best|Balanced|Fast) quality was chosen, for about \d+ s in all\. ", chosen[0])
    assert any(re.search(r"\d+ % done", text) for text in chosen)
    assert set(said[said.index(chosen[0]) :]) == {*chosen, "Done."}
    quality = widget.ui.outputSelector.currentNode().GetAttribute("SAM3DSegment.Quality")
    assert quality.title() == chosen[0].split()[0]
    choose_quality(widget, "Best")
    widget.ui.segmentButton.click()
    assert widget.ui.statusLabel.text == "Starting..."
    assert host.pump(lambda: is_computing(widget), TIMEOUT_S)
    assert re.match(r"\d+ % done", widget.ui.statusLabel.text)


def test_the_quality_is_kept_with_the_scene(widget, tmp_path):
    choose_quality(widget, "Balanced")
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    assert widget.ui.qualityBox.currentText == "Best"
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert widget.ui.qualityBox.currentText == "Balanced"


def test_an_unknown_quality_in_a_scene_is_shown_and_refused(widget, volume):
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.logic.getParameterNode().quality = "superb"
    assert widget.ui.qualityBox.currentText == "superb"
    assert not widget.ui.segmentButton.enabled
    assert "quality 'superb' is unknown; use best, balanced, fast or auto" in widget.ui.segmentButton.toolTip
    choose_quality(widget, "Best")
    assert widget.ui.segmentButton.enabled


@pytest.mark.parametrize(
    "event",
    [
        '{"event": "quality"}',
        '{"event": "quality", "quality": "best", "seconds": Infinity}',
        '{"event": "quality", "quality": [], "seconds": "soon"}',
        '{"event": ["of", "another", "kind"]}',
    ],
)
def test_an_event_that_cannot_be_shown_stops_nothing(widget, volume, use_program, event):
    """The program fails at the end, after its progress: with an event that stopped it, it would be cancelled."""
    progress = '{"stage": "segment", "done": 300, "total": 1000, "eta_s": 2.5}'
    use_program(
        f"import sys, time\nprint({event!r}, flush=True)\nprint({progress!r}, flush=True)\n"
        "time.sleep(0.5)\nsys.exit('ERROR: the end.')"
    )
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.segmentButton.click()
    assert host.pump(lambda: widget.ui.statusLabel.text.startswith("30 % done"), TIMEOUT_S)
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    assert host.messages[-1].text == "the end."


def test_an_exception_at_the_start_gives_the_panel_back(widget, volume, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("no such luck")

    widget.ui.inputSelector.setCurrentNode(volume)
    monkeypatch.setattr(widget.logic, "startSegment", fail)
    widget.ui.segmentButton.click()
    assert is_idle(widget)
    assert widget.ui.segmentButton.enabled
    assert "unexpected error: RuntimeError: no such luck" in host.messages[-1].text


def test_an_exception_in_delivery_gives_the_panel_back(widget, volume, tiny_model, monkeypatch):
    from SAM3DSegmentLib.bridge.scene import segmentations

    def fail(*arguments):
        raise RuntimeError("no such luck")

    choose(widget, tiny_model)
    widget.ui.inputSelector.setCurrentNode(volume)
    monkeypatch.setattr(segmentations, "writeSegments", fail)
    widget.ui.segmentButton.click()
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S)
    assert "unexpected error: RuntimeError: no such luck" in host.messages[-1].text
    assert widget.ui.segmentButton.enabled
    assert not temporary_folders()


def test_the_button_says_why_it_is_disabled(widget, volume):
    button = widget.ui.segmentButton
    assert not button.enabled
    assert button.toolTip == "Choose a volume first."
    widget.ui.inputSelector.setCurrentNode(volume)
    assert button.enabled
    choose(widget, "no-such-model")
    assert "no-such-model" in widget.ui.modelCardLabel.text
    assert not button.enabled
    assert "'no-such-model' is unknown" in button.toolTip
    choose(widget, DEFAULT_MODEL)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    widget.panel.enter()
    assert not button.enabled
    assert "not linear" in button.toolTip


def test_the_card_says_what_the_model_is_not_for(widget):
    text = widget.ui.modelCardLabel.text
    assert "35 x 36 x 50 mm (R-L x S-I x A-P)" in text
    assert "not for diagnosis" in text


def test_all_of_a_card_and_of_a_warning_is_seen(widget, volume):
    """At the height that the panel asks for: what the model is not for stands at the card's end."""
    array = slicer.util.arrayFromVolume(volume).repeat(4, 0)
    far = slicer.util.addVolumeFromArray(array.repeat(4, 1), name="head")
    parent, width = widget.parent, 460
    parent.resize(width, 10)
    parent.show()
    for node in (volume, far):
        widget.ui.inputSelector.setCurrentNode(node)
        for _ in range(2):  # wrapped labels tell their height only once they have their width
            host.process_events()
            parent.resize(width, parent.layout().totalHeightForWidth(width))
        host.process_events()
    for label in (widget.ui.modelCardLabel, widget.ui.warningLabel):
        assert label.text
        assert label.height >= label.heightForWidth(label.width)


def test_a_model_file_is_chosen_from_disk(widget, tmp_path):
    copied = tmp_path / "mine.sam3d"
    copied.write_bytes((MODULE.parent / "Resources" / "Models" / "hippocampus-mri.sam3d").read_bytes())
    widget.ui.modelFileButton.click()  # and nothing is chosen
    assert widget.logic.getParameterNode().model == DEFAULT_MODEL
    host.answerNext("file", str(copied))
    widget.ui.modelFileButton.click()
    assert widget.logic.getParameterNode().model == str(copied)
    assert widget.ui.modelBox.currentText == "mine"
    assert "168 cases" in widget.ui.modelCardLabel.text


def test_the_mouse_wheel_opens_no_dialog(widget):
    box = widget.ui.modelBox
    place = qt.QPointF(box.rect.center())
    for _ in range(box.count + 2):
        event = qt.QWheelEvent(
            place,
            place,
            qt.QPoint(0, -120),
            qt.QPoint(0, -120),
            qt.Qt.NoButton,
            qt.Qt.NoModifier,
            qt.Qt.NoScrollPhase,
            False,
        )
        slicer.app.sendEvent(box, event)
    assert host.messages == []


def test_results_follow_the_segmentation(widget, volume, tiny_model):
    node, table = segment(widget, volume, tiny_model), widget.ui.resultsTable
    drawn = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    first = node.GetSegmentation().GetNthSegmentID(0)

    def draw(count):
        drawn[1, 2, :count] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, node, first, volume)

    draw(20)
    assert host.pump(lambda: table.item(0, 2).text() == "0.02", 5)
    widget.panel.exit()  # to the Segment Editor, where measuring would slow the brush
    draw(30)
    node.GetSegmentation().GetSegment(first).SetName("By hand")
    assert not host.pump(lambda: table.item(0, 2).text() != "0.02", 0.5)
    widget.panel.enter()
    assert table.item(0, 2).text() == "0.03"
    assert table.item(0, 1).text() == table.item(0, 1).toolTip() == "By hand"
    node.GetSegmentation().RemoveSegment(first)
    assert host.pump(lambda: table.rowCount == 1, 5)


def test_all_of_a_header_is_seen(widget):
    header = widget.ui.resultsTable.horizontalHeader()
    font = qt.QFont(header.font)
    font.setPointSize(20)  # wider than a column is by default
    header.setFont(font)
    widget.parent.show()
    host.process_events()
    for column in (2, 3):
        assert header.sectionSize(column) >= header.sectionSizeFromContents(column).width()


def test_adding_a_scene_keeps_what_is_chosen(widget, volume, tiny_model, tmp_path):
    node = segment(widget, volume, tiny_model)
    other = slicer.vtkMRMLScene()
    other.AddNewNodeByClass("vtkMRMLModelNode", "other")
    other.SetURL(str(tmp_path / "other.mrml"))
    assert other.Commit()
    slicer.mrmlScene.SetURL(str(tmp_path / "other.mrml"))
    assert slicer.mrmlScene.Import()
    assert slicer.util.getNode("other")
    assert widget.ui.inputSelector.currentNode() is volume
    assert widget.ui.outputSelector.currentNode() is node
    assert widget.logic.getParameterNode().inputVolume is volume


def test_the_panel_is_back_when_a_check_runs(widget, use_program):
    """Entering the panel while a check runs allows no second command, which would destroy the first."""
    use_program("import time; print('started', flush=True); time.sleep(0.5)")
    widget.ui.setupSection.collapsed = False
    for button in (widget.ui.checkButton, widget.ui.downloadWeightsButton):
        assert button.enabled
    widget.ui.checkButton.click()
    widget.panel.exit()
    widget.panel.enter()
    for name in ("check", "install", "downloadWeights", "chooseWeights", "verifyWeights", "removeWeights"):
        assert not getattr(widget.ui, f"{name}Button").enabled, name
    assert widget.ui.stopSetupButton.isVisibleTo(widget.parent)
    assert host.pump(lambda: widget.ui.checkButton.enabled, TIMEOUT_S)
    assert "no findings" in host.messages[-1].text
    assert not widget.ui.stopSetupButton.isVisibleTo(widget.parent)


def test_a_check_is_read_also_if_a_library_has_the_last_word(widget, use_program):
    use_program(
        "import json\n"
        "print(json.dumps({'findings': [['torch', '2.4']], 'problems': [], 'devices': ['auto', 'cpu'], "
        "'seconds_per_slice': None}))\n"
        "print('a library says goodbye')"
    )
    widget.ui.checkButton.click()
    assert host.pump(lambda: widget.ui.checkButton.enabled, TIMEOUT_S)
    assert "2.4" in widget.ui.checkLabel.text
    assert not host.messages


def test_a_download_is_stopped_and_leaves_nothing(widget, tmp_path, monkeypatch):
    """From a server that takes the request and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path / "weights"))
        monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        widget.ui.setupSection.collapsed = False
        widget.ui.downloadWeightsButton.click()
        connection = server.accept()[0]
        [process_id] = host.child_processes()
        began = time.monotonic()
        widget.ui.stopSetupButton.click()
        assert host.pump(lambda: widget.ui.downloadWeightsButton.enabled, TIMEOUT_S)
        assert time.monotonic() - began < STOP_S
        connection.close()
    assert not is_running(process_id)
    assert widget.ui.setupStatusLabel.text == "Stopped."
    assert not list((tmp_path / "weights").iterdir())


def test_the_percentage_of_a_download_is_shown(widget, tmp_path, monkeypatch):
    """Of another content than the published one, so that it is refused at the end."""
    server = Server(bytes(2_000_000))
    server.bytes_per_s = 2e6
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", server.url)
    widget.ui.setupSection.collapsed = False
    widget.ui.downloadWeightsButton.click()
    said = set()

    def ended():
        said.add(widget.ui.setupStatusLabel.text)
        return widget.ui.downloadWeightsButton.enabled

    assert host.pump(ended, TIMEOUT_S)
    server.close()
    found = [re.search(r"(\d+) % of 2 MB", text) for text in said]
    assert len({int(match[1]) for match in found if match}) > 2
    assert "is not the published file" in host.messages[-1].text


@pytest.mark.parametrize("is_published", [True, False])
def test_only_weights_that_were_downloaded_are_removed(widget, tmp_path, monkeypatch, is_published):
    """A user's own file of the same name is left."""
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("SAM3DSEGMENT_CACHE", str(tmp_path))
    path = put_published_weights()
    if not is_published:
        path.write_bytes(b"weights of my own")
    widget.ui.setupSection.collapsed = False
    host.answerNext("question", False)
    widget.ui.removeWeightsButton.click()
    assert widget.ui.removeWeightsButton.enabled  # nothing runs
    widget.ui.removeWeightsButton.click()
    assert not widget.ui.removeWeightsButton.enabled
    assert host.pump(lambda: widget.ui.checkButton.enabled, TIMEOUT_S)
    assert widget.ui.removeWeightsButton.enabled == path.exists()
    assert path.exists() == (not is_published)
    assert ("were removed" if is_published else "is not the published file") in widget.ui.setupStatusLabel.text


def test_the_cache_is_shown_and_cleared(widget, tmp_path, monkeypatch):
    monkeypatch.setenv("SAM3DSEGMENT_CACHE", str(tmp_path))
    folder = tmp_path / "embeddings"
    folder.mkdir()
    (folder / f"{'0' * 64}.safetensors").write_bytes(b"0" * 2**21)
    (tmp_path / "notes.txt").write_text("precious")
    widget.ui.setupSection.collapsed = False
    widget.ui.openCacheButton.click()
    assert host.openedUrls == [qt.QUrl.fromLocalFile(str(folder)).toString()]
    assert widget.ui.cacheLabel.text.startswith("2 MB")
    widget.ui.clearCacheButton.click()
    assert widget.ui.cacheLabel.text.startswith("0 MB")
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_the_sample_is_registered():
    host.load_module(MODULE)
    [source] = host.sampleDataSources
    path = Path(source["uris"].removeprefix("file://"))
    assert source["checksums"] == "SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert Path(source["thumbnailFileName"]).is_file()


@pytest.fixture
def package_kept():
    """Other tests go on with the package as they have imported it."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "SAM3DSegmentLib"}
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "SAM3DSegmentLib"]:
        del sys.modules[name]
    sys.modules.update(kept)


def test_reloading_reads_the_package_again(package_kept, widget):
    from SAM3DSegmentLib.bridge.panel import widget as before

    widget.onReload()
    again = slicer.modules.SAM3DSegmentWidget
    assert again is not widget
    assert sys.modules["SAM3DSegmentLib.bridge.panel.widget"] is not before
    assert not isinstance(again.panel, before.Panel)


def test_reload_and_test_runs_every_test(widget, monkeypatch):
    test_class, run = sys.modules["SAM3DSegment"].SAM3DSegmentTest, []
    names = [name for name in dir(test_class) if name.startswith("test_")]
    for name in names:
        monkeypatch.setattr(test_class, name, lambda self, name=name: run.append((name, self.volume.GetName())))
    host.run_self_test("SAM3DSegment")
    assert run == [(name, "hippocampus_015") for name in names]


def test_without_packages_the_self_test_says_why_it_skips(widget, volume, caplog):
    with host.hide_packages("torch", "safetensors"), caplog.at_level("INFO"):
        host.run_self_test("SAM3DSegment")
    said = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(said) == 4
    assert all("torch>=2.2, safetensors" in text for text in said)
    assert slicer.mrmlScene.GetNodeByID(volume.GetID()) is volume


def test_all_that_can_be_focused_is_reached_with_the_tab_key_from_top_to_bottom(widget):
    form = ElementTree.parse(MODULE.parent / "Resources" / "UI" / "SAM3DSegment.ui")
    stops = [stop.text for stop in form.iter("tabstop")]
    focusable = [
        element.get("name")
        for element in form.iter("widget")
        if element.get("class") not in ("QWidget", "QLabel", "QProgressBar", "QGroupBox", "qMRMLWidget")
    ]
    assert stops == focusable


def test_the_form_leaves_colours_to_the_theme():
    assert "styleSheet" not in (MODULE.parent / "Resources" / "UI" / "SAM3DSegment.ui").read_text()


def test_the_protocol_of_the_form_names_widgets_that_are_there(widget):
    from SAM3DSegmentLib.bridge.panel.protocols import Ui

    for name in Ui.__annotations__:
        assert getattr(widget.ui, name).objectName == name
