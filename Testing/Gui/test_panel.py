"""The form of the panel on the host: what it shows and says before anything runs, and how it is loaded."""

from __future__ import annotations

import hashlib
import html
import pathlib
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import slicer
import vtk
from panel_fixtures import DEFAULT_MODEL, MODULE, ROOT, SAMPLE, choose

import host
import qt

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


@pytest.mark.slow
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


def test_all_of_a_header_is_seen(widget):
    header = widget.ui.resultsTable.horizontalHeader()
    font = qt.QFont(header.font)
    font.setPointSize(20)  # wider than a column is by default
    header.setFont(font)
    widget.parent.show()
    host.process_events()
    for column in (2, 3):
        assert header.sectionSize(column) >= header.sectionSizeFromContents(column).width()


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
