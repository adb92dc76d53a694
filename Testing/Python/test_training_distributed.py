"""Two processes under torchrun (gloo, CPU): the same command, the same training."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from conftest import HIPPOCAMPUS, MODULE
from SAM3DSegmentLib.base.jsonable import to_json
from SAM3DSegmentLib.card import SlicingRule
from SAM3DSegmentLib.model_file import load_model
from SAM3DSegmentLib.settings import TrainingConfig
from SAM3DSegmentLib.training.run import train
from SAM3DSegmentLib.training.run_folder import Options

CONFIG = TrainingConfig(
    encoder="compact_vit",
    image_size=32,
    channels=(256, 16, 16, 8, 8),
    slicing=SlicingRule("coronal"),
    batch_size=1,
    training_depth=12,
    validation_cases=2,
    validations=1,
    epochs=1,
)


def run_processes(count, arguments, cache):
    """Under torchrun; returns the lines of JSON that were told."""
    command = [sys.executable, "-m", "SAM3DSegmentLib"]
    if count > 1:
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "SAM3DSegmentLib"]
        command = [sys.executable, *run]
    environment = {
        **os.environ,
        "PYTHONPATH": str(MODULE),
        "OMP_NUM_THREADS": "1",
        "SAM3DSEGMENT_CACHE": str(cache),
    }
    result = subprocess.run(
        [*command, "train", *map(str, arguments), "--device", "cpu", "--progress", "json"],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def slices_to_encode(lines):
    return next(line["total"] for line in lines if line.get("stage") == "encode")


@pytest.mark.slow
def test_two_processes_train_as_one_and_share_the_encoding(tmp_path):
    """One process with two samples a step, and two with one each, draw the same samples."""
    train(HIPPOCAMPUS, tmp_path / "lender.sam3d", CONFIG, Options(device="cpu"))
    lent = dataclasses.replace(
        CONFIG,
        encoder=str(tmp_path / "lender.sam3d"),
        image_size=0,
        augmented_copies=1,
        epochs=20,
        validations=2,
        learning_rate=3e-3,
    )
    told = []
    for count in (1, 2):
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps(to_json(dataclasses.replace(lent, batch_size=2 // count))))
        arguments = ("--data", HIPPOCAMPUS, "-o", tmp_path / f"m{count}.sam3d", "--config", path)
        told.append(run_processes(count, arguments, tmp_path / f"cache{count}"))
    one, two = told
    assert slices_to_encode(two) <= 0.6 * slices_to_encode(one)
    records = [json.loads((tmp_path / f"m{count}.training" / "run.json").read_text()) for count in (1, 2)]
    histories = [record["result"]["history"][0] for record in records]
    assert [entry["step"] for entry in histories[0]] == [entry["step"] for entry in histories[1]]
    for entry, other in zip(*histories):
        assert entry["loss"] == pytest.approx(other["loss"], abs=0.05)
    dice = [list(record["result"]["dice"].values()) for record in records]
    assert min(dice[0]) > 0.3
    assert dice[0] == pytest.approx(dice[1], abs=0.12)  # bf16 rounds in another order


@pytest.mark.slow
def test_two_processes_train_under_fabric_run(tmp_path):
    """With a detail part, which learns from some samples alone."""
    config = dataclasses.replace(CONFIG, detail=(4, 6), batch_size=2)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(config)))
    # What `fabric run` runs.
    run = [sys.executable, "-m", "lightning_fabric.cli", "--accelerator=cpu", "--strategy=ddp", "--devices=2"]
    arguments = ["--data", HIPPOCAMPUS, "-o", tmp_path / "m.sam3d", "--config", path, "--device", "cpu"]
    result = subprocess.run(
        [*run, str(MODULE / "Scripts" / "train_sam3d.py"), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    steps = load_model(tmp_path / "m.sam3d").card.training.steps
    assert steps == -(-train(HIPPOCAMPUS, tmp_path / "o.sam3d", config, Options(device="cpu")).card.training.steps // 2)


@pytest.mark.slow
def test_a_mistake_ends_all_processes_in_one_line_each(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(dataclasses.replace(CONFIG, validation_cases=9))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["-m", "SAM3DSegmentLib", "train", "--data", str(HIPPOCAMPUS), "-o", str(tmp_path / "m.sam3d")]
    result = subprocess.run(
        [*command, *arguments, "--config", str(path), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode != 0
    assert "leave none of 4 to train on" in result.stderr
    assert not (tmp_path / "m.training").exists()
