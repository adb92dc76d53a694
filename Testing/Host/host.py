"""The stand-in host: load a scripted module of 3D Slicer, drive its panel and look at the scene, without Slicer.

    import host
    host.install()
    python, module, widget = host.load_module("MyModule/MyModule.py")
    widget.ui.applyButton.click()
    assert host.pump(lambda: widget.logic.done, timeout_s=10)
    host.assert_clean()

`qt`, `ctk`, `slicer`, `SampleData` can be imported like in Slicer after `install`. One process has one host.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer

import packages
import qt
import qt_loop
import reports
from mrml_scene import releaseWidgets
from pythonqt_lint import find_pyside_only_idioms
from reports import (  # noqa: F401 - part of the host's interface
    Message,
    answerNext,
    messages,
    openedUrls,
    pipConstraints,
    pipInstalls,
    sampleDataSources,
    selectedModules,
    torchInstalls,
)

_PUMP_MS = 20  # how often pump() looks at its condition
_loaded: dict[str, tuple[Any, str]] = {}  # name -> (module widget's parent, folder added to sys.path)


def install(slicer_source: str | Path | None = None) -> Any:
    """Create the application once and return it.

    `slicer_source`, or the environment variable SLICER_PYTHON_SRC, is the folder Base/Python/slicer of Slicer's
    sources; then Slicer's own ScriptedLoadableModule, parameterNodeWrapper, i18n and packaging are used.
    """
    if hasattr(slicer, "app"):
        return slicer.app
    source = slicer_source or os.environ.get("SLICER_PYTHON_SRC")
    reports.collectExceptions()
    folder = Path(tempfile.mkdtemp(prefix="slicer-host-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    slicer.modules = sys.modules["slicer.modules"] = types.ModuleType("slicer.modules")
    slicer.moduleNames = sys.modules["slicer.moduleNames"] = types.ModuleType("slicer.moduleNames")
    _addWidgetsAndApplication(folder)
    importlib.import_module("slicer.util")
    _addPythonSide(Path(source) if source else None)
    sys.modules["SampleData"] = importlib.import_module("sample_data").createModule()
    importlib.import_module("slicer_util").withoutUser()
    return slicer.app


def _addWidgetsAndApplication(folder: Path) -> None:
    qmrml, modules = importlib.import_module("qmrml"), importlib.import_module("modules")
    for origin in (qmrml, modules):
        for name in vars(origin):
            if name.startswith(("qMRML", "qSlicer")):
                setattr(slicer, name, getattr(origin, name))
    slicer.app = importlib.import_module("application").qSlicerApplication(folder)
    slicer.mrmlScene = slicer.app.mrmlScene()
    for name, logic in slicer.app.logics.items():
        title = type(logic).__name__.removeprefix("vtkSlicer").removesuffix("Logic").removesuffix("Module")
        setattr(slicer.modules, name, modules.qSlicerCoreModule(title, logic=logic))
    slicer.modules.data = modules.qSlicerCoreModule("Data")
    slicer.modules.sampledata = modules.qSlicerScriptedLoadableModule("SampleData")
    modules.addSegmentEditor()


def _addPythonSide(source: Path | None) -> None:
    """The part of the package `slicer` that is not in slicer-core: Slicer's own files, or small ones of this folder."""
    if source is not None:
        if not (source / "ScriptedLoadableModule.py").is_file():
            raise FileNotFoundError(f"{source} is not the folder Base/Python/slicer of Slicer's sources")
        slicer.__path__.append(str(source))
        names = ["ScriptedLoadableModule", "i18n", "parameterNodeWrapper", "packaging"]
        for name in names:
            importlib.import_module(f"slicer.{name}")
        return
    translation = types.ModuleType("slicer.i18n")
    translation.tr = lambda text: text
    translation.translate = lambda context, text: text
    sides = {
        "i18n": translation,
        "ScriptedLoadableModule": importlib.import_module("scripted_module"),
        "parameterNodeWrapper": importlib.import_module("parameter_node_wrapper"),
    }
    for name, module in sides.items():
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)


def load_module(path: str | Path) -> tuple[types.ModuleType, Any, Any]:
    """Import a scripted module afresh, as Slicer does when it starts, then open its panel.

    All this happens in a fresh Slicer: every Python package that Slicer does not ship is hidden. Then the panel is left
    and entered again with what is installed, unless the caller hides that as well (`hide_packages`).
    Return the Python module, the instance of its class <Name>, and the set-up widget, whose `parent` can be shown.
    """
    path = Path(path).resolve()
    reports.errors.extend(_lint(path))
    if path.stem in _loaded:
        unload_module(path.stem)
    sys.path.insert(0, str(path.parent))
    with hide_packages():
        _importAfresh(path.stem)
        python, instance, parent = _loadAndEnter(path)
    parent.exit()
    parent.enter()
    return python, instance, parent.self()


