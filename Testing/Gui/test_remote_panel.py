"""The panel computes on another computer: what it asks the command line, and, on a real sshd, what comes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
from panel_fixtures import LABELS, add_volume

import host
from far_computer import ALIAS, MODULE, needs_sshd, wait_until
from SAM3DSegmentLib.bridge import preferences
from SAM3DSegmentLib.bridge.logic import startSegment
from SAM3DSegmentLib.bridge.panel.training_request import TrainingRequest, askAboutFormer

TIMEOUT_S = 120.0


@pytest.fixture
def widget():
    return host.load_module(MODULE / "SAM3DSegment.py")[2]


def finished(job_of):
    """The segmentation that a job delivers, or its failure."""
    ended = []
    job_of(onFinished=ended.append, onFailed=ended.append, onCancelled=lambda: ended.append("cancelled"))
    assert host.pump(lambda: ended, TIMEOUT_S)
    return ended[0]


def masks(segmentation, volume):
    ids = [segmentation.GetSegmentation().GetSegmentIdBySegmentName(label.name) for label in LABELS]
    return [slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, i, volume).copy() for i in ids]


def test_the_computer_is_remembered_and_tested(widget, use_program):
    ui = widget.ui
    ui.setupSection.collapsed = False
    assert not ui.testConnectionButton.enabled
    ui.remoteHostEdit.text = " gpu "
    assert preferences.remote() == "gpu"
    assert ui.testConnectionButton.enabled
    found = {
        "findings": [["gpu", "SAM3DSegment 1.0, <H200>"], ["torch", "2.4"], ["cuda:0", "NVIDIA H200"]],
        "problems": ["pydicom is not installed"],
    }
    use_program(
        "import sys\n"
        "assert sys.argv[3:] == ['doctor', '--json', '--remote', 'gpu']\n"
        f"print({json.dumps(json.dumps(found))})"
    )
    ui.testConnectionButton.click()
    assert not ui.testConnectionButton.enabled
    assert host.pump(lambda: ui.connectionLabel.text, TIMEOUT_S)
    for part in ("&lt;H200&gt;", "cuda:0", "pydicom is not installed"):
        assert part in ui.connectionLabel.text
    assert "2.4" not in ui.connectionLabel.text
    assert ui.testConnectionButton.enabled
    ui.remoteHostEdit.text = ""
    assert preferences.remote() == ui.connectionLabel.text == ""


def test_a_training_is_begun_there_checked_here_and_fetched_from_where_it_was_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM3DSEGMENT_MODELS", str(tmp_path))
    preferences.setRemote("gpu")
    request = TrainingRequest("mine", tmp_path, "compact_vit", 1.0, "auto")
    assert "--remote" not in request.checkArguments()
    assert request.trainingArguments("")[-3:] == ["--remote", "gpu", "--detach"]
    assert request.trainingArguments("--resume")[-1] == "--resume"  # of one that was stopped here
    (tmp_path / "mine.remote.json").write_text(json.dumps({"host": "other"}))
    host.answerNext("question", True)
    assert askAboutFormer("mine") == "--resume"
    assert "was begun on other" in host.messages[-1].text
    assert request.trainingArguments("--resume")[-3:] == ["--resume", "--remote", "other"]


@needs_sshd
@pytest.mark.slow
def test_what_is_computed_there_is_what_is_computed_here(far, array, tiny_model):
    volume = add_volume(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    here = finished(lambda **ends: startSegment(volume, model=tiny_model, device="cpu", **ends))
    preferences.setRemote(ALIAS)
    there = finished(lambda **ends: startSegment(volume, model=tiny_model, device="cpu", **ends))
    assert not isinstance(there, str), there
    np.testing.assert_array_equal(masks(here, volume), masks(there, volume))
    assert there.GetAttribute("SAM3DSegment.Device") == "cpu"
    failed = finished(lambda **ends: startSegment(volume, model=tiny_model, device="cuda:7", **ends))
    assert failed.startswith(f"on '{ALIAS}': ")


@needs_sshd
@pytest.mark.slow
def test_cancel_ends_the_far_computer_too(far, tiny_model):
    volume = add_volume(np.random.default_rng(0).normal(size=(3000, 40, 40)).astype(np.float32), np.eye(4))
    ended, stages = [], []
    job = startSegment(
        volume,
        model=tiny_model,
        device="cpu",
        remote=ALIAS,
        onProgress=lambda stage, *_numbers: stages.append(stage),
        onFinished=ended.append,
        onFailed=ended.append,
        onCancelled=lambda: ended.append("cancelled"),
    )
    assert host.pump(lambda: "segment" in stages, TIMEOUT_S)
    assert far.processes()
    job.cancel()
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert ended == ["cancelled"]
    wait_until(far.is_clean)
