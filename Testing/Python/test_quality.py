"""Levels of quality: what each spares, that this costs little, and that "auto" chooses by time and says so."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import torch

from conftest import MRI
from SAM3DSegmentLib import quality
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.base.watch import UNWATCHED
from SAM3DSegmentLib.card import EncoderConfig, SlicingRule, WindowRule
from SAM3DSegmentLib.channel import IntensityRule
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter, measure_speed, stream_logits
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.preparation import Preparation
from SAM3DSegmentLib.quality import QUALITIES, choose_quality
from SAM3DSegmentLib.work import SecondsPerSlice, Work


@pytest.fixture(scope="module")
def best(one_decoder):
    return Segmenter.load(one_decoder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def mri():
    return read_volume(MRI)


def at(level, segmenter, **more):
    return Segmenter(segmenter.card, segmenter.network, quality=level, **more)


def prepare(card, shape, spacing_mm=(1.0, 1.0, 1.0)):
    volume = np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)
    return Preparation(SlicingRule(), (IntensityRule(),), card.encoder.image_size).prepare(
        volume, np.diag([*reversed(spacing_mm), 1.0])
    )


def agreement(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_the_default_is_all_that_the_card_asks_for(best):
    prepared = prepare(best.card, (40, 8, 8))
    work = QUALITIES["best"].work(best.card, prepared)
    assert work == Work(40, best.card.window, prepared.slicing.left_right_axis)
    assert best.level == "best"


@pytest.mark.parametrize(("spacing_mm", "step"), [(0.4, 5), (0.5, 4), (0.8, 2), (1.0, 2), (1.2, 1), (2.0, 1), (5.0, 1)])
def test_slices_are_left_out_up_to_a_distance_in_mm(best, spacing_mm, step):
    prepared = prepare(best.card, (40, 8, 8), (spacing_mm, 0.3, 0.3))
    for level in ("balanced", "fast"):
        assert QUALITIES[level].work(best.card, prepared).step == step


@pytest.mark.parametrize("level", ["balanced", "fast"])
def test_less_is_nearly_as_good(best, mri, level):
    mask = at(level, best).segment(mri.array_kji, mri.ijk_to_ras)
    expected = best.segment(mri.array_kji, mri.ijk_to_ras)
    assert 0.9 < agreement(mask > 0, expected > 0) < 1


class Counting:
    """A network that counts the slices that it encodes and decodes."""

    def __init__(self, network):
        self.encoder, self._network = network.encoder, network
        self.encoded = self.decoded = self.detailed = 0

    def encode(self, grey, mirror=None):
        result = self._network.encode(grey, mirror)
        self.encoded += result.shape[0] * result.shape[1]
        return result

    def decode(self, embeddings, mirror=None):
        self.decoded += len(embeddings) * (1 if mirror is None else 2)
        return self._network.decode(embeddings, mirror)

    def __getattr__(self, name):
        return getattr(self._network, name)

    def detail(self, grey, mirror=None):
        self.detailed += len(grey) * (1 if mirror is None else 2)
        return self._network.detail(grey, mirror)


@pytest.mark.parametrize("level", QUALITIES)
@pytest.mark.parametrize("depth", [1, 2, 9, 40])
def test_the_work_that_is_predicted_is_the_work_that_is_done(best, level, depth):
    prepared = prepare(best.card, (depth, 8, 8))
    decoder = Sam3dDecoder.from_config(dataclasses.replace(best.card.decoder, detail=(4, 6)))
    network = Counting(Network(best.network.encoder, [decoder]))
    work = QUALITIES[level].work(best.card, prepared)
    assert len(list(stream_logits(prepared, network, work, UNWATCHED))) == depth
    assert work.seconds(SecondsPerSlice(1, 0, 0, 0)) == network.encoded
    assert work.seconds(SecondsPerSlice(0, 1, 0, 0)) == network.decoded
    assert work.seconds(SecondsPerSlice(0, 0, 1, 0)) == network.detailed > 0
    assert work.seconds(SecondsPerSlice(0, 0, 0, 1)) == depth


@pytest.mark.parametrize(("detail", "slices"), [((4, 6), 8), ((4, 6, 6, 6), 17)])
def test_a_detail_part_is_timed_on_no_fewer_slices_than_it_computes(best, detail, slices):
    """Three slices of a grid that was halved three times are 17; told for 8, the time would be twice as long."""
    decoder = Sam3dDecoder.from_config(dataclasses.replace(best.card.decoder, detail=detail))
    network = Counting(Network(best.network.encoder, [decoder]))
    assert measure_speed(prepare(best.card, (40, 8, 8)), network).detail_s > 0
    assert network.detailed == 2 * slices  # the first time is not counted


class Ramp:
    """Stands in for a network: embeddings and logits are a slice's first pixel, so that what is between is known."""

    class encoder:  # noqa: N801
        batch_size, computed, multiplications = 3, 0, 1.0
        device, dtype = torch.device("cpu"), torch.float32
        config = EncoderConfig("ramp", 32)

    has_detail = False

    def decoding_cost(self, depth):
        return 1.0

    def counted(self, on_multiplied):
        return contextlib.nullcontext()

    def encode(self, grey, mirror=None):
        return grey[..., :1, :1].reshape(-1, 1, 1, 1, 1)

    def decode(self, embeddings, mirror=None):
        return embeddings[:, 0]


