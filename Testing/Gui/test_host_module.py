"""A module in the stand-in host: loading, parameters and panel, the real scene, child processes."""

import ast
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import numpy as np
import pytest
import slicer

import ctk
import host
import qt

FIXTURE = Path(__file__).resolve().parent / "fixture" / "HostFixture.py"


@pytest.fixture
def fixture_module():
    return host.load_module(FIXTURE)


@pytest.fixture
def widget(fixture_module):
    return fixture_module[2]


def test_a_module_is_loaded_as_slicer_does(fixture_module):
    python, module, widget = fixture_module
    assert module.parent.title == "Host fixture"
    assert slicer.util.modulePath("HostFixture") == str(FIXTURE)
    assert slicer.util.getModuleLogic("Segmentations") is slicer.modules.segmentations.logic()
    assert slicer.modules.HostFixtureWidget is widget
    assert [source["sampleName"] for source in host.sampleDataSources] == ["Sample"]
    assert slicer.modules.sampleDataSources["HostFixture"][0].fileNames == "sample.nrrd"
    assert widget.parent.isEntered()
    assert widget.ui.inputSelector.mrmlScene() is slicer.mrmlScene
    assert widget.ui.modelFileEdit.filters == ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Readable
    module.runTest()


def test_a_form_has_no_attributes_for_its_children(widget):
    """PySide6's loader makes them, PythonQt's does not; childWidgetVariables is for that."""
    form = slicer.util.findChild(widget.parent, "HostFixture")
    assert widget.ui.applyButton is slicer.util.findChild(form, "applyButton")
    assert not hasattr(form, "applyButton")


def test_unloading_cleans_up(widget):
    host.unload_module("HostFixture")
    assert widget.cleanedUp
    assert not hasattr(slicer.modules, "hostfixture")
    assert "HostFixture" not in sys.modules


def test_an_unloaded_module_leaves_no_widget_behind():
    host.load_module(FIXTURE)
    assert len(host.objects_alive("HostFixtureWidget")) == 1
    host.unload_module("HostFixture")
    assert host.objects_alive("HostFixtureWidget") == []


def test_reloading_makes_a_new_widget(widget):
    slicer.util.reloadScriptedModule("HostFixture")
    assert widget.cleanedUp
    assert slicer.modules.HostFixtureWidget is not widget
    assert slicer.modules.HostFixtureWidget.ui.smoothingBox.value == 3


def test_gui_to_parameters(widget, fixture_module, add_volume):
    volume, parameters, ui = add_volume(), widget.parameters, widget.ui
    ui.inputSelector.setCurrentNode(volume)
    ui.thresholdSlider.value = 60
    ui.smoothingBox.value = 5
    ui.deviceBox.setCurrentText("cpu")
    ui.noteEdit.text = "noted"
    ui.fillBox.click()
    ui.modeBox.setCurrentText("BELOW")
    ui.modelFileEdit.currentPath = "/models/mine.sam3d"
    assert parameters.inputVolume is volume
    assert (parameters.threshold, parameters.smoothing, parameters.device) == (60, 5, "cpu")
    assert (parameters.note, parameters.fill, parameters.mode) == ("noted", True, fixture_module[0].Mode.BELOW)
    assert parameters.modelFile == pathlib.Path("/models/mine.sam3d")
    assert parameters.describe() == "BELOW 60.0"


def test_parameters_to_gui(widget, fixture_module, add_volume):
    parameters, ui = widget.parameters, widget.ui
    assert (ui.thresholdSlider.minimum, ui.thresholdSlider.maximum, ui.thresholdSlider.value) == (-100, 500, 100)
    assert [ui.deviceBox.itemText(row) for row in range(ui.deviceBox.count)] == ["auto", "cpu"]
    parameters.inputVolume = add_volume()
    parameters.threshold, parameters.smoothing, parameters.device = 12.5, 7, "cpu"
    parameters.note, parameters.fill, parameters.mode = "x", True, fixture_module[0].Mode.BELOW
    parameters.modelFile = pathlib.Path("/a/b")
    assert ui.inputSelector.currentNode() is parameters.inputVolume
    assert (ui.thresholdSlider.value, ui.smoothingBox.value, ui.deviceBox.currentText) == (12.5, 7, "cpu")
    assert (ui.noteEdit.text, ui.fillBox.checked, ui.modeBox.currentText) == ("x", True, "BELOW")
    assert ui.modelFileEdit.currentPath == "/a/b"
    assert ui.applyButton.enabled
    parameters.inputVolume = None
    assert ui.inputSelector.currentNode() is None
    assert not ui.applyButton.enabled


