"""The benchmarks: what they count, how they compare, and that each runs to its table and file."""

import json
import os
import shutil
import time

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import MRI, MRI_LABEL
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.bench.measuring import Candidate, as_table, compare
from SAM3DSegmentLib.bench.networks import DEPTH, bench_encoder, decoder_gflop
from SAM3DSegmentLib.card import VitConfig
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.sam.vit import build_vit, vit_gflop

CPU = torch.device("cpu")
ON_A_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def counted_gflop(run):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def test_the_encoders_work_is_what_torch_counts_where_no_window_is_padded():
    config = VitConfig(192, 3, 3, (1,))
    vit = build_vit(config, 224).eval()
    counted = counted_gflop(lambda: vit(torch.zeros(1, 3, 224, 224)))
    assert vit_gflop(config, 224) == pytest.approx(counted, rel=0.03)  # torch counts the positions, too


def test_the_decoders_work_is_what_torch_counts():
    decoder = Sam3dDecoder(3).eval()
    embeddings = torch.zeros(1, 256, DEPTH, 2, 2)
    counted = counted_gflop(lambda: decoder(embeddings, only_finest=True))
    assert decoder_gflop(decoder, 2) == pytest.approx(counted, rel=1e-6)


@pytest.mark.slow
def test_candidates_are_compared_with_the_first():
    def slow():
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return torch.tensor([3.0, 4.0])

    result = compare([Candidate("slow", slow), Candidate("fast", lambda: torch.tensor([3.0, 4.5]))], 2, CPU, 1.0)
    first, second = result.rows
    assert (first.ratio, first.largest_difference, first.relative_rms) == (1, 0, 0)
    assert second.ratio > 10
    assert second.largest_difference == 0.5
    assert second.relative_rms == pytest.approx(0.1)
    assert result.peak_gflops["float32"] > 0
    assert "fast" in as_table(result)


def test_no_rounds_are_refused():
    with pytest.raises(InputError, match="0 rounds"):
        compare([Candidate("one", lambda: torch.zeros(1))], 0, CPU, 1.0)


def run_bench(run_cli, tmp_path, *arguments):
    done = run_cli("bench", *arguments, "--json", tmp_path / "bench.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert all(row["seconds"] > 0 and row["name"] in done.stdout for row in result["rows"])
    return result


def test_bench_decoder(run_cli, tmp_path):
    result = run_bench(run_cli, tmp_path, "decoder", "--image-size", 32, "--rounds", 1, "--precision", "fp32")
    assert [row["name"] for row in result["rows"]] == ["plain modules float32", "ours float32"]
    assert result["rows"][1]["relative_rms"] < 1e-4


@pytest.mark.slow
def test_bench_encoder(run_cli, tmp_path):
    result = run_bench(run_cli, tmp_path, "encoder", "--image-size", 64, "--rounds", 1, "--precision", "bf16")
    errors = {row["name"]: row["relative_rms"] for row in result["rows"]}
    assert errors["ours float32"] < 1e-4
    assert 1e-4 < errors["ours bfloat16"] < 0.012
    assert "untrained" in result["conditions"]["weights"]


@pytest.mark.parametrize(
    ("device", "slices"),
    [pytest.param("cpu", 3, marks=pytest.mark.slow), pytest.param("cuda", 100, marks=ON_A_GPU)],
)
def test_bench_volume(run_cli, tmp_path, device, slices):
    (row,) = run_bench(run_cli, tmp_path, "volume", "--slices", slices, "--device", device)["rows"]
    assert row["peak_mib"] > 100


@pytest.mark.slow
def test_bench_startup(run_cli, tmp_path):
    rows = run_bench(run_cli, tmp_path, "startup", "--rounds", 1)["rows"]
    assert len(rows) == 3
    assert rows[0]["seconds"] < rows[2]["seconds"]


@pytest.mark.slow
def test_bench_parts(run_cli, tmp_path):
    """Which fails itself unless both ways give the same masks."""
    rows = run_bench(run_cli, tmp_path, "parts", "--volumes", 3)["rows"]
    assert [row["name"] for row in rows] == ["one process", "2 parts at once"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_bench_encoder_on_a_gpu():
    result = bench_encoder(256, "cuda", "auto", rounds=3)
    assert result.rows[-1].relative_rms < 0.012


@pytest.mark.parametrize("size", [8, 16, 40, 5000])
@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_a_size_that_no_encoder_takes_is_refused(run_cli, network, size):
    done = run_cli("bench", network, "--image-size", size)
    assert done.returncode == 1
    assert f"image_size {size} is not a multiple of 16 in 32..4096" in done.stderr


def test_a_place_where_the_figures_cannot_go_is_refused_before_the_work(run_cli, tmp_path):
    done = run_cli("bench", "decoder", "--json", tmp_path / "nowhere" / "bench.json")
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "GFLOP" not in done.stdout


def write_cases(root, count):
    for kind in ("imagesTr", "labelsTr"):
        (root / kind).mkdir(parents=True)
    for number in range(count):
        shutil.copy(MRI, root / "imagesTr" / f"case_{number}.nii.gz")
        shutil.copy(MRI_LABEL, root / "labelsTr" / f"case_{number}.nii.gz")


def test_bench_quality_measures_every_level_on_the_test_cases(run_cli, tmp_path):
    write_cases(tmp_path / "data", 4)
    (tmp_path / "config.json").write_text('{"test_cases": 1, "validation_cases": 1}')
    arguments = ["--data", tmp_path / "data", "--config", tmp_path / "config.json", "--threads", 1]
    result = run_bench(run_cli, tmp_path, "quality", *arguments)
    assert result["conditions"]["cases"] == "1"
    dice = {row["name"]: row["dice"] for row in result["rows"]}
    assert list(dice) == ["best", "balanced", "fast"]
    assert all(0.8 < value < 0.95 for value in dice.values())
    assert len(set(dice.values())) == 3


@pytest.mark.slow
def test_bench_reuse(run_cli, tmp_path):
    first, second = run_bench(run_cli, tmp_path, "reuse", "--image-size", 64, "--slices", 4)["rows"]
    assert second["ratio"] == pytest.approx(first["seconds"] / second["seconds"])
    assert second["ratio"] > 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="loops are put on single processors on Linux only")
def test_bench_load_leaves_no_loop_running(run_cli, tmp_path):
    before = psutil.Process().children()
    alone, spinning, *beside = run_bench(run_cli, tmp_path, "load", "--slices", 2, "--rounds", 1)["rows"]
    assert (alone["name"], alone["ratio"]) == ("alone", 1)
    assert "spin" in spinning["name"]
    assert [row["name"] for row in beside] == [
        "3 loops on one core",
        "3 loops on one core, they spin",
        "3 loops on every core",
    ]
    assert set(psutil.Process().children()) <= set(before)
