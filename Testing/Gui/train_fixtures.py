"""What the tests of the section "Train" share: a folder of cases, patients in the scene, and a training."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import slicer
from panel_fixtures import MODULE, add_volume

import host

TIMEOUT_S = 120
SHAPE = (8, 14, 16)
KIDNEY = (
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney"
    "~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^"
)
COLOR = (0.2, 0.6, 1.0)
OBLIQUE = np.array([[0.0, -1.6, 0.6, 5], [0.0, 1.2, 0.8, -7], [3.0, 0, 0, 1], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """The user's own folders, empty."""
    for name in ("MODELS", "WEIGHTS", "CACHE"):
        monkeypatch.setenv(f"SAM3DSEGMENT_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))  # of the trash
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("cases", "models", "data"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def widget(folders, tiny_model):
    """The panel with the section open; the folder of cases is chosen, and a tiny encoder to train on."""
    shutil.copy(tiny_model, folders / "models" / "tiny.sam3d")
    widget = host.load_module(MODULE)[2]
    widget.ui.trainSection.collapsed = False
    choose_folder(widget, folders / "cases")
    box = widget.ui.encoderBox
    box.currentIndex = [box.itemText(i) for i in range(box.count)].index("Encoder of tiny")
    return widget


def choose_folder(widget, folder):
    host.answerNext("file", str(folder))
    widget.ui.chooseCasesButton.click()
    settle(widget)


def settle(widget):
    assert host.pump(lambda: "being read" not in widget.ui.casesLabel.text, TIMEOUT_S)


def masks(shift=0):
    left, right = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    left[2:6, 3:8, 1 + shift : 6 + shift] = 1
    right[3:7, 5:11, 10:14] = 1
    return {"Left kidney": left, "Right kidney": right}


def add_segmentation(volume, by_name, name="Segmentation"):
    """Segments that a user has drawn on the volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for segment_name, mask in by_name.items():
        segment_id = node.GetSegmentation().AddEmptySegment("", segment_name, COLOR)
        node.GetSegmentation().GetSegment(segment_id).SetTag("TerminologyEntry", KIDNEY)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, volume)
    return node


def add_patient(name="patient", shift=0, matrix=OBLIQUE):
    found = masks(shift)
    noise = np.random.default_rng(shift).normal(0, 10, SHAPE)
    array = (100 + 300.0 * found["Left kidney"] - 200.0 * found["Right kidney"] + noise).astype(np.int16)
    volume = add_volume(array, matrix, name)
    return volume, add_segmentation(volume, found)


def add_case(widget, volume, segmentation):
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    widget.ui.caseVolumeSelector.setCurrentNode(volume)
    widget.ui.addCaseButton.click()
    settle(widget)


def table(widget):
    rows = range(widget.ui.casesTable.rowCount)
    return [tuple(widget.ui.casesTable.item(row, column).text() for column in range(2)) for row in rows]


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def read(folder, name):
    """Image, class indices and labels of a case, as the headless command reads them."""
    from SAM3DSegmentLib.training.classes import agree_on_labels
    from SAM3DSegmentLib.training.dataset import find_dataset
    from SAM3DSegmentLib.training.look import look_at_cases
    from SAM3DSegmentLib.training.reading import read_case

    dataset = find_dataset(folder, least=1)
    labels, _ = agree_on_labels(dataset, look_at_cases(dataset))
    image, indices = read_case(next(case for case in dataset.cases if case.name == name), labels)
    return image, indices, labels


def the_error():
    [message] = [message for message in host.messages if message.kind == "error"]
    host.messages.clear()
    return message.text


@pytest.fixture
def patients(widget):
    """Three cases in the folder."""
    for number in range(3):
        add_case(widget, *add_patient(f"patient{number}", shift=number))
    assert widget.ui.casesLabel.text == ""
    return widget


def is_idle(widget):
    return widget.ui.trainButton.text == "Train"


def train(widget, name="kidneys", minutes=0.1):
    widget.ui.modelNameEdit.text = name
    widget.ui.minutesBox.value = minutes
    assert widget.ui.trainButton.enabled, widget.ui.trainButton.toolTip
    widget.ui.trainButton.click()
    assert not is_idle(widget), widget.ui.trainingStatusLabel.text


def wait_for_steps(widget):
    """Until steps are made, by what the panel says."""
    assert host.pump(lambda: "Training:" in widget.ui.trainingStatusLabel.text or is_idle(widget), TIMEOUT_S)
    assert not is_idle(widget), widget.ui.trainingStatusLabel.text


def wait_for_end(widget):
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S), widget.ui.trainingStatusLabel.text
