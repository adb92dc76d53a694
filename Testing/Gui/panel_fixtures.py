"""What the tests of the panel and of its logic share."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import slicer

import host
from SAM3DSegmentLib.base.hashes import memory_path
from SAM3DSegmentLib.card import EncoderConfig, Label, ModelCard, VitConfig
from SAM3DSegmentLib.sam.encoders import ENCODERS

ROOT = Path(__file__).resolve().parents[2]
# To test an installed module, point this at it.
MODULE = Path(os.environ.get("SAM3DSEGMENT_MODULE", ROOT / "SAM3DSegment")) / "SAM3DSegment.py"
SAMPLE = MODULE.parent / "Resources" / "SampleData" / "hippocampus_015.nii.gz"
DEFAULT_MODEL = "hippocampus-mri"
TIMEOUT_S = 180
LABELS = (Label(1, "Inside", (230, 159, 0)), Label(2, "Outside", (86, 180, 233)))
JOB_CLASSES = ("SegmentationJob", "CommandProcess", "BackgroundCall", "Request")
STOP_S = 20.0  # within which the computing process has to end; on a free computer it takes 3


@pytest.fixture
def widget():
    return host.load_module(MODULE)[2]


@pytest.fixture
def volume():
    return slicer.util.loadVolume(str(SAMPLE))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model of random weights: its masks mean nothing, but depend on every voxel, and are there at once."""
    import torch

    from SAM3DSegmentLib.decoder import Sam3dDecoder
    from SAM3DSegmentLib.model_file import Sam3dModel, save_model
    from SAM3DSegmentLib.sam.vit import build_vit, tensors_sha256

    torch.manual_seed(3)
    vit_config = VitConfig(16, 1, 2, (0,))
    tensors = {key: value.half() for key, value in build_vit(vit_config, 32).state_dict().items()}
    encoder = EncoderConfig("compact_vit", 32, tensors_sha256(tensors), vit_config)
    decoder = Sam3dDecoder(3, (256, 8, 8, 8, 8))
    path = tmp_path_factory.mktemp("model") / "tiny.sam3d"
    save_model(Sam3dModel(ModelCard("tiny", "", "MRI", LABELS, encoder, decoder.config), decoder, tensors), path)
    return str(path)


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(7, 9, 11)).cumsum(axis=1).astype(np.float32)


@pytest.fixture
def use_program(tmp_path, monkeypatch):
    """use_program(source) lets the bridge start this Python program instead of the command line."""
    from SAM3DSegmentLib.bridge import worker

    numbers = itertools.count()

    def use(source):
        program = tmp_path / f"program{next(numbers)}"
        program.write_text(f"#!{sys.executable}\n{source}")
        program.chmod(0o755)
        monkeypatch.setattr(worker, "pythonExecutable", lambda: str(program))

    return use


def add_volume(array, matrix, name="volume"):
    return slicer.util.addVolumeFromArray(np.ascontiguousarray(array), ijkToRAS=matrix, name=name)


def put_published_weights():
    """A file of some bytes with the remembered hash of SAM's weights, as which it counts: the real one has 375 MB."""
    checkpoint = ENCODERS["sam_vit_b"]
    checkpoint.path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.path.write_bytes(b"weights")
    found = checkpoint.path.stat()
    entry = {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": checkpoint.sha256}
    memory_path().parent.mkdir(parents=True, exist_ok=True)
    memory_path().write_text(json.dumps({str(checkpoint.path.resolve()): entry}))
    return checkpoint.path


def is_running(process_id):
    """False for a zombie too, whose exit code nobody has asked for yet."""
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def seconds_until_gone(process_id):
    began = time.monotonic()
    while is_running(process_id) and time.monotonic() - began < 60:
        time.sleep(0.01)
    return time.monotonic() - began


def temporary_folders():
    return list(Path(slicer.app.temporaryPath).glob("SAM3DSegment-*"))


def is_idle(widget):
    return widget.ui.segmentButton.text == "Segment"


def is_computing(widget):
    return widget.ui.progressBar.maximum > 0 and widget.ui.progressBar.value > 0


def masks_of(node, volume):
    """Name -> voxels (K, J, I) on the volume's grid."""
    segmentation = node.GetSegmentation()
    return {
        segmentation.GetSegment(i).GetName(): slicer.util.arrayFromSegmentBinaryLabelmap(node, i, volume)
        for i in segmentation.GetSegmentIDs()
    }


def scene_state():
    """IDs and modification times of all nodes but the panel's own parameters."""
    nodes = [slicer.mrmlScene.GetNthNode(i) for i in range(slicer.mrmlScene.GetNumberOfNodes())]
    return {node.GetID(): node.GetMTime() for node in nodes if not node.IsA("vtkMRMLScriptedModuleNode")}


def choose(widget, model):
    widget.logic.getParameterNode().model = model


def segment(widget, volume, model=DEFAULT_MODEL):
    choose(widget, model)
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.segmentButton.click()
    assert not is_idle(widget)
    assert host.pump(lambda: is_idle(widget), TIMEOUT_S), widget.ui.statusLabel.text
    return widget.ui.outputSelector.currentNode()