@functools.lru_cache
def _importAfresh(name: str) -> None:
    """Import the module and its package <Name>Lib once without what other tests have imported, and throw them away."""
    own = {key: value for key, value in sys.modules.items() if key.partition(".")[0] in (name, f"{name}Lib")}
    for key in own:
        del sys.modules[key]
    try:
        importlib.import_module(name)
    finally:
        for key in [key for key in sys.modules if key.partition(".")[0] in (name, f"{name}Lib")]:
            del sys.modules[key]
        sys.modules.update(own)


def _loadAndEnter(path: Path) -> tuple[types.ModuleType, Any, Any]:
    name = path.stem
    sys.modules.pop(name, None)
    python = importlib.import_module(name)
    entry = slicer.qSlicerScriptedLoadableModule(name, str(path))
    setattr(slicer.modules, name.lower(), entry)
    instance = getattr(python, name)(entry)
    setattr(slicer.modules, f"{name}Instance", instance)
    _completeStartup()
    parent = slicer.qSlicerScriptedLoadableModuleWidget(entry)
    _loaded[name] = (parent, str(path.parent))
    entry.setWidgetRepresentation(parent)
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    parent.reload()
    slicer.app.moduleManager().moduleLoaded.emit(name)
    parent.enter()
    return python, instance, parent


@functools.lru_cache
def _lint(path: Path) -> tuple[str, ...]:
    """What only works with PySide6, in the module's file and in its package <Name>Lib."""
    package = path.with_name(f"{path.stem}Lib")
    found = find_pyside_only_idioms(path)
    return tuple(found + find_pyside_only_idioms(package) if package.is_dir() else found)


def _completeStartup() -> None:
    """Tell the modules that Slicer has started; each of them hears it once."""
    slicer.app.startupCompleted.emit()
    slicer.app.disconnect("startupCompleted()")


def unload_module(name: str) -> None:
    """Leave and clean up a module, as Slicer does when it ends."""
    parent, folder = _loaded.pop(name)
    parent.exit()
    slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)
    parent.hide()
    parent.module().setWidgetRepresentation(None)
    parent.setPythonWidget(None)
    parent.deleteLater()
    for attribute in (name.lower(), f"{name}Instance", f"{name}Widget"):
        slicer.modules.__dict__.pop(attribute, None)
    sys.modules.pop(name, None)
    if folder in sys.path:
        sys.path.remove(folder)


def unload_all() -> None:
    for name in list(_loaded):
        unload_module(name)


def pump(condition: Callable[[], Any], timeout_s: float = 60.0) -> bool:
    """Run the event loop until `condition()` holds. Give up after `timeout_s`, or when an error has been collected."""
    before = len(reports.errors)
    end = time.monotonic() + timeout_s
    process_events()
    while not condition() and time.monotonic() < end and len(reports.errors) == before:
        with _printingExceptions():
            qt_loop.run(_PUMP_MS)
        process_events()
    return bool(condition())


@contextlib.contextmanager
def _printingExceptions() -> Iterator[None]:
    """PySide6 hands exceptions of some slots on to us; in Slicer they are printed."""
    try:
        yield
    except Exception:
        sys.excepthook(*sys.exc_info())


def process_events() -> None:
    """Deliver all waiting events, also those that delete objects."""
    with _printingExceptions():
        slicer.app.processEvents()
        slicer.app.sendPostedEvents(None, qt.QEvent.DeferredDelete)


def hide_packages(*names: str) -> contextlib.AbstractContextManager[None]:
    """A `with` block in which Python packages are not there: by default all that a fresh Slicer has not got.

    They are hidden from import, importlib.util.find_spec and importlib.metadata, here and in child processes that
    are started through PythonSlicer. `names` are those of distributions, such as "segment-anything".
    Installing a hidden package (pip_install, installTorch) shows it again.
    """
    return slicer.app.hiding.hide(set(names) or packages.notShipped())


@contextlib.contextmanager
def testing_mode() -> Iterator[None]:
    """A `with` block in which Slicer runs with --testing: slicer.util shows nothing and asks nobody."""
    slicer.app.setTesting(True)
    try:
        yield
    finally:
        slicer.app.setTesting(False)


