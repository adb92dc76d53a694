"""What a fresh Slicer has not got is not there, in this process and in its children; and installing it."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import slicer

import host
import packages
import qt

FIXTURE = Path(__file__).resolve().parent / "fixture" / "HostFixture.py"
# What is installed for the module's sake, and something that Slicer ships.
EXTRA = ["torch", "segment-anything", "psutil", "tqdm", "safetensors", "monai"]
SHIPPED = ["numpy", "SimpleITK", "scipy", "requests", "pydicom", "vtk"]
ASK = """
import importlib.metadata, importlib.util, json, sys
def isThere(name):
    try:
        return importlib.util.find_spec(name.replace("-", "_")) is not None, bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False, False
print(json.dumps([isThere(name) for name in sys.argv[1:]]))
"""


def is_there(name):
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return importlib.util.find_spec(name.replace("-", "_")) is not None, bool(version)


def is_there_in_a_child(*names):
    command = ["PythonSlicer", "-c", ASK, *names]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


@pytest.mark.parametrize("name", EXTRA)
def test_a_package_that_slicer_does_not_ship_is_hidden(name):
    assert is_there(name) == (True, True)
    with host.hide_packages():
        assert is_there(name) == (False, False)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name.replace("-", "_"))
        with host.hide_packages("numpy"):
            assert is_there(name) == (False, False)
    assert is_there(name) == (True, True)


def test_what_slicer_ships_stays_and_so_does_what_is_imported_already():
    psutil = importlib.import_module("psutil")
    with host.hide_packages():
        assert [is_there(name) for name in SHIPPED] == [(True, True)] * len(SHIPPED)
        assert "psutil" not in sys.modules
        listed = {packages.normalized(item.name) for item in importlib.metadata.distributions()}
        assert "numpy" in listed
        assert not listed & set(EXTRA)
    assert sys.modules["psutil"] is psutil


def test_single_packages_are_hidden_by_name():
    with host.hide_packages("segment_anything"):
        assert is_there("segment-anything") == (False, False)
        assert is_there("tqdm") == (True, True)


def test_children_of_python_slicer_do_not_see_them_either():
    assert is_there_in_a_child("tqdm", "numpy") == [[True, True], [True, True]]
    with host.hide_packages():
        found = is_there_in_a_child(*EXTRA, "numpy", "SimpleITK")
    assert found == [[False, False]] * len(EXTRA) + [[True, True]] * 2


def write_module(tmp_path, imports, widget=""):
    source = FIXTURE.read_text().replace("HostFixture", "Hungry").replace("import qt\n", f"import qt\n{imports}\n", 1)
    (tmp_path / "Hungry.py").write_text(source + widget)
    form = tmp_path / "Resources" / "UI" / "Hungry.ui"
    form.parent.mkdir(parents=True)
    form.write_text((FIXTURE.parent / "Resources" / "UI" / "HostFixture.ui").read_text())
    return tmp_path / "Hungry.py"


def test_a_module_that_imports_what_slicer_has_not_got_does_not_load(tmp_path):
    with pytest.raises(ModuleNotFoundError, match="tqdm"):
        host.load_module(write_module(tmp_path, "import tqdm"))


def test_a_library_that_another_test_has_imported_does_not_help(tmp_path):
    path = write_module(tmp_path, "from HungryLib import helper")
    (tmp_path / "HungryLib").mkdir()
    (tmp_path / "HungryLib" / "helper.py").write_text("import tqdm")
    sys.path.insert(0, str(tmp_path))
    try:
        helper = importlib.import_module("HungryLib.helper")
        with pytest.raises(ModuleNotFoundError, match="tqdm"):
            host.load_module(path)
        assert sys.modules["HungryLib.helper"] is helper
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("HungryLib.helper")
        sys.modules.pop("HungryLib")


def test_a_panel_is_entered_without_packages_first_and_with_them_afterwards(tmp_path):
    enter = "import importlib.util\n\ndef enter(self):\n    self.seen = getattr(self, 'seen', [])\n"
    enter += "    self.seen.append(importlib.util.find_spec('tqdm') is not None)\n\nHungryWidget.enter = enter\n"
    path = write_module(tmp_path, "", "\n\n" + enter)
    assert host.load_module(path)[2].seen == [False, True]
    with host.hide_packages():
        assert host.load_module(path)[2].seen == [False, False]


# Installing


def test_an_installed_package_is_there():
    with host.hide_packages():
        slicer.util.pip_install(["tqdm>=4", "segment-anything==1.0"])
        assert [is_there(name) for name in ("tqdm", "segment-anything", "safetensors")] == [(True,) * 2] * 2 + [
            (False,) * 2
        ]
    assert host.pipInstalls == [["tqdm>=4", "segment-anything==1.0"]]


def test_an_installation_fails_as_it_is_told():
    host.answerNext("pip", subprocess.CalledProcessError(1, "pip"))
    with host.hide_packages():
        with pytest.raises(subprocess.CalledProcessError):
            slicer.util.pip_install("tqdm")
        assert is_there("tqdm") == (False, False)


def test_the_pytorch_extension_is_there_only_where_a_test_adds_it():
    with pytest.raises(ImportError):
        importlib.import_module("PyTorchUtils")
    host.add_pytorch_extension()
    assert importlib.import_module("PyTorchUtils").PyTorchUtilsLogic().torchInstalled()
    host.reset()
    with pytest.raises(ImportError):
        importlib.import_module("PyTorchUtils")


def test_torch_is_installed_fails_or_is_declined():
    host.add_pytorch_extension()
    logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    for failure in (subprocess.CalledProcessError(1, "ltt"), ImportError("libtorch.so")):
        host.answerNext("torch", failure)
        with pytest.raises(type(failure)):
            logic.installTorch(askConfirmation=False, torchVersionRequirement=">=2.2")
    host.answerNext("question", False)
    assert logic.installTorch(askConfirmation=True) is None
    assert host.torchInstalls == [["torch>=2.2", "torchvision"]] * 2
    with pytest.raises(TypeError):
        logic.installTorch(version="2.2")


def test_events_are_processed_while_something_is_installed():
    """So a button can be clicked meanwhile."""
    heard = []
    qt.QTimer.singleShot(0, lambda: heard.append("clicked"))
    slicer.util.pip_install("tqdm")
    assert heard == ["clicked"]
