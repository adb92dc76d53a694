"""The stand-in host itself: it does what Slicer does, and what is wrong with a module does not pass unnoticed."""

import functools
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk

import ctk
import host
import qt
from pythonqt_lint import find_pyside_only_idioms

HERE = Path(__file__).resolve().parent
FIXTURE = HERE / "fixture" / "HostFixture.py"


def load_form(tmp_path, body, custom=""):
    form = f"<ui version='4.0'><widget class='QWidget' name='form'>{body}</widget>{custom}</ui>"
    (tmp_path / "form.ui").write_text(form)
    return slicer.util.loadUI(str(tmp_path / "form.ui"))


# PythonQt's conventions


def test_properties_are_attributes():
    button = qt.QPushButton("Apply")
    assert button.text == "Apply"
    button.text, button.enabled, button.name = "Cancel", False, "cancelButton"
    assert (button.text, button.enabled, button.objectName) == ("Cancel", False, "cancelButton")
    assert button.className() == "QPushButton"
    bar = qt.QProgressBar()
    bar.value, bar.format = 5, "%v done"
    assert bar.text == "5 done"  # a virtual reader
    assert bar.sizeHint.width() > 0
    box = qt.QDoubleSpinBox()
    box.value = np.float64(3.5)
    assert box.value == 3.5
    with pytest.raises(TypeError):
        button.text()


def test_texts_take_anything_and_whole_numbers_drop_their_fraction():
    label, section, box = qt.QLabel("x"), ctk.ctkCollapsibleButton(), qt.QSpinBox()
    for widget in (label, section):
        widget.text = None
        assert widget.text == "None"
        widget.text = pathlib.PurePosixPath("/a")
        assert widget.text == "/a"
    box.value = 2.7
    assert box.value == 2


def test_flags_of_a_property_are_no_numbers():
    label = qt.QLabel()
    label.textInteractionFlags = qt.Qt.TextSelectableByMouse
    flags = label.textInteractionFlags
    with pytest.raises(TypeError):
        flags | qt.Qt.TextSelectableByKeyboard
    assert flags.testFlag(qt.Qt.TextSelectableByMouse)
    label.textInteractionFlags = flags
    assert label.textInteractionFlags == flags


def test_lists_come_back_as_tuples():
    slicer.app.settings().setValue("Fixture/List", ["a", "b"])
    assert slicer.app.settings().value("Fixture/List") == ("a", "b")
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLModelNode"]
    assert box.nodeTypes == ("vtkMRMLModelNode",)
    assert isinstance(qt.QStringListModel, type)


def test_what_pythonqt_refuses_is_refused():
    button = qt.QPushButton()
    with pytest.raises(AttributeError, match="tooltip"):
        button.tooltip = "it is called toolTip"
    with pytest.raises(AttributeError, match="read-only"):
        button.width = 3
    with pytest.raises(TypeError, match="int64"):
        qt.QSpinBox().value = np.int64(3)
    with pytest.raises(AttributeError, match="colour"):
        ctk.ctkColorPickerButton().colour = qt.QColor(1, 2, 3)
    with pytest.raises(TypeError, match="keyword"):
        qt.QLabel(text="x")
    with pytest.raises(TypeError, match="keyword"):
        slicer.qMRMLNodeComboBox(objectName="x")
    with pytest.raises(ValueError, match="QLabel"):
        qt.QLabel(3.5)
    assert not [name for name in ("Signal", "Slot", "Property", "QtCore") if hasattr(qt, name)]


def test_a_class_of_a_module_may_have_its_own_attributes():
    class Panel(qt.QWidget):
        pass

    panel = Panel()
    panel.logic, panel.windowTitle = "mine", "title"
    assert (panel.logic, panel.windowTitle) == ("mine", "title")


def test_enum_values_of_instances():
    assert qt.QProcess().NotRunning == qt.QProcess.NotRunning
    with pytest.raises(AttributeError):
        _ = qt.QProcess().NoSuchValue


def test_enum_values_are_integers():
    assert (qt.Qt.Checked, int(qt.QProcess.CrashExit)) == (2, 1)
    assert qt.Qt.AlignRight | qt.Qt.AlignVCenter == 0x0002 | 0x0080


def test_signals_are_connected_by_their_signature():
    button, heard = qt.QPushButton(), []
    button.checkable = True

    def on_clicked():
        heard.append("clicked()")

    button.connect("clicked(bool)", heard.append)
    button.connect("clicked()", on_clicked)
    button.click()
    assert sorted(heard, key=str) == [True, "clicked()"]
    assert button.disconnect("clicked()", on_clicked)
    button.click()
    assert sorted(heard, key=str) == [False, True, "clicked()"]
    button.connect("toggled(bool)", button, "setDisabled(bool)")
    button.click()
    assert not button.enabled