@pytest.mark.parametrize("decode_every_slice", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 20])
def test_between_two_slices_their_mean_is_taken_and_at_the_end_the_last(decode_every_slice, step):
    depth = 11
    volume = np.broadcast_to(np.arange(depth, dtype=np.float32)[:, None, None], (depth, 16, 16))
    prepared = Preparation(SlicingRule(), (IntensityRule("window", 0, 255),), 16).prepare(volume, np.diag([1, 1, 9, 1]))
    work = Work(depth, WindowRule(4, 2), None, step, decode_every_slice)
    found = [float(logits[0, 8, 8]) for logits in stream_logits(prepared, Ramp(), work, UNWATCHED)]
    last = (depth - 1) // step * step
    assert found == pytest.approx([min(number, last) for number in range(depth)], abs=1e-5)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [((59, 30, 10), "best"), ((61, 59, 10), "balanced"), ((600, 300, 59), "fast"), ((600, 300, 100), "fast")],
)
def test_auto_is_the_best_that_takes_a_minute(seconds, expected):
    choice = choose_quality(dict(zip(("best", "balanced", "fast"), seconds)))
    assert choice.quality == expected
    assert f"quality {expected}: about {choice.seconds[expected]:.0f} s" in str(choice)


@pytest.mark.slow
@pytest.mark.parametrize(("patience_s", "expected"), [(1e9, "best"), (0, "fast")])
def test_auto_gives_what_the_level_that_it_chooses_gives(best, mri, monkeypatch, patience_s, expected):
    monkeypatch.setattr(quality, "PATIENCE_S", patience_s)
    choices = []
    segmenter = at("auto", best, on_choice=choices.append)
    mask = segmenter.segment(mri.array_kji, mri.ijk_to_ras)
    np.testing.assert_array_equal(mask, at(expected, best).segment(mri.array_kji, mri.ijk_to_ras))
    assert [choice.quality for choice in choices] == [segmenter.level] == [expected]
    assert all(seconds > 0 for seconds in choices[0].seconds.values())


def test_an_unknown_quality_is_refused_before_anything_is_loaded(bundled_model):
    with pytest.raises(InputError, match="quality 'superb' is unknown; use best, balanced, fast or auto"):
        Segmenter.load(dataclasses.replace(bundled_model, encoder_tensors={}), quality="superb")


@pytest.mark.slow
def test_the_command_line_says_what_auto_has_chosen(run_cli, tmp_path):
    report = tmp_path / "report.json"
    arguments = ["-o", tmp_path / "out.nii.gz", "--report", report, "--progress", "json"]
    done = run_cli("segment", MRI, *arguments, "--quality", "auto")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (choice,) = [event for event in events if event.get("event") == "quality"]
    assert choice["quality"] in QUALITIES
    assert choice["seconds"] > 0
    assert f"quality {choice['quality']}: about" in done.stderr
    assert json.loads(report.read_text())["segmented"][0]["quality"] == choice["quality"]
