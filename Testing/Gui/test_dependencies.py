"""Packages that Slicer does not ship: what is taken for missing, and every way in which their installation can end."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest
import slicer
from packaging.requirements import Requirement

import host
import qt

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SAM3DSegment" / "SAM3DSegment.py"
SAMPLE = MODULE.parent / "Resources" / "SampleData" / "hippocampus_015.nii.gz"


@pytest.fixture
def widget():
    """The panel with a volume, ready to be clicked."""
    widget = host.load_module(MODULE)[2]
    widget.ui.inputSelector.setCurrentNode(slicer.util.loadVolume(str(SAMPLE)))
    widget.ui.setupSection.collapsed = False
    return widget


@pytest.fixture
def dependencies():
    from SAM3DSegmentLib.bridge import dependencies

    return dependencies


@pytest.fixture
def without_torch(dependencies, monkeypatch, tmp_path):
    """half_installed(): torch's metadata are there without its files, as after an interrupted installation.

    It is called otherwise here, so that the real one stays: the host can hide packages, but not break them.
    """
    monkeypatch.setattr(dependencies, "TORCH", "halftorch>=2.2")
    monkeypatch.syspath_prepend(tmp_path)

    def half_installed():
        (tmp_path / "halftorch-2.4.0.dist-info").mkdir()
        (tmp_path / "halftorch-2.4.0.dist-info" / "METADATA").write_text("Name: halftorch\nVersion: 2.4.0\n")

    return half_installed


@pytest.fixture(autouse=True)
def findings(use_program, tmp_path):
    """The program that is asked, after an installation, whether all works: findings("a problem").

    The real one imports torch, which takes seconds.
    """
    file = tmp_path / "findings"
    use_program(f"import sys; sys.stdout.write(open({str(file)!r}).read())")

    def say(*problems):
        file.write_text(f'{{"process_id": 0}}\n{json.dumps({"problems": problems})}\n')

    say()
    return say


def the_one_error():
    """Exactly one dialog said what was wrong."""
    [message] = [message for message in host.messages if message.kind == "error"]
    return message.text


def assert_the_panel_works(widget):
    assert widget.ui.segmentButton.text == "Segment"
    assert widget.ui.segmentButton.enabled
    assert widget.ui.installButton.enabled
    assert qt.QApplication.overrideCursor() is None


def test_a_version_that_is_too_old_is_missing(dependencies, monkeypatch):
    wanted = ["packaging>=1", "packaging>=9999", "surely-not-installed"]
    monkeypatch.setattr(dependencies, "requirements", lambda training: [Requirement(line) for line in wanted])
    assert dependencies.missingPackages() == wanted[1:]


def test_files_without_metadata_and_metadata_without_files_are_missing(dependencies, without_torch, tmp_path):
    (tmp_path / "halftorch").mkdir()
    assert "halftorch>=2.2" in dependencies.missingPackages()
    (tmp_path / "halftorch").rmdir()
    without_torch()
    assert "halftorch>=2.2" in dependencies.missingPackages()
    (tmp_path / "halftorch.py").write_text("")
    assert "halftorch>=2.2" not in dependencies.missingPackages()


def test_nothing_is_installed_unless_the_user_agrees(widget):
    host.add_pytorch_extension()
    with host.hide_packages("torch", "safetensors"):
        host.answerNext("question", False)
        widget.ui.segmentButton.click()
        assert not host.pipInstalls + host.torchInstalls
        assert "safetensors" in the_one_error()
        assert widget.ui.segmentButton.text == "Segment"


def test_what_the_user_agrees_to_is_installed_and_the_panel_knows(widget):
    host.add_pytorch_extension()
    with host.hide_packages("torch", "safetensors"):
        widget.ui.setupSection.collapsed = True
        widget.ui.setupSection.collapsed = False
        assert "torch>=2.2, safetensors" in widget.ui.packagesLabel.text
        widget.ui.installButton.click()
        assert widget.ui.packagesLabel.text == "All packages are installed."
        assert not widget.ui.installButton.enabled
    assert host.torchInstalls == [["torch>=2.2", "torchvision"]]
    [[installed]] = host.pipInstalls
    assert Requirement(installed).name == "safetensors"
    assert not [message for message in host.messages if message.kind == "error"]


def test_segment_anything_is_installed_by_its_hash_and_without_others(widget):
    hashed = MODULE.parent / "Resources" / "requirements-hashed.txt"
    with host.hide_packages("segment-anything", "tqdm"):
        widget.panel.enter()
        widget.ui.installButton.click()
        assert widget.ui.packagesLabel.text == "All packages are installed."
    assert host.pipInstalls[0] == ["--no-deps", "-r", str(hashed)]
    [[other]] = host.pipInstalls[1:]
    assert Requirement(other).name == "tqdm"


def test_without_the_pytorch_extension_it_is_asked_for(widget):
    with host.hide_packages("torch"):
        widget.ui.segmentButton.click()
        assert "the PyTorch extension is not installed" in the_one_error()
        assert_the_panel_works(widget)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("torch", subprocess.CalledProcessError(1, "pip")),  # offline, disk full, no wheel for this Python
        ("torch", ImportError("libcudart.so.12: cannot open shared object file")),  # its last step
        ("torch", RuntimeError("pip failed")),
        ("torch", OSError(28, "No space left on device")),
        ("pip", subprocess.CalledProcessError(1, "pip")),
        ("pip", OSError(28, "No space left on device")),
    ],
)
@pytest.mark.parametrize("button", ["segmentButton", "installButton"])
def test_an_installation_that_fails_is_one_dialog_and_a_panel_that_works(widget, kind, error, button):
    host.add_pytorch_extension()
    with host.hide_packages("torch", "safetensors"):
        widget.panel.enter()
        host.answerNext(kind, error)
        getattr(widget.ui, button).click()
        assert "could not be installed" in the_one_error()
        assert_the_panel_works(widget)


def test_an_unexpected_error_of_an_installation_is_told_too(widget):
    host.add_pytorch_extension()
    with host.hide_packages("torch"):
        widget.panel.enter()
        host.answerNext("torch", KeyError("PATH"))
        widget.ui.installButton.click()
        assert "unexpected error: KeyError" in the_one_error()
        assert_the_panel_works(widget)


# What is there


@pytest.fixture
def old_torch(dependencies, monkeypatch, tmp_path):
    """PyTorch 1.13.1, installed a year ago for another extension."""
    monkeypatch.setattr(dependencies, "TORCH", "oldtorch>=2.2")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "oldtorch.py").write_text("")
    metadata = tmp_path / "oldtorch-1.13.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: oldtorch\nVersion: 1.13.1\n")
    return metadata


def test_a_torch_that_is_too_old_is_replaced_if_the_user_agrees(widget, old_torch):
    host.add_pytorch_extension()
    widget.panel.enter()
    assert widget.ui.packagesLabel.text == "Missing: oldtorch>=2.2."
    assert widget.ui.installButton.enabled
    widget.ui.installButton.click()
    [question] = [message for message in host.messages if message.kind == "question"]
    assert "torch 1.13.1 will be replaced" in question.text
    assert host.torchInstalls == [["torch>=2.2", "torchvision"]]


@pytest.mark.parametrize("version", ["Version: nightly\n", ""])
def test_a_torch_of_an_unreadable_version_is_missing(dependencies, old_torch, version):
    old_torch.write_text(f"Name: oldtorch\n{version}")
    assert "oldtorch>=2.2" in dependencies.missingPackages()


def test_what_is_there_already_is_kept(widget):
    """pip is told the versions of what other extensions compute with, torch among them."""
    with host.hide_packages("safetensors"):
        widget.panel.enter()
        widget.ui.installButton.click()
    [constraints] = host.pipConstraints
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy", "scipy", "SimpleITK")
    }
    assert constraints.splitlines() == [f"{name}=={version}" for name, version in versions.items()]
    assert not list(Path(slicer.app.temporaryPath).glob("SAM3DSegment-*"))


@pytest.mark.parametrize("error", [None, subprocess.CalledProcessError(1, "pip install")])
def test_slicers_newer_pip_is_told_the_same_and_tells_no_failure_itself(widget, error):
    host.add_packaging()
    with host.hide_packages("segment-anything", "tqdm"):
        widget.panel.enter()
        host.answerNext("pip", None)
        host.answerNext("pip", error)
        widget.ui.installButton.click()
    assert [bool(constraints) for constraints in host.pipConstraints] == [False, True]
    if error:
        assert "could not be installed" in the_one_error()
    else:
        assert not [message for message in host.messages if message.kind == "error"]


# What was installed is tried


def test_what_does_not_work_after_the_installation_is_told(widget, findings):
    findings("torch 2.2.2 cannot work with numpy 2.4.6; run this.")
    with host.hide_packages("safetensors"):
        widget.panel.enter()
        widget.ui.installButton.click()
        assert the_one_error() == "torch 2.2.2 cannot work with numpy 2.4.6; run this."
        assert widget.ui.packagesLabel.text == "All packages are installed."


@pytest.mark.slow
def test_the_command_line_tries_what_was_installed(widget, monkeypatch):
    from SAM3DSegmentLib.bridge import worker

    monkeypatch.setattr(worker, "pythonExecutable", lambda: "PythonSlicer")
    with host.hide_packages("safetensors", "psutil"):
        widget.panel.enter()
        widget.ui.installButton.click()
        assert not [message for message in host.messages if message.kind == "error"]


def test_a_trial_that_fails_is_told(widget, use_program):
    use_program("import sys; sys.exit('ERROR: no space left')")
    with host.hide_packages("safetensors"):
        widget.ui.segmentButton.click()
        assert the_one_error() == "no space left"
        assert widget.ui.segmentButton.text == "Segment"


def test_what_is_left_of_torch_is_removed_first_and_what_stays_missing_is_told(widget, without_torch):
    host.add_pytorch_extension()
    without_torch()
    with host.hide_packages("torch"):
        widget.panel.enter()
        widget.ui.installButton.click()
    uninstalled, installed = host.torchInstalls
    assert (uninstalled, installed) == ([], ["torch>=2.2", "torchvision"])
    assert "still missing" in the_one_error()
    assert "restart Slicer" in the_one_error()


def test_a_click_during_the_installation_starts_no_second_one(widget):
    host.add_pytorch_extension()
    enabled = []

    def click():
        enabled.append((widget.ui.segmentButton.enabled, widget.ui.installButton.enabled))
        widget.ui.segmentButton.click()
        widget.ui.installButton.click()

    with host.hide_packages("torch", "safetensors"):
        widget.panel.enter()
        qt.QTimer.singleShot(0, click)  # Slicer handles events while pip runs
        widget.ui.installButton.click()
    assert enabled == [(False, False)]
    assert len(host.torchInstalls) == len(host.pipInstalls) == 1
    assert not [message for message in host.messages if message.kind == "error"]


def test_a_scene_closed_during_the_installation_is_not_segmented(widget):
    host.add_pytorch_extension()
    with host.hide_packages("torch", "safetensors"):
        qt.QTimer.singleShot(0, slicer.mrmlScene.Clear)
        widget.ui.segmentButton.click()
    assert host.torchInstalls
    assert "volume" in the_one_error()
    assert widget.ui.segmentButton.text == "Segment"