@pytest.mark.parametrize("signature", ["clickd(bool)", "clicked(int)", "clicked", "currentIndexChanged(QString)"])
def test_an_unknown_signal_is_refused_and_collected(signature):
    for sender in (qt.QPushButton(), qt.QComboBox(), slicer.qMRMLNodeComboBox()):
        assert sender.connect(signature, print) is False
        assert f"{sender.className()} has no signal '{signature}'" in host.take_errors()


def test_a_slot_gets_no_more_than_its_signal_has():
    button = qt.QPushButton()
    button.connect("clicked()", lambda checked: None)
    button.click()
    assert "missing 1 required positional argument" in host.take_errors()


def test_only_functions_and_methods_get_fewer_arguments_than_the_signal_has():
    class Listener:
        def method(self):
            heard.append("method")

        def withDefault(self, checked=None):
            heard.append(checked)

        def __call__(self):
            heard.append("object")

    heard, listener = [], Listener()
    for target in (lambda: heard.append("function"), listener.method, listener.withDefault):
        button = qt.QPushButton()
        assert button.connect("clicked(bool)", target)
        button.click()
    assert heard == ["function", "method", False]
    for target in (functools.partial(heard.append), listener, functools.partial(lambda: None)):
        button = qt.QPushButton()
        assert button.connect("clicked(bool)", target)
        button.click()
    assert heard[3:] == [False]
    assert host.take_errors().count("TypeError") == 2


class Job:
    """Connected to its own process and timer, as jobs are."""

    def __init__(self):
        self.calls = 0
        self.timer = qt.QTimer()
        self.timer.connect("timeout()", self.onTimeout)

    def onTimeout(self):
        self.calls += 1


def test_a_connection_keeps_an_object_alive_and_a_circle_is_never_collected():
    timer = qt.QTimer()
    timer.connect("timeout()", Job().onTimeout)
    assert len(host.objects_alive("Job")) == 1  # Slicer's receiver holds the bound method; PySide6's would not
    timer.disconnect("timeout()")
    [job] = host.objects_alive("Job")  # now by its own timer only
    timer = job.timer
    del job
    timer.disconnect("timeout()")
    del timer
    assert host.objects_alive("Job") == []


def test_deleting_the_sender_lets_go_of_what_was_connected():
    job = Job()
    job.timer.deleteLater()
    del job
    assert host.objects_alive("Job") == []
    button = qt.QPushButton()
    button.connect("clicked()", Job().onTimeout)
    for job in host.objects_alive("Job"):
        job.timer.disconnect("timeout()", job.onTimeout)
    del job
    assert len(host.objects_alive("Job")) == 1
    del button
    assert host.objects_alive("Job") == []


def test_single_shots_take_any_callable():
    job, heard = Job(), []
    qt.QTimer.singleShot(1, job.onTimeout)
    qt.QTimer.singleShot(2, lambda: heard.append(job.calls))
    qt.QTimer.singleShot(0, job.timer, "stop()")
    assert host.pump(lambda: heard, 5)
    assert heard == [1]


# Nothing goes unnoticed


def test_exceptions_in_slots_timers_observers_and_threads_are_collected():
    def fail(name):
        raise RuntimeError(f"in a {name}")

    button, node = qt.QPushButton(), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
    button.connect("clicked()", lambda: fail("slot"))
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: fail("observer"))
    qt.QTimer.singleShot(0, lambda: fail("timer"))
    thread = threading.Thread(target=lambda: fail("thread"))
    thread.start()
    thread.join()
    button.click()
    node.Modified()
    host.pump(lambda: "timer" in "".join(host.collected_errors()), 2)
    with pytest.raises(AssertionError) as failure:
        host.assert_clean()
    for name in ("slot", "observer", "timer", "thread"):
        assert f"in a {name}" in str(failure.value)
    assert host.collected_errors() == []


