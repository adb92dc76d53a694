"""Packages that Slicer does not ship: what is taken for missing, and every way in which their installation can end."""

from __future__ import annotations

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
    monkeypatch.setattr(dependencies, "TORCH", "halftorch")
    monkeypatch.syspath_prepend(tmp_path)

    def half_installed():
        (tmp_path / "halftorch-2.4.0.dist-info").mkdir()
        (tmp_path / "halftorch-2.4.0.dist-info" / "METADATA").write_text("Name: halftorch\nVersion: 2.4.0\n")

    return half_installed


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
    assert "halftorch" in dependencies.missingPackages()
    (tmp_path / "halftorch").rmdir()
    without_torch()
    assert "halftorch" in dependencies.missingPackages()
    (tmp_path / "halftorch.py").write_text("")
    assert "halftorch" not in dependencies.missingPackages()


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
        assert "torch, safetensors" in widget.ui.packagesLabel.text
        widget.ui.installButton.click()
        assert widget.ui.packagesLabel.text == "All packages are installed."
        assert not widget.ui.installButton.enabled
    assert host.torchInstalls == [["torch", "torchvision"]]
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


def test_what_is_left_of_torch_is_removed_first_and_what_stays_missing_is_told(widget, without_torch):
    host.add_pytorch_extension()
    without_torch()
    with host.hide_packages("torch"):
        widget.panel.enter()
        widget.ui.installButton.click()
    uninstalled, installed = host.torchInstalls
    assert (uninstalled, installed) == ([], ["torch", "torchvision"])
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