def test_parameters_refuse_wrong_values(widget):
    for name, value in (("threshold", 1000), ("smoothing", -1), ("device", "tpu")):
        with pytest.raises(ValueError, match=str(value)):
            setattr(widget.parameters, name, value)
    for name, value in (("note", 3), ("fill", "yes"), ("modelFile", "/a/b"), ("inputVolume", "CT"), ("smoothing", 1.5)):
        with pytest.raises(TypeError):
            setattr(widget.parameters, name, value)
    assert (widget.parameters.threshold, widget.parameters.note) == (100, "none")


def test_a_disconnected_gui_is_left_alone(widget):
    parameters = widget.parameters
    widget.setParameters(None)
    parameters.note = "changed"
    assert widget.ui.noteEdit.text == "none"
    widget.ui.noteEdit.text = "typed"
    assert parameters.note == "changed"


def test_a_scene_comes_back_from_a_bundle(widget, tmp_path, add_volume):
    parameters = widget.parameters
    parameters.inputVolume, parameters.note, parameters.threshold = add_volume(), "kept", 33
    widget.ui.applyButton.click()
    before = slicer.util.arrayFromSegmentBinaryLabelmap(
        parameters.outputSegmentation,
        parameters.outputSegmentation.GetSegmentation().GetNthSegmentID(0),
        parameters.inputVolume,
    )
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    assert (widget.parameters.note, widget.parameters.inputVolume) == ("none", None)
    assert widget.ui.noteEdit.text == "none"
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    parameters = widget.parameters
    assert (widget.ui.noteEdit.text, parameters.threshold) == ("kept", 33)
    assert widget.ui.inputSelector.currentNode().GetName() == "CT"
    segment_id = parameters.outputSegmentation.GetSegmentation().GetNthSegmentID(0)
    after = slicer.util.arrayFromSegmentBinaryLabelmap(
        parameters.outputSegmentation, segment_id, parameters.inputVolume
    )
    np.testing.assert_array_equal(after, before)
    assert before.sum() == (np.arange(120) > 33).sum()


def test_apply_works_on_the_real_scene(widget, add_volume):
    volume = add_volume()
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.applyButton.click()
    segmentation = widget.parameters.outputSegmentation
    segment_id = segmentation.GetSegmentation().GetNthSegmentID(0)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume)
    np.testing.assert_array_equal(mask > 0, slicer.util.arrayFromVolume(volume) > 100)
    assert widget.ui.outputSelector.currentNode() is segmentation
    assert host.selectedModules == ["SegmentEditor"]


def test_a_displayed_error_is_recorded(widget, add_volume):
    widget.parameters.inputVolume, widget.parameters.note = add_volume(), "fail"
    widget.ui.applyButton.click()
    assert [message.kind for message in host.messages] == ["error"]
    assert "It failed" in host.messages[0].text
    assert "asked to fail" in host.messages[0].text
    assert "ValueError: asked to fail" in host.take_errors()  # tryWithErrorDisplay raises it again
    assert host.selectedModules == []


# Child processes and waiting


def test_a_child_process_reports_while_the_loop_runs(widget):
    program = "import sys; print('line', flush=True); print('ende: ä'); sys.exit(3)"
    widget.logic.start(sys.executable, ["-X", "utf8", "-c", program])
    assert host.pump(lambda: widget.logic.exitCode is not None, 30)
    assert widget.logic.exitCode == 3
    assert widget.logic.output.decode().split("\n")[:2] == ["line", "ende: ä"]


def test_a_killed_child_process_is_noticed(widget):
    widget.logic.start(sys.executable, ["-c", "import time; time.sleep(60)"])
    assert widget.logic.process_.waitForStarted()
    widget.logic.process_.kill()
    assert host.pump(lambda: widget.logic.exitCode is not None, 10)
    assert widget.logic.exitCode == -1


WAITING = "import sys, time; print('ready', flush=True); time.sleep(60)"
UNTIL_END_OF_INPUT = "import sys; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture(params=["cold", "warm"])
def temperature(request, monkeypatch):
    """Whether a module that PythonSlicer runs finds libraries imported when it starts."""
    if request.param == "cold":
        monkeypatch.setenv("SLICER_HOST_COLD", "1")
    elif sys.platform == "linux":
        assert host.pump((Path(slicer.app.slicerHome) / "bin" / "warm_python").exists, 300)