@pytest.mark.slow
def test_a_test_with_an_exception_in_a_slot_fails(tmp_path):
    """The whole way: pytest, this folder's conftest.py, and a test that passes but for its slot."""
    (tmp_path / "conftest.py").write_text((HERE / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
        import qt
        def test_with_error():
            qt.QTimer.singleShot(0, lambda: 1 / 0)
        def test_without():
            pass
        """)
    )
    folders = [str(HERE), str(HERE.parent / "Python"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "SLICER_HOST": str(HERE.parent / "Host")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "ZeroDivisionError" in done.stdout


def test_unknown_widget_classes_are_reported(tmp_path):
    custom = "<customwidgets><customwidget><class>ctkNoSuchWidget</class><extends>QLabel</extends></customwidget>"
    body = "<widget class='ctkNoSuchWidget' name='declared'/><widget class='QNoSuchWidget' name='undeclared'/>"
    form = load_form(tmp_path, body, custom + "</customwidgets>")
    assert isinstance(slicer.util.findChild(form, "declared"), qt.QLabel)
    found = host.take_errors()
    assert "'ctkNoSuchWidget'" in found
    assert "'QNoSuchWidget'" in found


def test_unknown_properties_slots_and_signals_of_a_form_are_reported(tmp_path):
    wrong = "<property name='tooltip'><string>x</string></property>"
    right = "<property name='toolTip'><string>y</string></property>"
    own = "<property name='SlicerParameterName' stdset='0'><string>z</string></property>"
    connection = (
        "<connection><sender>button</sender><signal>{}</signal><receiver>form</receiver><slot>{}</slot></connection>"
    )
    pairs = (("clicked()", "noSuchSlot()"), ("noSuchSignal()", "close()"), ("toggled(bool)", "setEnabled(bool)"))
    connections = "".join(connection.format(*pair) for pair in pairs)
    body = f"<widget class='QPushButton' name='button'>{wrong}{right}{own}</widget>"
    form = load_form(tmp_path, body, f"<connections>{connections}</connections>")
    button = slicer.util.findChild(form, "button")
    assert (button.toolTip, button.property("SlicerParameterName")) == ("y", "z")
    button.checkable = True
    button.toggled.emit(False)
    assert not form.enabled
    found = host.take_errors()
    assert len(found.splitlines()) == 3
    for name in ("'tooltip'", "'noSuchSlot()'", "'noSuchSignal()'"):
        assert name in found


def test_qts_own_warnings_are_collected():
    qt.QObject().startTimer(-1)
    assert "Qt: QObject::startTimer" in host.take_errors()
    process = qt.QProcess()
    process.start(sys.executable, ["-c", "import time; time.sleep(60)"])
    assert process.waitForStarted()
    del process
    assert "Destroyed while process" in host.take_errors()


# Messages, dialogs, and what would leave the process


def test_messages_are_recorded_and_answered():
    host.answerNext("question", qt.QMessageBox.No)
    assert qt.QMessageBox.question(None, "Sure?", "Really?") == qt.QMessageBox.No
    assert qt.QMessageBox.question(None, "Sure?", "Really?") == qt.QMessageBox.Yes
    qt.QMessageBox.critical(None, "Bad", "It broke")
    slicer.util.errorDisplay("It broke again", windowTitle="Worse", detailedText="why")
    slicer.util.infoDisplay("Done")
    box = qt.QMessageBox()
    box.text, box.icon = "Careful", qt.QMessageBox.Warning
    assert box.exec_() == qt.QMessageBox.Ok
    kinds = [message.kind for message in host.messages]
    assert kinds == ["question", "question", "error", "error", "info", "warning"]
    assert host.messages[3] == host.Message("error", "Worse", "It broke again", "why")
    host.reset()
    assert host.messages == []


CONFIRMATIONS = [("confirmOkCancelDisplay", True), ("confirmYesNoDisplay", True), ("confirmRetryCloseDisplay", False)]


@pytest.mark.parametrize(("name", "usual"), CONFIRMATIONS)
def test_questions_are_answered_by_accepting_or_rejecting(name, usual):
    ask = getattr(slicer.util, name)
    for answer in (False, True):
        host.answerNext("question", answer)
        assert ask("Go on?", windowTitle="Title") is answer
    assert ask("Go on?") is usual
    assert [message.kind for message in host.messages] == ["question"] * 3
    assert host.messages[0].title == "Title"


def test_in_testing_mode_nothing_is_shown_and_ok_is_not_pressed():
    """Slicer compares True with a button: every question counts as declined."""
    assert not slicer.app.testingEnabled()
    with host.testing_mode():
        assert slicer.app.testingEnabled()
        assert [getattr(slicer.util, name)("Go on?") for name, _ in CONFIRMATIONS] == [False, False, False]
        slicer.util.errorDisplay("It broke")
    assert not slicer.app.testingEnabled()
    assert host.messages == []


def test_displays_take_only_what_message_boxes_have():
    slicer.util.errorDisplay("x", windowTitle="y", detailedText="z", standardButtons=qt.QMessageBox.Close)
    slicer.util.errorDisplay("x", title="y")
    assert host.take_errors() == "slicer.util does nothing with title of a message box"
    with pytest.raises(TypeError):
        slicer.util.confirmOkCancelDisplay("x", "y", None, qt.QMessageBox.Ok)
    with pytest.raises(TypeError):
        slicer.util.pip_install("x", quiet=True)


def test_there_is_a_main_window_for_dialogs():
    assert slicer.util.mainWindow().className() == "qSlicerMainWindow"
    assert not slicer.util.mainWindow().visible


def test_dialogs_do_not_wait():
    assert qt.QFileDialog.getOpenFileName(None, "Open", "", "*.nrrd") == ""
    host.answerNext("file", "/data/model.sam3d")
    assert qt.QFileDialog.getOpenFileName(None, "Open", "", "*.sam3d") == "/data/model.sam3d"
    assert qt.QDialog().exec_() == qt.QDialog.Rejected
    slicer.util.delayDisplay("Testing", 5000)
    assert [message.kind for message in host.messages] == ["file", "file", "dialog"]


def test_requests_to_the_outside_are_recorded_only():
    qt.QDesktopServices.openUrl(qt.QUrl("https://example.org/docs"))
    slicer.util.pip_install("no-such-package==1.0")
    slicer.util.selectModule("SegmentEditor")
    with pytest.raises(RuntimeError, match="NoSuchModule"):
        slicer.util.selectModule("NoSuchModule")
    assert host.openedUrls == ["https://example.org/docs"]
    assert host.pipInstalls == ["no-such-package==1.0"]
    assert host.selectedModules == ["SegmentEditor"]


def test_the_application_keeps_to_its_own_folder():
    slicer.app.settings().setValue("Fixture/Key", "value")
    assert qt.QSettings().value("Fixture/Key") == "value"
    assert qt.QSettings().fileName().startswith(slicer.app.slicerHome)
    assert Path(slicer.app.temporaryPath).is_dir()
    assert Path(slicer.util.tempDirectory()).is_relative_to(slicer.app.temporaryPath)
    host.reset()
    assert qt.QSettings().value("Fixture/Key") is None
    output = subprocess.run(["PythonSlicer", "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert output.stdout.strip() == sys.prefix


# The lint

FORBIDDEN = [
    ("import PySide6", 1, "import PySide6"),
    ("from PySide6.QtCore import QTimer", 1, "import PySide6"),
    ("import qt\nclass A:\n    done = qt.Signal(int)", 3, "qt.Signal"),
    ("import qt\n@qt.Slot()\ndef f(): pass", 2, "qt.Slot"),
    ("import qt\nx = qt.Property(int)", 2, "qt.Property"),
    ("from qt import Signal", 1, "qt.Signal"),
    ("import qt\nt = qt.QtCore.QTimer()", 2, "qt.QtCore"),
    ("import qt\nb = qt.QPushButton(text='x')", 2, "keyword arguments"),
    ("from qt import QLabel\nb = QLabel(text='x')", 2, "keyword arguments"),
    ("import ctk\nb = ctk.ctkComboBox(parent=None)", 2, "keyword arguments"),
    ("import slicer\nb = slicer.qMRMLNodeComboBox(parent=None)", 2, "keyword arguments"),
    ("import qt\nqt.QTimer.singleShot(msec=0)", 2, "keyword arguments"),
    ("import imp", 1, "import imp"),
    ("import qt\nc = qt.QTextCodec", 2, "qt.QTextCodec"),
]


@pytest.mark.parametrize(("source", "line", "expected"), FORBIDDEN)
def test_lint_finds_each_idiom(tmp_path, source, line, expected):
    (tmp_path / "module.py").write_text(source)
    found = find_pyside_only_idioms(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"module.py:{line}: ")
    assert expected in found[0]


def test_loading_a_module_lints_it(tmp_path):
    fixture = FIXTURE.read_text().replace("HostFixture", "BadFixture")
    (tmp_path / "BadFixture.py").write_text(fixture + "\n\ndef unused():\n    return qt.QLabel(text='x')\n")
    (tmp_path / "BadFixtureLib").mkdir()
    (tmp_path / "BadFixtureLib" / "helper.py").write_text("def unused():\n    import PySide6\n")
    form = tmp_path / "Resources" / "UI" / "BadFixture.ui"
    form.parent.mkdir(parents=True)
    form.write_text((FIXTURE.parent / "Resources" / "UI" / "HostFixture.ui").read_text())
    host.load_module(tmp_path / "BadFixture.py")
    found = host.take_errors().splitlines()
    assert len(found) == 2
    assert "qt.QLabel" in found[0]
    assert "PySide6" in found[1]


def test_lint_accepts_what_slicer_accepts(tmp_path):
    good = "import qt, slicer\nb = qt.QPushButton('x')\nb.text = 'y'\nslicer.util.errorDisplay('x', windowTitle='y')\n"
    (tmp_path / "good.py").write_text(good)
    assert find_pyside_only_idioms(tmp_path / "good.py") == []
    assert find_pyside_only_idioms(FIXTURE) == []