def add_pytorch_extension() -> None:
    """From now until the end of the test the extension PyTorch is there (`import PyTorchUtils`)."""
    importlib.import_module("pytorch_utils").add()


def add_packaging() -> None:
    """From now until the end of the test `slicer.packaging` is there, as since Slicer 5.12."""
    importlib.import_module("slicer_util").addPackaging()


def run_self_test(name: str) -> None:
    """Run the tests of a loaded module as Slicer's "Reload and Test" does; what they raise is raised, SkipTest too."""
    slicer.selfTests[name]()


def mouse_click(widget: Any) -> None:
    """Press and release the left button in the middle of a widget."""
    place, left, none = qt.QPointF(widget.rect.center()), qt.Qt.LeftButton, qt.Qt.NoButton
    for kind, held in ((qt.QEvent.MouseButtonPress, left), (qt.QEvent.MouseButtonRelease, none)):
        slicer.app.sendEvent(widget, qt.QMouseEvent(kind, place, place, left, held, qt.Qt.NoModifier))


def selector_entries(selector: Any) -> list[str]:
    """The texts in the list of a qMRMLNodeComboBox, in order; "" for the separator."""
    box = selector.findChild(qt.QComboBox)
    return [box.itemText(row) for row in range(box.count)]


def choose_entry(selector: Any, text: str) -> None:
    """Choose in the list of a qMRMLNodeComboBox, as a user does: a node, None, or "Create new ..." and the like."""
    selector.chooseRow(selector_entries(selector).index(text))


def current_entry(selector: Any) -> str:
    """What a qMRMLNodeComboBox shows while its list is closed."""
    return selector.findChild(qt.QComboBox).currentText


def objects_alive(className: str) -> list[Any]:
    """All Python objects of a class that are still there after garbage collection: to see what a job leaves behind.

    A connection holds its callable and is not seen by the collector, as in Slicer.
    """
    process_events()
    gc.collect()
    return [item for item in gc.get_objects() if type(item).__name__ == className]


@contextlib.contextmanager
def warm_python(*libraries: str) -> Iterator[None]:
    """A `with` block in which modules that PythonSlicer runs (-m) have these libraries imported when they start.

    So they start at once; see warm_python.py for what differs. Outside of Linux they start as ever.
    """
    if sys.platform != "linux":
        yield
        return
    address = Path(slicer.app.slicerHome) / "bin" / "warm_python"
    program = Path(__file__).with_name("warm_python.py")
    command = [sys.executable, "-I", "-u", "-X", "utf8", program, address, *libraries]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True) as process:
        yield
        process.terminate()  # it may not have come further than its imports
    address.unlink(missing_ok=True)


def child_processes() -> list[int]:
    """Process ids of what runs as a child of a PythonSlicer, also where that launcher has been killed."""
    started = [int(file.name) for file in slicer.app.childrenFolder.iterdir()]
    return [pid for pid in started if _isRunning(pid)]


def _isRunning(pid: int) -> bool:
    """A process whose launcher was killed may stay a zombie where nobody waits for orphans, as in containers."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text() if Path("/proc").is_dir() else ""
    except (ProcessLookupError, FileNotFoundError):
        return False
    return not state.rpartition(")")[2].startswith(" Z")


def assert_no_children(patience_s: float = 20.0) -> None:
    """Fail if a child process still computes after `patience_s`, and kill it."""
    end = time.monotonic() + patience_s
    while child_processes() and time.monotonic() < end:
        time.sleep(0.02)
    left = child_processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    for file in slicer.app.childrenFolder.iterdir():
        file.unlink()
    assert not left, f"child processes that still run {patience_s} s after the module was closed: {left}"


def reset() -> None:
    """Unload modules, empty the scene and the settings, forget all records: how every test starts."""
    unload_all()
    process_events()
    releaseWidgets()
    slicer.mrmlScene.Clear(False)
    slicer.app.settings().clear()
    slicer.modules.__dict__.pop("sampleDataSources", None)
    importlib.import_module("pytorch_utils").remove()
    importlib.import_module("slicer_util").removePackaging()
    slicer.app.setTesting(False)
    reports.clear()
    reports.collectExceptions()


def collected_errors() -> list[str]:
    """What slots, observers, timers and threads have raised, and what forms contain that is not known."""
    return list(reports.errors)


def take_errors() -> str:
    """Return what was collected, as one text, and forget it: for a test that expects an error."""
    process_events()
    found = "\n".join(reports.errors)
    reports.errors.clear()
    return found


def assert_clean() -> None:
    """Fail with everything that was collected."""
    found = take_errors()
    assert not found, "collected while the test ran:\n\n" + found
