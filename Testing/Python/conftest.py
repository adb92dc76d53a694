"""Real data and real files shared by the tests.

The one thing that cannot be had offline is SAM's trained weights: `untrained_sam` is a checkpoint of the same keys and
shapes, written by `segment_anything` itself from a fixed seed. No accuracy is ever read off it.
"""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from far_computer import far, running, there  # noqa: F401 - fixtures
from SAM3DSegmentLib.card import DecoderConfig, EncoderConfig, Label, ModelCard, VitConfig
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.model_file import Sam3dModel, save_model
from SAM3DSegmentLib.sam.vit import build_vit

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SAM3DSegment"
SAMPLES = MODULE / "Resources" / "SampleData"
HIPPOCAMPUS = ROOT / "Testing" / "Data" / "hippocampus"
CT = ROOT / "Testing" / "Data" / "ct" / "example_ct_sm.nii.gz"
MRI = SAMPLES / "hippocampus_015.nii.gz"
MRI_LABEL = SAMPLES / "hippocampus_015_label.nii.gz"


def ijk_to_ras_of(image):
    """The 4x4 matrix from voxel indices to RAS in mm of a 3-D ITK image."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def write_dicom(folder, image):
    """One DICOM file per slice, as a scanner exports them."""
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = image.GetDirection()
    for k in range(image.GetDepth()):
        piece = image[:, :, k]
        tags = {
            "0008|0060": "MR",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0020|0052": "1.2.826.0.1.3680043.2.1125.3",
            "0020|0037": "\\".join(str(direction[i]) for i in (0, 3, 6, 1, 4, 7)),
            "0020|0032": "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, k)))),
            "0020|0013": str(k + 1),
            "0018|0050": str(image.GetSpacing()[2]),
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"slice{image.GetDepth() - k:03d}.dcm"))
        writer.Execute(piece)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Keep the user's models, weights and cache out of the tests, and theirs out of the user's."""
    for name in ("MODELS", "WEIGHTS", "CACHE"):
        monkeypatch.setenv(f"SAM3DSEGMENT_{name}", str(tmp_path / f"user-{name.lower()}"))


@pytest.fixture(autouse=True)
def _our_own_pickles(monkeypatch):
    """The tests write the .pth files that they read, so that any version of torch may read them."""
    monkeypatch.setattr("SAM3DSegmentLib.sam.pickled.SAFE_TORCH", "0")


@pytest.fixture(scope="session")
def untrained_sam(tmp_path_factory):
    """Path of a ViT-B checkpoint with SAM's keys and shapes and random weights."""
    from segment_anything import sam_model_registry

    path = tmp_path_factory.mktemp("sam") / "untrained_sam_vit_b.pth"
    with torch.random.fork_rng():
        torch.manual_seed(2023)
        sam = sam_model_registry["vit_b"]()
        for name, parameter in sam.image_encoder.named_parameters():
            if "pos" in name:  # SAM starts position tables at zero, which would hide a wrong one
                torch.nn.init.normal_(parameter, std=0.2)
        torch.save(sam.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def bundled_model():
    from SAM3DSegmentLib.model_file import load_model

    return load_model("hippocampus-mri")


@pytest.fixture(scope="session")
def one_decoder(bundled_model):
    """The bundled model with the first of its four decoders: enough, and faster, where their average is not asked."""
    return dataclasses.replace(bundled_model, more_decoders=())


@pytest.fixture
def run_cli(capfd):
    """Run the command line in this process: run_cli("segment", ...) -> CompletedProcess, as of a child."""
    handlers = logging.root.handlers[:]
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments):
        from SAM3DSegmentLib.cli import main

        words = list(map(str, arguments))
        capfd.readouterr()
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
        return subprocess.CompletedProcess(words, code, *capfd.readouterr())

    yield run
    logging.root.handlers = handlers
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture
def run_child():
    """As `run_cli`, in a real process of its own, which takes some seconds more."""

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(MODULE)}
        command = [sys.executable, "-m", "SAM3DSegmentLib", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A model of some kilobytes that carries its encoder."""
    vit = VitConfig(16, 1, 2, (0,))
    channels = (256, 4, 4, 4, 4)
    card = ModelCard(
        "tiny", "", "MRI", (Label(1, "Blob", (230, 159, 0)),), EncoderConfig("compact_vit", 32, "", vit),
        DecoderConfig(2, channels),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = {key: value.half() for key, value in build_vit(vit, 32).state_dict().items()}
        model = Sam3dModel(card, Sam3dDecoder(2, channels), tensors)
    path = tmp_path_factory.mktemp("model") / "tiny.sam3d"
    save_model(model, path)
    return path


@pytest.fixture
def d(tmp_path, monkeypatch):
    """The folder of a case, in which the program runs."""
    folder = tmp_path / "d"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def command(run_cli, tiny):
    """command("segment", ...) -> exit code, standard output, standard error; with the tiny model on the CPU."""

    def run(*arguments):
        arguments = list(map(str, arguments))
        if arguments[0] == "segment":
            defaults = {"--model": tiny, "--device": "cpu", "--progress": "none"}
            arguments += [str(part) for pair in defaults.items() if pair[0] not in arguments for part in pair]
        done = run_cli(*arguments)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def complete(run_cli):
    def run(image, segmentation, output, *more):
        return run_cli("complete", image, segmentation, "-o", output, "--progress", "none", *more)

    return run