@pytest.fixture
def launched(widget, tmp_path, monkeypatch, temperature):
    """launched(program) starts it through PythonSlicer and returns the process ids of the launcher and of its child."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def launch(program):
        (tmp_path / "program.py").write_text(program)
        widget.logic.start("PythonSlicer", ["-m", "program"])
        assert host.pump(lambda: b"ready" in widget.logic.output, 30)
        [child] = host.child_processes()
        return widget.logic.process_.processId(), child

    return launch


def has_ended(pid):
    return host.pump(lambda: pid not in host.child_processes(), 10)


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_signal_reaches_the_launcher_only(widget, launched, how):
    launcher, child = launched(WAITING)
    assert launcher != child
    getattr(widget.logic.process_, how)()
    assert host.pump(lambda: widget.logic.exitCode is not None, 10)
    assert widget.logic.exitCode == -1
    assert host.child_processes() == [child]
    os.kill(child, signal.SIGKILL)
    assert has_ended(child)


def test_the_end_of_input_reaches_the_child(widget, launched):
    _launcher, child = launched(UNTIL_END_OF_INPUT)
    widget.logic.process_.closeWriteChannel()
    assert has_ended(child)
    assert host.pump(lambda: widget.logic.exitCode == 0, 10)


def test_input_of_a_killed_launcher_ends_when_its_process_is_deleted(widget, launched):
    _launcher, child = launched(UNTIL_END_OF_INPUT)
    widget.logic.process_.kill()
    assert host.pump(lambda: widget.logic.exitCode is not None, 10)
    assert has_ended(child)


def test_a_child_that_dies_by_a_signal_is_an_ordinary_exit_of_the_launcher(widget, launched):
    _launcher, child = launched(WAITING)
    os.kill(child, signal.SIGKILL)
    assert host.pump(lambda: widget.logic.exitCode is not None, 10)
    assert widget.logic.exitCode == 1
    log = widget.logic.process_.readAllStandardError().data().decode()
    assert re.fullmatch(r"error: \[.*python-real\] exit abnormally - Report the problem\.\n", log)


def test_an_exit_code_is_handed_on():
    done = subprocess.run(["PythonSlicer", "-c", "import sys; sys.exit(7)"], timeout=60, check=False)
    assert done.returncode == 7


TELL = """
import json, os, sys
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors="backslashreplace")
found = {"arguments": sys.argv[1:], "folder": os.getcwd(), "name": __name__, "path": sys.path[0], "input": input()}
print(json.dumps(found), json.dumps(dict(os.environ)), flush=True)
print("a complaint", file=sys.stderr)
sys.exit(7)
"""


def test_a_child_has_streams_arguments_folder_and_environment_of_its_own(tmp_path, monkeypatch, temperature):
    (tmp_path / "tell.py").write_text(TELL)
    environment = {
        **os.environ,
        "PWD": str(tmp_path),
        "PYTHONPATH": str(tmp_path),
        "MINE": "caf\u00e9",
        "PYTHONSAFEPATH": "1",
    }
    command = ["PythonSlicer", "-m", "tell", "one", "two words"]
    done = subprocess.run(
        command, input="hello\n", env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (7, "a complaint\n")
    found, seen = (json.loads(text) for text in re.split("(?<=}) (?={)", done.stdout))
    assert found == {
        "arguments": ["one", "two words"],
        "folder": str(tmp_path),
        "name": "__main__",
        "path": str(tmp_path),
        "input": "hello",
    }
    assert seen.items() >= environment.items()


def test_a_child_that_is_left_behind_fails_the_test(launched):
    _launcher, child = launched(WAITING)
    with pytest.raises(AssertionError, match=str(child)):
        host.assert_no_children(0.1)
    assert has_ended(child)


def test_the_startup_environment_is_that_of_the_users_shell(monkeypatch):
    """Without what the launcher has set and without Slicer's programs."""
    environment = slicer.app.startupEnvironment()
    assert environment.value("HOME") == os.environ["HOME"]
    assert not environment.contains("PYTHONPATH")
    folder = str(Path(slicer.app.slicerHome) / "bin")
    assert folder in os.environ["PATH"].split(os.pathsep)
    assert folder not in environment.value("PATH").split(os.pathsep)


# The self-test


def test_reload_and_test_runs_the_tests_in_one_object(fixture_module, monkeypatch):
    calls = []
    kind = fixture_module[0].HostFixtureTest
    monkeypatch.delattr(kind, "runTest")
    monkeypatch.setattr(kind, "setUp", lambda self: calls.append(("setUp", id(self))))
    monkeypatch.setattr(kind, "test_second", lambda self: calls.append(("second", id(self))), raising=False)
    host.run_self_test("HostFixture")
    assert [name for name, _ in calls] == ["setUp", "setUp", "second"]
    assert len({identity for _, identity in calls}) == 1


