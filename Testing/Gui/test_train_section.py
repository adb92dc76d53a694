"""The section "Train" on the host: real scene, form, folders and child processes, on cases that train in seconds."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from panel_fixtures import STOP_S, add_volume, is_running, put_published_weights

import host
import image_files as make
import qt

ROOT = Path(__file__).resolve().parents[2]
MODULE = Path(os.environ.get("SAM3DSEGMENT_MODULE", ROOT / "SAM3DSegment")) / "SAM3DSegment.py"
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
    from SAM3DSegmentLib.training.classes import agree_on_labels, read_case
    from SAM3DSegmentLib.training.dataset import find_dataset
    from SAM3DSegmentLib.training.look import look_at_cases

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


def chart():
    nodes = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert len(nodes) == 1
    return nodes[0]


def series():
    """Name -> (minutes, values) as the chart shows them."""
    shown = {}
    for index in range(chart().GetNumberOfPlotSeriesNodes()):
        node = chart().GetNthPlotSeriesNode(index)
        columns = node.GetTableNode().GetTable()
        shown[node.GetName()] = [
            [columns.GetColumnByName(name).GetValue(row) for row in range(columns.GetNumberOfRows())]
            for name in (node.GetXColumnName(), node.GetYColumnName())
        ]
    return shown


def test_a_case_is_written_by_slicer_as_the_headless_command_reads_it(widget, folders):
    volume, segmentation = add_patient()
    assert not widget.ui.addCaseButton.enabled
    add_case(widget, volume, segmentation)
    assert files(folders / "cases") == ["patient.nrrd", "patient.seg.nrrd"]
    image, indices, labels = read(folders / "cases", "patient")
    np.testing.assert_array_equal(image.array_kji, slicer.util.arrayFromVolume(volume))
    np.testing.assert_allclose(image.ijk_to_ras, OBLIQUE, atol=1e-6)
    expected = masks()
    np.testing.assert_array_equal(indices, expected["Left kidney"] + 2 * expected["Right kidney"])
    assert [label.name for label in labels] == ["Left kidney", "Right kidney"]
    assert labels[0].color == (51, 153, 255)
    assert (labels[0].type.meaning, labels[0].modifier.meaning) == ("Kidney", "Left")
    assert table(widget) == [("patient", "Left kidney 0.60, Right kidney 0.58")]
    assert "at least 2 are needed" in widget.ui.casesLabel.text
    assert widget.ui.caseStatusLabel.text == "patient was added to the cases."
    assert volume.GetStorageNode() is None  # the user's nodes do not take the case for their own file


def test_the_volume_of_a_segmentation_and_its_name_are_suggested(widget):
    other, (volume, segmentation) = add_volume(np.zeros(SHAPE, np.int16), np.eye(4), "other"), add_patient("T1/post: 2")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    segmentation.SetNodeReferenceID(role, volume.GetID())
    widget.ui.caseVolumeSelector.setCurrentNode(other)
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    assert widget.ui.caseVolumeSelector.currentNode() is volume
    assert widget.ui.caseNameEdit.text == "T1_post_ 2"


def test_only_ticked_segments_are_taken(widget, folders):
    volume, segmentation = add_patient()
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    widget.ui.caseVolumeSelector.setCurrentNode(volume)
    assert [widget.ui.segmentsList.item(row).text() for row in range(2)] == ["Left kidney", "Right kidney"]
    widget.ui.segmentsList.item(0).setCheckState(qt.Qt.Unchecked)
    widget.panel.enter()  # from the Segment Editor, which keeps the ticks
    widget.ui.addCaseButton.click()
    settle(widget)
    assert [label.name for label in read(folders / "cases", "patient")[2]] == ["Right kidney"]
    widget.ui.segmentsList.item(1).setCheckState(qt.Qt.Unchecked)
    widget.ui.caseNameEdit.text = "none"
    widget.ui.addCaseButton.click()
    assert "no chosen segment has voxels" in the_error()


def test_transforms_of_both_nodes_are_taken_into_account(widget, folders):
    """The segmentation is drawn beside the volume, and its own transform brings it there; the volume has one, too."""
    volume, _ = add_patient()
    moved = OBLIQUE.copy()
    moved[:3, 3] += OBLIQUE[:3, :3] @ (3, 0, 0)  # three voxels on
    segmentation = add_segmentation(add_volume(np.zeros(SHAPE, np.int16), moved, "elsewhere"), masks())
    to_world = np.array([[0, -1, 0, 4.0], [1, 0, 0, 5.0], [0, 0, 1, 6.0], [0, 0, 0, 1]])
    back = np.eye(4)
    back[:3, 3] = -OBLIQUE[:3, :3] @ (3, 0, 0)
    for node, matrix in ((volume, to_world), (segmentation, to_world @ back)):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        node.SetAndObserveTransformNodeID(transform.GetID())
    add_case(widget, volume, segmentation)
    image, indices, _ = read(folders / "cases", "patient")
    np.testing.assert_allclose(image.ijk_to_ras, to_world @ OBLIQUE, atol=1e-6)
    expected = masks()
    np.testing.assert_array_equal(indices, expected["Left kidney"] + 2 * expected["Right kidney"])


def test_a_segmentation_on_another_grid_is_brought_to_that_of_the_volume(widget, folders):
    volume, _ = add_patient()
    fine = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = (OBLIQUE @ (-0.25, -0.25, -0.25, 1))[:3]
    array = masks()["Left kidney"].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    grid = add_volume(np.zeros(array.shape, np.int16), fine, "fine")
    add_case(widget, volume, add_segmentation(grid, {"Left kidney": array}))
    np.testing.assert_array_equal(read(folders / "cases", "patient")[1], masks()["Left kidney"])


def under_curved_transform(volume, segmentation):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    segmentation.SetAndObserveTransformNodeID(transform.GetID())


def with_overlap(volume, segmentation):
    first = segmentation.GetSegmentation().GetNthSegmentID(0)
    segmentation.GetSegmentation().SeparateSegmentLabelmap(first)
    both = np.maximum(*masks().values())
    slicer.util.updateSegmentBinaryLabelmapFromArray(both, segmentation, first, volume)


def elsewhere(volume, segmentation):
    volume.SetOrigin(500, 500, 500)


def with_two_of_a_name(volume, segmentation):
    for index in range(2):
        segmentation.GetSegmentation().GetNthSegment(index).SetName("Kidney")


def without_labelmap(volume, segmentation):
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    segmentation.RemoveBinaryLabelmapRepresentation()


REFUSED = {
    under_curved_transform: "is under a transform that is not linear",
    with_overlap: "'Left kidney' and 'Right kidney' overlap in",
    elsewhere: "lies outside of the volume",
    with_two_of_a_name: "two segments are named 'Kidney'",
    without_labelmap: "has no binary labelmap",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_a_case_is_refused_and_nothing_is_written(widget, folders, spoil):
    volume, segmentation = add_patient()
    spoil(volume, segmentation)
    add_case(widget, volume, segmentation)
    assert REFUSED[spoil] in the_error()
    assert list((folders / "cases").iterdir()) == []
    assert table(widget) == []


@pytest.mark.parametrize("name", ["", "a/b", "ct_label"])
def test_a_name_that_would_be_taken_for_something_else_is_refused(widget, folders, name):
    volume, segmentation = add_patient()
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    widget.ui.caseVolumeSelector.setCurrentNode(volume)
    widget.ui.caseNameEdit.text = name
    widget.ui.addCaseButton.click()
    assert "cannot name a case" in the_error()
    assert list((folders / "cases").iterdir()) == []


def test_a_case_is_replaced_only_when_the_user_agrees(widget, folders):
    add_case(widget, *add_patient())
    before = {path.name: path.read_bytes() for path in (folders / "cases").iterdir()}
    volume, segmentation = add_patient(shift=2)
    host.answerNext("question", False)
    add_case(widget, volume, segmentation)
    assert "patient.nrrd, patient.seg.nrrd" in host.messages[-1].text
    assert {path.name: path.read_bytes() for path in (folders / "cases").iterdir()} == before
    host.answerNext("question", True)
    add_case(widget, volume, segmentation)
    assert files(folders / "cases") == ["patient.nrrd", "patient.seg.nrrd"]
    np.testing.assert_array_equal(read(folders / "cases", "patient")[1] == 1, masks(2)["Left kidney"])


def test_a_case_that_cannot_be_written_leaves_the_former_one(widget, folders, monkeypatch):
    """The disk fails when the second file is moved to its place."""
    add_case(widget, *add_patient())
    before = {path.name: path.read_bytes() for path in (folders / "cases").iterdir()}
    replace, targets = os.replace, []

    def fail_once(source, target):
        targets.append(target)
        if len(targets) == 4:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    host.answerNext("question", True)
    add_case(widget, *add_patient(shift=2))
    assert "No space left on device" in the_error()
    assert {path.name: path.read_bytes() for path in (folders / "cases").iterdir()} == before


def test_a_case_is_removed_only_when_the_user_agrees(patients, folders):
    ui = patients.ui
    assert not ui.removeCaseButton.enabled
    ui.casesTable.selectRow(1)
    host.answerNext("question", False)
    ui.removeCaseButton.click()
    assert len(files(folders / "cases")) == 6
    host.answerNext("question", True)
    ui.removeCaseButton.click()
    settle(patients)
    assert [row[0] for row in table(patients)] == ["patient0", "patient2"]
    assert len(files(folders / "cases")) == 4
    if sys.platform == "linux":
        assert len(list((folders / "data" / "Trash" / "files").iterdir())) == 2


def test_a_tree_of_dicom_series_and_contours(widget, folders):
    """Of which no header tells what it has cost: its slices are counted."""
    for number in range(2):
        series = f"1.2.3.{number + 1}"
        make.dicom(folders / "cases" / f"s{number}", series=series)
        points = [[(10, 0, z), (14, 0, z), (14, 4, z), (10, 4, z)] for z in (9, 11, 13)]
        contours = [make.contour(np.array(one, float)) for one in points]
        make.structure_set(folders / "cases" / f"rs{number}.dcm", {"Blob": contours}, series)
    choose_folder(widget, folders / "cases")
    assert [name for name, _ in table(widget)] == ["s0", "s1"]
    assert widget.ui.casesCostLabel.text == "2 cases, 6 painted slices"


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_removed_or_replaced_case_leaves_no_voxels_of_a_second_file(widget, folders, ending, is_replaced):
    volume, segmentation = add_patient("a")
    add_case(widget, volume, segmentation)
    [image] = [path for path in (folders / "cases").iterdir() if ".seg" not in path.name]
    sitk.WriteImage(sitk.ReadImage(str(image)), str(folders / "cases" / f"a{ending}"))
    image.unlink()
    assert len(files(folders / "cases")) == 3
    widget.panel.enter()
    settle(widget)
    host.answerNext("question", True)
    if is_replaced:
        add_case(widget, volume, segmentation)
    else:
        widget.ui.casesTable.selectRow(0)
        widget.ui.removeCaseButton.click()
    question = host.messages[-1]
    assert f"a{ending}, a." in question.text.replace("a.seg.nrrd, ", "")
    assert files(folders / "cases") == ([image.name, "a.seg.nrrd"] if is_replaced else [])


def test_a_label_map_is_read_again_only_if_it_has_changed(patients, folders, monkeypatch):
    from SAM3DSegmentLib.training import look

    read, looked_at = look._look, []
    monkeypatch.setattr(look, "_look", lambda case, *options: looked_at.append(case.name) or read(case, *options))
    before = table(patients)
    patients.panel.enter()
    settle(patients)
    assert looked_at == []
    assert table(patients) == before
    changed = folders / "cases" / "patient1.seg.nrrd"
    os.utime(changed, ns=(0, 0))
    patients.panel.enter()
    settle(patients)
    assert looked_at == ["patient1"]
    changed.write_bytes(b"damaged")
    for _ in range(2):  # what has a problem is looked at again: it may be gone without a change of the file
        patients.panel.enter()
        settle(patients)
    assert looked_at == ["patient1"] * 3


def test_a_selector_that_tells_its_node_again_keeps_name_and_ticks(widget):
    first = add_volume(np.zeros(SHAPE, np.float32), OBLIQUE, "first")
    other = add_segmentation(first, masks(), "other")
    volume, segmentation = add_patient("second")
    widget.ui.caseSegmentationSelector.setCurrentNode(segmentation)
    assert widget.ui.caseVolumeSelector.currentNode() is volume
    widget.ui.caseNameEdit.text = "my own name"
    widget.ui.segmentsList.item(0).setCheckState(qt.Qt.Unchecked)
    slicer.mrmlScene.RemoveNode(other)
    slicer.mrmlScene.RemoveNode(first)  # the rows of the chosen ones move
    volume.SetName("renamed")
    segmentation.SetName("renamed")
    assert widget.ui.caseNameEdit.text == "my own name"
    states = [widget.ui.segmentsList.item(row).checkState() for row in range(2)]
    assert states == [qt.Qt.Unchecked, qt.Qt.Checked]


def test_the_folder_is_opened_and_remembered(widget, folders):
    widget.ui.openCasesButton.click()
    assert host.openedUrls == [qt.QUrl.fromLocalFile(str(folders / "cases")).toString()]
    again = host.load_module(MODULE)[2]
    assert again.ui.casesFolderLabel.text == str(folders / "cases")


def test_odd_cases_are_shown_and_hold_training_up(patients, folders):
    volume, _ = add_patient()
    add_case(patients, volume, add_segmentation(volume, {"Left kidney": masks()["Left kidney"]}))
    assert ("patient", "Left kidney 0.60, no Right kidney") in table(patients)
    patients.ui.modelNameEdit.text = "kidneys"
    assert patients.ui.trainButton.enabled
    (folders / "cases" / "patient1.nrrd").write_bytes(b"not an image")
    patients.panel.enter()
    settle(patients)
    [row] = [row for row in table(patients) if row[0] == "patient1"]
    assert row[1].startswith("\u26a0")
    assert "patient1.nrrd" in row[1]
    assert not patients.ui.trainButton.enabled
    assert (
        patients.ui.trainButton.toolTip
        == patients.ui.casesLabel.text
        == ("Some cases cannot be used; repair or remove them.")
    )


def test_a_folder_that_has_gone_is_told(widget, folders):
    shutil.rmtree(folders / "cases")
    widget.panel.enter()
    settle(widget)
    assert "does not exist" in widget.ui.casesLabel.text
    assert not widget.ui.trainButton.enabled
    add_case(widget, *add_patient())
    assert "does not exist" in the_error()
    assert not (folders / "cases").exists()


def test_the_button_says_what_is_needed_first(folders):
    widget = host.load_module(MODULE)[2]
    widget.ui.trainSection.collapsed = False
    button = widget.ui.trainButton
    assert button.toolTip == "Choose a folder for your cases first."
    choose_folder(widget, folders / "cases")
    assert button.toolTip == "No cases yet; add 5 to 20."
    for number in range(2):
        add_case(widget, *add_patient(f"patient{number}"))
    assert button.toolTip == "Give the model a name first."
    for name, reason in (("a/b", "letters, digits"), ("hippocampus-mri", "is a bundled model")):
        widget.ui.modelNameEdit.text = name
        assert reason in button.toolTip
        assert not button.enabled
    widget.ui.modelNameEdit.text = "kidneys"
    assert button.enabled


def test_the_encoders_that_are_here_are_offered_once_each(widget, folders):
    box = widget.ui.encoderBox
    shutil.copy(folders / "models" / "tiny.sam3d", folders / "models" / "tiny2.sam3d")
    widget.panel.enter()
    assert [box.itemText(i) for i in range(box.count)] == [
        "An encoder of its own",
        "Encoder of hippocampus-mri",
        "Encoder of tiny",
    ]
    assert box.currentText == "Encoder of tiny"
    box.currentIndex = 0
    assert "on your cases alone" in widget.ui.encoderLabel.text
    box.currentIndex = 1
    assert "MRI of Anterior hippocampus, Posterior hippocampus only" in widget.ui.encoderLabel.text
    put_published_weights()
    widget.ui.setupSection.collapsed = False
    widget.panel.enter()
    assert [box.itemText(i) for i in range(box.count)][0] == "SAM ViT-B"
    box.currentIndex = 0
    assert "Slow without a GPU" in widget.ui.encoderLabel.text
    widget.ui.removeWeightsButton.click()
    assert host.pump(lambda: box.findText("SAM ViT-B") < 0, TIMEOUT_S)


def test_without_sams_weights_an_encoder_of_its_own_is_suggested(folders):
    ui = host.load_module(MODULE)[2].ui
    assert ui.encoderBox.currentText == "An encoder of its own"
    put_published_weights()
    assert host.load_module(MODULE)[2].ui.encoderBox.currentText == "SAM ViT-B"


def test_a_check_says_what_the_training_will_take(patients):
    patients.ui.modelNameEdit.text = "kidneys"
    patients.ui.checkCasesButton.click()
    assert not patients.ui.trainButton.enabled
    assert patients.ui.trainButton.toolTip == "The cases are being checked."
    assert host.pump(lambda: patients.ui.trainButton.enabled, TIMEOUT_S)
    said = patients.ui.trainingStatusLabel.text.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "encoder",
        "labels",
        "2 training, 1 validation, 0 test cases",
        "disk",
        "time",
    ]
    assert "10 min of training steps" in said[-1]


LOOKS = """
import sys
print('{"stage": "look", "done": 1, "total": 3, "eta_s": 2}', flush=True)
sys.stdin.read()
sys.exit(130)
"""


def test_a_finished_training_whose_model_was_moved_is_replaced_only_when_the_user_agrees(
    patients, folders, use_program
):
    use_program("import sys; sys.exit('ERROR: ' + ' '.join(sys.argv))")
    former = folders / "models" / "kidneys.training"
    former.mkdir()
    (former / "run.json").write_text('{"result": {}}')
    patients.ui.modelNameEdit.text = "kidneys"
    host.answerNext("question", False)
    patients.ui.trainButton.click()
    assert is_idle(patients)
    assert "There is a finished training of kidneys already" in host.messages[-1].text
    host.messages.clear()
    host.answerNext("question", True)
    train(patients)
    wait_for_end(patients)
    assert "--overwrite" in the_error()


def test_a_check_can_be_stopped(patients, use_program):
    use_program(LOOKS)
    patients.ui.modelNameEdit.text = "kidneys"
    button = patients.ui.checkCasesButton
    button.click()
    assert host.pump(lambda: patients.ui.trainingStatusLabel.text == "Reading case 1 of 3", TIMEOUT_S)
    assert button.text == "Stop check"
    button.click()
    assert host.pump(lambda: patients.ui.trainButton.enabled, TIMEOUT_S)
    assert (button.text, patients.ui.trainingStatusLabel.text) == ("Check", "")


def test_the_layout_is_the_users_again_after_the_training(patients, use_program):
    manager = slicer.app.layoutManager()
    before = manager.layout
    use_program("import sys; sys.stdin.readline(); sys.exit('ERROR: asked to finish')")
    for is_changed in (False, True):
        train(patients)
        assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView
        if is_changed:
            manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        patients.ui.trainButton.click()
        wait_for_end(patients)
        expected = slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView if is_changed else before
        assert manager.layout == expected
        host.messages.clear()
    manager.setLayout(before)


def test_a_model_is_trained_shown_chosen_and_segments(patients, folders):
    ui = patients.ui
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    volume, _ = add_patient("new", shift=1)
    ui.inputSelector.setCurrentNode(volume)
    assert ui.segmentButton.enabled
    train(patients)
    assert ui.trainButton.text == "Stop"
    assert not ui.segmentButton.enabled
    assert "being trained" in ui.segmentButton.toolTip
    assert view.GetPlotChartNodeID() == chart().GetID()
    ui.outputSelector.setCurrentNode(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0])
    ui.useAsCaseButton.click()
    assert "being trained" in the_error()
    ui.outputSelector.setCurrentNode(None)
    wait_for_steps(patients)
    assert ui.trainingProgressBar.maximum == 6
    wait_for_end(patients)
    assert "Done: kidneys is chosen in Segment. Dice on 1 held-out cases: Left kidney" in ui.trainingStatusLabel.text
    assert not [message for message in host.messages if message.kind == "error"]
    assert (folders / "models" / "kidneys.sam3d").is_file()

    shown = series()
    assert list(shown) == ["Loss", "Dice Left kidney", "Dice Right kidney"]
    minutes, losses = shown["Loss"]
    assert len(losses) > 4
    assert 0 < minutes[0] < minutes[-1] <= 0.2
    assert all(loss > 0 for loss in losses)
    assert len(shown["Dice Left kidney"][1]) == 8
    assert all(0 <= dice <= 1 for dice in shown["Dice Left kidney"][1])
    assert chart().GetNthPlotSeriesNode(1).GetColor() == pytest.approx(COLOR, abs=0.01)
    assert not chart().GetSaveWithScene()

    assert ui.modelBox.currentText == "kidneys"
    assert "Left kidney" in ui.modelCardLabel.text
    ui.trainingReportButton.click()
    assert host.openedUrls[-1].endswith("kidneys.training/report.html")
    assert host.objects_alive("CommandProcess") == []

    ui.segmentButton.click()
    assert ui.trainButton.toolTip == "A volume is being segmented."
    assert host.pump(lambda: ui.segmentButton.text == "Segment", TIMEOUT_S)
    result = ui.outputSelector.currentNode()
    assert [result.GetSegmentation().GetNthSegment(i).GetName() for i in range(2)] == list(masks())
    assert ui.trainButton.enabled

    before = len(files(folders / "cases"))
    drawn = masks(1)["Left kidney"]
    for index in range(2):
        segment_id = result.GetSegmentation().GetNthSegmentID(index)
        mask = drawn if index == 0 else masks()["Right kidney"]
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, result, segment_id, volume)
    ui.inputSelector.setCurrentNode(None)  # the segmentation knows its volume
    ui.useAsCaseButton.click()
    settle(patients)
    assert len(files(folders / "cases")) == before + 2
    _, indices, labels = read(folders / "cases", "new")
    np.testing.assert_array_equal(indices == 1, drawn)
    assert labels[0].type.meaning == "Kidney"


@pytest.mark.slow
def test_stop_keeps_the_best_model_and_a_former_one_is_replaced_only_when_the_user_agrees(patients, folders):
    model = folders / "models" / "kidneys.sam3d"
    shutil.copy(folders / "models" / "tiny.sam3d", model)
    before = model.read_bytes()
    host.answerNext("question", False)
    patients.ui.modelNameEdit.text = "kidneys"
    patients.ui.trainButton.click()
    assert is_idle(patients)
    assert "There is a model kidneys already. Replace it?" in host.messages[-1].text
    host.answerNext("question", True)
    train(patients, minutes=60)
    wait_for_steps(patients)
    assert model.read_bytes() == before
    patients.ui.trainButton.click()
    assert "Finishing" in patients.ui.trainingStatusLabel.text
    assert patients.ui.trainButton.text == "Cancel"
    wait_for_end(patients)
    assert "Done: kidneys" in patients.ui.trainingStatusLabel.text
    assert model.read_bytes() != before
    assert "trained on 2 cases" in patients.ui.modelCardLabel.text  # not the card of the former model
    assert len(series()["Dice Left kidney"][1]) == 1


@pytest.mark.slow
def test_closing_the_scene_does_not_stop_a_training(patients, folders):
    train(patients)
    assert host.pump(lambda: "Held-out Dice" in patients.ui.trainingStatusLabel.text, TIMEOUT_S)
    before = len(series()["Loss"][1])
    slicer.mrmlScene.Clear()
    assert not slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert not is_idle(patients)
    assert patients.ui.trainButton.enabled
    assert host.pump(lambda: slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode"), TIMEOUT_S)
    assert len(series()["Loss"][1]) > before  # with what was told before
    patients.ui.trainButton.click()
    wait_for_end(patients)
    assert "Done" in patients.ui.trainingStatusLabel.text
    assert patients.ui.modelBox.currentText == "kidneys"
    assert (folders / "models" / "kidneys.sam3d").is_file()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
@pytest.mark.slow
def test_a_killed_training_is_told_once_and_can_go_on(patients, folders, use_program):
    train(patients, minutes=0.2)
    assert host.pump(lambda: "Held-out Dice" in patients.ui.trainingStatusLabel.text, TIMEOUT_S)
    [process_id] = host.child_processes()
    os.kill(process_id, signal.SIGKILL)
    wait_for_end(patients)
    assert "stopped from outside" in the_error()
    assert "What it has reached is kept, but for its last minutes" in patients.ui.trainingStatusLabel.text
    assert patients.ui.segmentButton.toolTip != "A model is being trained; wait for it, or stop it."
    assert not (folders / "models" / "kidneys.sam3d").exists()
    use_program("import sys; sys.exit('ERROR: ' + ' '.join(sys.argv))")
    for answers, expected in (([True], "--resume"), ([False, True], "--overwrite")):
        for answer in answers:
            host.answerNext("question", answer)
        train(patients, minutes=0.2)
        wait_for_end(patients)
        assert expected in the_error()
    host.answerNext("question", False)
    host.answerNext("question", False)
    patients.ui.trainButton.click()
    assert [message.text.split("?")[0] for message in host.messages] == [
        "A training of kidneys was stopped before its end. Go on with it",
        "Start kidneys anew",
    ]
    assert is_idle(patients)


def test_closing_the_module_stops_a_training(patients, folders):
    train(patients, minutes=60)
    assert host.pump(host.child_processes, TIMEOUT_S)
    [process_id] = host.child_processes()
    began = time.monotonic()
    host.unload_all()
    assert time.monotonic() - began < STOP_S
    assert not is_running(process_id)
    assert not (folders / "models" / "kidneys.sam3d").exists()


# A training that tells its lines in pieces, among the words of a library, and then does as it is asked.
IN_PIECES = """
import sys, time
text = '''{"stage": "encode", "done": 1, "total": 4, "eta_s": 200.0}
a library says hello
{"event": "loss", "step": 1, "seconds": 30.0, "loss": 2.5}
{"event": "validation", "step": 1, "seconds": 60.0, "loss": 2.5, "dice": {"A \\\\u00e9": 0.5}}
{"event": "validation", "step": 2, "seconds": 90.0, "loss": 2.5, "dice": {"B": 0.0, "A \\u00e9": 0.6}}
{"stage": "train", "done": 60, "total": 600, "eta_s": 540.0}
'''
for letter in text:
    sys.stdout.write(letter)
    sys.stdout.flush()
    if letter in '{":':
        time.sleep(0.002)
