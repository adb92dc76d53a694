"""The few-case benchmark, on few cases and for seconds: that it measures both networks alike, and keeps its rows."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from conftest import HIPPOCAMPUS
from SAM3DSegmentLib.base.errors import Cancelled, InputError
from SAM3DSegmentLib.base.watch import UNWATCHED, Watch
from SAM3DSegmentLib.bench.fewshot import OURS, UNET, Benchmark, Drawing, run_benchmark
from SAM3DSegmentLib.bench.fewshot_report import make_table
from SAM3DSegmentLib.bench.painting import every_nth, paint_in_part
from SAM3DSegmentLib.bench.unet import PaddedUnet, UnetSegmenter
from SAM3DSegmentLib.card import UNKNOWN, SlicingRule
from SAM3DSegmentLib.formats.painted import PaintedSlices
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.settings import TrainingConfig
from SAM3DSegmentLib.training.plan import make_plan
from SAM3DSegmentLib.training.reading import read_case

CONFIG = TrainingConfig(
    encoder="compact_vit",
    image_size=32,
    channels=(256, 16, 16, 8, 8),
    slicing=SlicingRule("coronal"),
    batch_size=1,
    training_depth=12,
    validation_cases=1,
    test_cases=1,
    validations=1,
)


@pytest.mark.slow
def test_both_networks_are_measured_and_rows_are_kept(tmp_path):
    benchmark = Benchmark(HIPPOCAMPUS, (CONFIG,), (Drawing(1), Drawing()), (0.01,), (0,), device="cpu")
    rows = run_benchmark(benchmark, tmp_path / "out", UNWATCHED)
    assert [(row["network"], row["cases"]) for row in rows] == [(OURS, 1), (UNET, 1), (OURS, 0), (UNET, 0)]
    assert all(row["steps"] > 0 and 0 <= row["dice"] <= 1 and set(row["dice_by_label"]) for row in rows)
    assert json.loads((tmp_path / "out" / "fewshot.json").read_text())["rows"] == rows
    assert (tmp_path / "out" / "fewshot.md").read_text() == make_table(rows)
    assert (tmp_path / "out" / "fewshot.png").read_bytes()[:4] == b"\x89PNG"

    again = dataclasses.replace(benchmark, drawings=(Drawing(1),))
    assert (
        run_benchmark(again, tmp_path / "out", Watch(cancelled=lambda: pytest.fail("nothing is left to train"))) == rows
    )
    other = dataclasses.replace(benchmark, configs=(dataclasses.replace(CONFIG, batch_size=2),))
    with pytest.raises(InputError, match="was measured with another SAM3DSegment, 3-D U-Net"):
        run_benchmark(other, tmp_path / "out", UNWATCHED)
    with pytest.raises(Cancelled):
        run_benchmark(dataclasses.replace(benchmark, seeds=(1,)), tmp_path / "out", Watch(cancelled=lambda: True))
    assert json.loads((tmp_path / "out" / "fewshot.json").read_text())["rows"] == rows


def test_the_table_has_mean_and_range_over_the_seeds():
    rows = [
        {"network": UNET, "cases": cases, "every": every, "minutes": 5.0, "seed": seed, "dice": dice, "steps": 10}
        for cases, every, seed, dice in ((0, 1, 0, 0.9), (5, 1, 0, 0.7), (5, 1, 1, 0.8), (5, 4, 0, 0.6))
    ]
    lines = make_table(rows).splitlines()
    assert lines[2:] == [
        "| 5 | all slices | 5 | 3-D U-Net | 0.7500 | 0.7000 to 0.8000 | 2 | 10 |",
        "| 5 | 1 slice in 4 | 5 | 3-D U-Net | 0.6000 | 0.6000 to 0.6000 | 1 | 10 |",
        "| all | all slices | 5 | 3-D U-Net | 0.9000 | 0.9000 to 0.9000 | 1 | 10 |",
    ]


@pytest.mark.slow
def test_drawings_that_are_painted_in_part_are_compared_without_the_unet(tmp_path):
    """Slices along which the cases are sliced: every 4th is known, of training cases alone."""
    drawings = (Drawing(1), Drawing(2, 4))
    benchmark = Benchmark(HIPPOCAMPUS, (CONFIG,), drawings, (0.01,), (0,), device="cpu")
    rows = run_benchmark(benchmark, tmp_path / "out", UNWATCHED)
    assert [(row["network"], row["cases"], row["every"]) for row in rows] == [(OURS, 1, 1), (OURS, 2, 4)]

    complete = make_plan(HIPPOCAMPUS, CONFIG)
    numbers = {name: every_nth(complete.depths[name], 4) for name in complete.training_names}
    paint_in_part(complete, complete.files, numbers, tmp_path / "painted")
    plan = make_plan(tmp_path / "painted", CONFIG)
    assert plan.splits == complete.splits
    for case in plan.facts:
        name = case.files.name
        assert (case.painted is not None) == (name in plan.training_names), name
        if case.painted:
            _, whole = read_case(complete.files[name], complete.labels)
            _, known = read_case(case.files, plan.labels)
            assert case.painted == PaintedSlices(1, tuple(range(2, whole.shape[1], 4)), whole.shape[1])
            assert np.array_equal(known[:, 2::4], whole[:, 2::4])
            assert (np.delete(known, np.s_[2::4], axis=1) == UNKNOWN).all()


def test_the_unet_sees_and_answers_on_the_volumes_own_grid():
    """A "network" that calls every bright voxel a structure gives back just these, whatever the axes."""
    plan = make_plan(HIPPOCAMPUS, CONFIG)
    image = read_volume(plan.dataset.cases[0].image)

    class Threshold(PaddedUnet):
        def forward(self, grey):
            return [torch.cat([-grey, grey, torch.full_like(grey, -9)], dim=1)]

    found = UnetSegmenter(plan, Threshold(3, 1), torch.device("cpu")).segment(image.array_kji, image.ijk_to_ras)
    low, high = np.percentile(image.array_kji, (CONFIG.intensity.low, CONFIG.intensity.high))
    assert found.shape == image.array_kji.shape
    assert ((found == 1) == (image.array_kji > (low + high) / 2)).mean() > 0.999


def test_the_unet_takes_any_size():
    assert PaddedUnet(3, 1)(torch.zeros(1, 1, 5, 13, 17))[0].shape == (1, 3, 5, 13, 17)


def test_a_benchmark_without_held_out_cases_is_refused():
    with pytest.raises(InputError, match="test_cases is 0"):
        Benchmark(HIPPOCAMPUS, (dataclasses.replace(CONFIG, test_cases=0),), (Drawing(5),), (1.0,), (0,))
    with pytest.raises(InputError, match="must be above 0"):
        Benchmark(HIPPOCAMPUS, (CONFIG,), (Drawing(5),), (0.0,), (0,))


@pytest.mark.slow
def test_settings_are_compared_under_their_names(tmp_path):
    detailed = dataclasses.replace(CONFIG, name="with detail", detail=(4, 6))
    one = Benchmark(HIPPOCAMPUS, (CONFIG,), (Drawing(2),), (0.01,), (0,), device="cpu")
    first = run_benchmark(one, tmp_path, UNWATCHED)
    rows = run_benchmark(dataclasses.replace(one, configs=(CONFIG, detailed)), tmp_path, UNWATCHED)
    assert [row["network"] for row in rows] == [OURS, UNET, f"{OURS}, with detail"]
    assert rows[:2] == first
    assert rows[2]["parameters"] > rows[0]["parameters"]
    with pytest.raises(InputError, match="must differ"):
        Benchmark(HIPPOCAMPUS, (CONFIG, CONFIG), (Drawing(2),), (0.01,), (0,))
    with pytest.raises(InputError, match="hold out the same"):
        Benchmark(HIPPOCAMPUS, (CONFIG, dataclasses.replace(detailed, test_cases=2)), (Drawing(2),), (0.01,), (0,))
