"""Training from the section "Train" on the host: real child processes, on cases that train in seconds."""

from __future__ import annotations

import os
import shutil
import signal
import time

import numpy as np
import pytest
import slicer
from panel_fixtures import STOP_S, is_running, put_published_weights
from train_fixtures import (
    COLOR,
    MODULE,
    TIMEOUT_S,
    add_case,
    add_patient,
    choose_folder,
    files,
    folders,  # noqa: F401 - a fixture
    is_idle,
    masks,
    patients,  # noqa: F401 - a fixture
    read,
    settle,
    the_error,
    train,
    wait_for_end,
    wait_for_steps,
    widget,  # noqa: F401 - a fixture
)

import host


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


@pytest.mark.slow
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