def test_a_skipped_test_is_an_error_of_reload_and_test(fixture_module, monkeypatch):
    """`runTest` of Slicer's base class calls setUp itself and lets SkipTest through."""
    kind = fixture_module[0].HostFixtureTest
    monkeypatch.delattr(kind, "runTest")
    monkeypatch.setattr(kind, "setUp", lambda self: self.skipTest("torch is not installed"))
    with pytest.raises(unittest.SkipTest, match="torch is not installed"):
        host.run_self_test("HostFixture")


def test_a_module_without_tests_is_only_logged(fixture_module, monkeypatch, caplog):
    kind = fixture_module[0].HostFixtureTest
    for name in ("runTest", "test_parameters"):
        monkeypatch.delattr(kind, name)
    host.run_self_test("HostFixture")
    assert "No test is defined in HostFixtureTest" in caplog.text
    monkeypatch.delattr(fixture_module[0], "HostFixtureTest")
    with pytest.raises(AssertionError, match="HostFixtureTest"):
        host.run_self_test("HostFixture")


def test_pump_gives_up():
    assert host.pump(lambda: False, timeout_s=0.05) is False
    qt.QTimer.singleShot(0, lambda: 1 / 0)
    timer = qt.QElapsedTimer()
    timer.start()
    assert host.pump(lambda: False, timeout_s=20) is False
    assert timer.elapsed() < 5000
    assert "ZeroDivisionError" in host.take_errors()


def steps_of_a_thread(seconds):
    """How many steps of nearly nothing a thread makes while the event loop runs."""
    count, stop = 0, threading.Event()

    def work():
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)  # hands the lock over

    thread = threading.Thread(target=work)
    thread.start()
    host.pump(lambda: False, seconds)
    stop.set()
    thread.join()
    return count


def test_a_thread_gets_on_only_while_python_runs_on_the_main_thread():
    alone = steps_of_a_thread(0.5)
    timer = qt.QTimer()
    timer.connect("timeout()", lambda: time.sleep(0.001))
    timer.start(1)
    assert steps_of_a_thread(0.5) > 5 * alone


# Files


def test_files_are_written_and_read_by_slicers_own_storage(add_volume, tmp_path):
    volume = add_volume()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Seg")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.GetSegmentation().AddEmptySegment("part", "Part", (1, 0, 0.5))
    mask = (slicer.util.arrayFromVolume(volume) > 50).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, "part", volume)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    roi.SetSize(10, 20, 30)
    nodes = {"volume.nrrd": volume, "volume.nii.gz": volume, "seg.seg.nrrd": segmentation, "box.mrk.json": roi}
    for name, node in nodes.items():
        assert slicer.util.saveNode(node, str(tmp_path / name))
    slicer.mrmlScene.Clear(False)

    for name in ("volume.nrrd", "volume.nii.gz"):
        loaded = slicer.util.loadVolume(str(tmp_path / name))
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded).ravel(), np.arange(120))
    again = slicer.util.loadSegmentation(str(tmp_path / "seg.seg.nrrd"))
    assert again.GetSegmentation().GetSegment("part").GetColor() == pytest.approx((1, 0, 0.5), abs=0.01)
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(again, "part", loaded), mask)
    box = slicer.util.loadMarkups(str(tmp_path / "box.mrk.json"))
    assert box.GetClassName() == "vtkMRMLMarkupsROINode"
    assert box.GetSize() == pytest.approx((10, 20, 30))
    with pytest.raises(RuntimeError):
        slicer.util.loadVolume(str(tmp_path / "missing.nrrd"))


# Other hosts

README = Path(host.__file__).with_name("README.md")
OTHERS = [file.name for file in Path(__file__).parent.glob("*.py") if not file.name.startswith("test_host")]


@pytest.mark.parametrize("name", OTHERS)
def test_tests_of_the_module_use_only_what_the_readme_says_of_the_host(name):
    section = README.read_text().partition("## Functions")[2].partition("\n## ")[0]
    documented = set(re.findall(r"\w+(?=[(`])", section))
    internals = {file.stem for file in README.parent.glob("*.py")} - {"host", "qt", "ctk"}
    source = ast.parse((Path(__file__).with_name(name)).read_text())
    used, imported = set(), set()
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "host":
            used.add(node.attr)
        if isinstance(node, ast.Import):
            imported |= {item.name for item in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert used <= documented, used - documented
    assert not imported & internals
    assert all(hasattr(host, item) for item in used)


def test_the_readme_names_every_function_of_the_host():
    section = README.read_text().partition("## Functions")[2].partition("\n## ")[0]
    source = ast.parse(Path(host.__file__).read_text())
    functions = {node.name for node in source.body if isinstance(node, ast.FunctionDef)}
    assert {name for name in functions if not name.startswith("_")} <= set(re.findall(r"\w+(?=\()", section))
