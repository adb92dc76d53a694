"""The bar tells the truth: what it shows of a volume's work is what has passed of its time."""

import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from SAM3DSegmentLib.base.watch import Watch
from SAM3DSegmentLib.card import DecoderConfig, WindowRule
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.inference import Segmenter, watch_of
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.work import PARTS, Cost, Tally, Work

logger = logging.getLogger(__name__)

# Few large slices, a small volume, and many small slices; spacing in mm.
SHAPES = [((20, 512, 512), (0.8, 0.8, 2.0)), ((36, 50, 35), (1.0, 1.0, 1.0)), ((150, 64, 64), (1.0, 1.0, 1.0))]


def largest_difference(segmenter, shape, spacing):
    """Of the share that is shown and the share of the processor's time, at every report and just before it."""
    volume = np.random.default_rng(0).integers(0, 600, shape).astype(np.int16)
    seen = [(0.0, 0.0)]
    began = time.process_time()

    def show(stage, done, total):
        passed = time.process_time() - began
        seen.append((passed, seen[-1][1]))
        seen.append((passed, done / total))

    segmenter.segment(volume, np.diag([*spacing, 1.0]), watch_of(show, None))
    took = time.process_time() - began
    return max(abs(passed / took - shown) for passed, shown in seen)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_the_share_that_is_shown_is_the_share_of_the_time(bundled_model, shape, spacing):
    """The best of three, as a busy computer may hold up any of them at any moment."""
    segmenter = Segmenter.load(bundled_model, "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        segmenter.segment(np.zeros((8, 20, 20)), np.eye(4))  # what happens only once
        differences = [largest_difference(segmenter, shape, spacing) for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    logger.info("largest differences of %s: %s", shape, [round(one, 3) for one in differences])
    assert min(differences) < 0.1


@pytest.mark.parametrize("depth", [3, 20])
@pytest.mark.parametrize(
    "config",
    [
        DecoderConfig(3, (256, 8, 8, 8, 8), levels=3),
        DecoderConfig(2, (256, 8, 8, 8, 8), detail=(4, 6, 8)),
        DecoderConfig(2, (256, 8, 8, 8, 8), projection_kernel=1, upsampling="nearest", heads=3, head="convolutional"),
    ],
    ids=["levels", "detail", "convolutional head"],
)
def test_the_cost_that_is_expected_is_that_of_what_is_computed(config, depth):
    """Counted after each convolution as it is computed, and beforehand from sizes alone."""
    encoder = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, image_size=32)
    network = Network(encoder, [Sam3dDecoder.from_config(config)] * 2)
    counted = []
    with network.counted(counted.append):
        network.decode(torch.zeros(depth, 1, 256, 2, 2))
        decoding = sum(counted)
        if network.has_detail:
            network.detail(torch.zeros(depth, 1, 11, 9))
    assert decoding == pytest.approx(network.decoding_cost(depth))
    assert sum(counted) - decoding == pytest.approx(network.detail_cost(depth, (11, 9)), rel=0.1)  # odd sizes
    assert len(counted) > 10  # the bar does not stand while a window is decoded
    network.decode(torch.zeros(depth, 1, 256, 2, 2))
    assert sum(counted) >= decoding


def told(steps, depth=10, cost=None):
    """The shares that a tally tells of so many steps, each (its method, arguments)."""
    seen = []
    watch = Watch(SimpleNamespace(progress=lambda stage, done, total: seen.append(done / total)))
    tally = Tally(Work(depth, WindowRule()), cost or Cost(8.0, 0.0, 10.0, 1.0), watch)
    for method, *arguments in steps:
        getattr(tally, method)(*arguments)
    return seen


def test_each_stage_has_the_share_of_its_cost():
    """80 for encoding, 10 for decoding, 10 for finishing."""
    steps = [("encoded", 5, 40.0), ("encoded", 5, 40.0), ("decoded", 10.0), *[("finished",)] * 5]
    assert told(steps) == pytest.approx([0.4, 0.8, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95])


def test_slices_that_were_known_already_are_no_work():
    """As of a second model on the same encoder: all is decoding then."""
    steps = [("encoded", 5, 0.0), ("encoded", 5, 0.0), ("decoded", 5.0), ("decoded", 5.0)]
    assert told(steps) == pytest.approx([0, 0.25, 0.5])


def test_it_never_goes_back_and_is_complete_only_at_the_end():
    steps = [("encoded", 5, 0.0), ("decoded", 10.0), ("encoded", 5, 40.0), ("decoded", 99.0), *[("finished",)] * 10]
    shares = told(steps)
    assert shares == sorted(set(shares))
    assert shares[-1] == (PARTS - 1) / PARTS
