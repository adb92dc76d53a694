"""What happens when memory runs out: work goes on in smaller parts, and where it cannot, one line says what to do."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from conftest import MODULE
from SAM3DSegmentLib.base.errors import OutOfMemoryError
from SAM3DSegmentLib.base.halving import RetryInHalves
from SAM3DSegmentLib.card import EncoderConfig
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.network import Network


def greedy(most, asked):
    def double(batch):
        asked.append(len(batch))
        if len(batch) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return 2 * batch

    return double


@pytest.mark.parametrize(("most", "asked"), [(31, [31]), (16, [31, 16, 15]), (4, [31, 16, 8, 4, 4, 4, 4, 4, 4, 4, 3])])
def test_a_batch_is_halved_until_it_fits_and_the_size_remembered(most, asked, caplog):
    seen = []
    halving = RetryInHalves(greedy(most, seen), "continuing with {count} slices.")
    batch = torch.arange(31.0)
    assert torch.equal(halving(batch), 2 * batch)
    assert seen == asked
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len([n for n in asked[:-1] if n > most])
    assert all("continuing with" in line for line in said)
    seen.clear()
    halving(batch)
    assert max(seen) <= most


def test_no_smaller_parts_than_allowed_are_tried():
    asked = []
    with pytest.raises(RuntimeError, match="allocate"):
        RetryInHalves(greedy(4, asked), "{count}", least=8)(torch.zeros(31))
    assert asked == [31, 16, 8]


def test_one_item_that_does_not_fit_and_any_other_error_are_raised():
    with pytest.raises(RuntimeError, match="allocate"):
        RetryInHalves(greedy(0, []), "{count}")(torch.zeros(5))

    def broken(batch):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        RetryInHalves(broken, "{count}")(torch.zeros(5))


class Small(Network):
    """A network whose memory never suffices; what a GPU is for a model that is too large for it.

    A fake, because there is no GPU in these tests.
    """

    def __init__(self, model):
        self.encoder = _Device(model.card.encoder)
        self._decoders = model.decoders

    def encode(self, grey, mirror):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@dataclasses.dataclass
class _Device:
    config: EncoderConfig
    device: torch.device = torch.device("cuda")
    dtype: torch.dtype = torch.bfloat16
    batch_size: int = 4
    image_size: int = 112
    computed: int = 0
    multiplications: float = 1.0


def test_where_a_gpu_is_too_small_the_cpu_goes_on(bundled_model, caplog):
    good = Segmenter.load(bundled_model, "cpu", "fp32")
    volume = np.random.default_rng(0).normal(size=(6, 20, 20)).astype(np.float32)
    segmenter = Segmenter(good.card, Small(bundled_model), load_on_cpu=lambda: good.network)
    np.testing.assert_array_equal(segmenter.segment(volume, np.eye(4)), good.segment(volume, np.eye(4)))
    assert "cuda does not have enough memory; continuing on the CPU" in caplog.text


def test_after_a_volume_that_is_too_large_the_next_has_the_gpu_again(bundled_model, monkeypatch):
    """Of a folder. Which network is taken is asked here; nothing is computed, because there is no GPU."""
    loaded, gpu, cpu = [], Small(bundled_model), Small(bundled_model)

    def compute(self, array, *more):
        if self.network is gpu and array.size > 1000:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return array, None

    monkeypatch.setattr(Segmenter, "_compute", compute)
    segmenter = Segmenter(bundled_model.card, gpu, lambda: loaded.append("cpu") or cpu)
    used = []
    for depth in (1, 20, 2, 30):
        segmenter.segment(np.ones((depth, 10, 10)), np.eye(4))
        used.append(segmenter.network)
    assert used == [gpu, cpu, gpu, cpu]
    assert loaded == ["cpu"]


def test_where_nothing_suffices_one_line_says_what_to_do(bundled_model):
    segmenter = Segmenter(bundled_model.card, Small(bundled_model))
    with pytest.raises(OutOfMemoryError, match=r"6x20x20 voxels, even in small parts; close other programs"):
        segmenter.segment(np.ones((6, 20, 20), np.float32), np.eye(4))


def test_a_detail_part_is_not_tried_on_windows_that_spare_no_memory(bundled_model):
    """It computes as many slices for a shorter one. What a full memory is, is a fake, because this machine's is not."""
    segmenter = Segmenter.load(bundled_model, "cpu", "fp32")
    tried = []

    def run_out(grey, mirror):
        tried.append(len(grey))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    segmenter.network.detail = run_out
    with pytest.raises(OutOfMemoryError, match="even in small parts"):
        segmenter.segment(np.ones((20, 20, 48), np.float32), np.eye(4))
    assert segmenter.network.least_detail_depth == 17
    assert tried == [48, 24]


LIMITED = """
import json, logging, resource, sys
import numpy as np, psutil, torch
logging.basicConfig(level=logging.WARNING, format="%(message)s")
torch.set_num_threads(1)
from SAM3DSegmentLib.base.errors import Sam3dError
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.model_file import load_model
from SAM3DSegmentLib.postprocessing import load_for_islands

segmenter = Segmenter.load(load_model("hippocampus-mri"), "cpu", "fp32")
volume = np.random.default_rng(0).integers(0, 999, (64, 512, 512), np.int16)
segmenter.segment(volume[:2, :64, :64], np.eye(4))  # what is allocated once
load_for_islands(volume.shape)
limit = psutil.Process().memory_info().vms + int(sys.argv[1]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(json.dumps(segmenter.segment(volume, np.diag([0.8, 0.8, 2.0, 1.0])).shape))
except Sam3dError as error:
    print(json.dumps(str(error)))
"""


def segment_within(megabytes):
    """A volume of 512 x 512 x 64 in a process that may take so many MiB beyond what it has loaded.

    Whether it went on in smaller parts, and the mask's shape or what it said instead.
    """
    command = [sys.executable, "-c", LIMITED, str(megabytes)]
    # Each arena of malloc reserves 64 MiB, and threads race for them, so one is all that it gets.
    environment = {"PYTHONPATH": str(MODULE), "MALLOC_ARENA_MAX": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    answer = json.loads(result.stdout)
    assert answer == [64, 512, 512] or "even in small parts" in answer
    return "continuing with" in result.stderr, answer


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept on Linux only")
def test_a_process_with_little_memory_goes_on_in_smaller_parts_or_says_so():
    """The limits at which it must differ with the versions of what it has loaded, so several are tried."""
    assert segment_within(1000) == (False, [64, 512, 512])
    assert (True, [64, 512, 512]) in map(segment_within, (380, 360, 340, 350, 370, 330))
    assert isinstance(segment_within(150)[1], str)