line = sys.stdin.readline()
sys.stderr.write("ERROR: asked to " + line)
sys.exit(1)
"""


def test_lines_in_pieces_are_understood_and_an_error_is_told_once(patients, use_program):
    use_program(IN_PIECES)
    train(patients)
    status = patients.ui.trainingStatusLabel
    assert host.pump(lambda: "Encoding slice 1 of 4, about 4 min to go" in status.text, TIMEOUT_S)
    wait_for_steps(patients)
    assert status.text == "Training: 1.0 of 10.0 min, about 9 min to go\nHeld-out Dice: B 0.000, A \u00e9 0.600"
    shown = series()
    assert shown["Loss"] == [[0.5], [2.5]]
    assert shown["Dice A \u00e9"] == [[1.0, 1.5], [0.5, 0.6]]
    np.testing.assert_equal(shown["Dice B"], [[1.0, 1.5], [np.nan, 0.0]])  # no case had it, nor did the model
    patients.ui.trainButton.click()
    wait_for_end(patients)
    assert the_error() == "asked to finish"
    assert status.text == "Failed: asked to finish"
    assert patients.ui.trainButton.enabled


def test_a_chart_that_cannot_be_drawn_does_not_cost_the_training(patients, use_program, monkeypatch):
    monkeypatch.delattr(slicer.modules, "plots")
    use_program(IN_PIECES)
    train(patients)
    wait_for_steps(patients)
    assert "0.600" in patients.ui.trainingStatusLabel.text
    patients.ui.trainButton.click()
    wait_for_end(patients)
    assert the_error() == "asked to finish"


def test_before_a_step_is_made_stop_cancels(patients, use_program):
    use_program(
        'import sys\nprint(\'{"stage": "prepare", "done": 1, "total": 3, "eta_s": null}\', flush=True)\n'
        "sys.exit(130 if not sys.stdin.read() else 1)"
    )
    train(patients)
    assert host.pump(lambda: "Preparing case 1 of 3" in patients.ui.trainingStatusLabel.text, TIMEOUT_S)
    patients.ui.trainButton.click()
    wait_for_end(patients)
    assert patients.ui.trainingStatusLabel.text == "Cancelled."
    assert not [message for message in host.messages if message.kind != "file"]


def test_what_training_needs_is_installed_in_one_go_when_the_user_agrees(patients, use_program):
    use_program("import sys; sys.exit(130)")
    patients.ui.modelNameEdit.text = "kidneys"
    patients.ui.setupSection.collapsed = False
    with host.hide_packages("lightning-fabric"):
        patients.panel.enter()
        assert "lightning" not in patients.ui.packagesLabel.text  # segmenting needs it not
        settle(patients)
        host.answerNext("question", False)
        patients.ui.trainButton.click()
        assert "lightning-fabric" in the_error()
        assert is_idle(patients)
        assert not host.pipInstalls
        host.answerNext("question", True)
        patients.ui.trainButton.click()
        [question] = [message for message in host.messages if message.kind == "question"]
        assert "lightning-fabric>=2.4" in question.text
        [installed] = host.pipInstalls
        assert [str(name).partition(">")[0] for name in installed] == ["lightning-fabric"]
        wait_for_end(patients)


def test_a_result_is_taken_among_the_cases_also_if_no_folder_was_chosen(folders):
    widget = host.load_module(MODULE)[2]
    volume, segmentation = add_patient()
    assert not widget.ui.useAsCaseButton.enabled
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.outputSelector.setCurrentNode(segmentation)
    widget.ui.useAsCaseButton.click()  # and no folder is chosen
    assert widget.ui.casesFolderLabel.text == "No folder is chosen."
    host.answerNext("file", str(folders / "cases"))
    widget.ui.useAsCaseButton.click()
    settle(widget)
    assert [row[0] for row in table(widget)] == ["patient"]
    assert not widget.ui.trainSection.collapsed
    assert sys.modules.get("SAM3DSegmentLib.training.dataset")


def test_a_dicom_series_is_not_removed_with_its_case(folders):
    """Its folder may hold more than the case."""
    from SAM3DSegmentLib.base.errors import InputError
    from SAM3DSegmentLib.bridge.scene.cases import CaseRow, removeCase

    series = folders / "cases" / "a"
    series.mkdir(parents=True)
    (series / "slice.dcm").write_bytes(b"\0")
    (folders / "cases" / "a.dcm").write_bytes(b"\0")
    with pytest.raises(InputError, match="is a folder of DICOM files"):
        removeCase(CaseRow("a", (series, folders / "cases" / "a.dcm")), folders / "cases")
    assert (series / "slice.dcm").exists()
    assert (folders / "cases" / "a.dcm").exists()
