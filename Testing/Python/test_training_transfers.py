"""What goes between the host and a GPU in training: each sample once, beside the GPU's work, and few questions back."""

import itertools
from operator import attrgetter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import MODULE
from SAM3DSegmentLib.base.devices import send
from SAM3DSegmentLib.card import EncoderConfig
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.preparation import SquareFit
from SAM3DSegmentLib.sam.encoders import COMPACT_VIT
from SAM3DSegmentLib.sam.vit import build_vit
from SAM3DSegmentLib.settings import AugmentationConfig, TrainingConfig
from SAM3DSegmentLib.training.learner import DecoderLearner, EndToEndLearner
from SAM3DSegmentLib.training.loop import Budget, Loop, make_fabric
from SAM3DSegmentLib.training.samples import FreshViews, Sample, Samples, StepNumbers, make_loader, stack_on
from test_training_samples import prepare, write_case

SIZE = 32
CONFIG = EncoderConfig("compact_vit", SIZE, vit=COMPACT_VIT)
CHANNELS = (256, 4, 4, 4, 4)


class Watch(TorchDispatchMode):
    """Remembers the tensors that are sent to another device, and counts numbers asked of tensors.

    Only pinned memory is sent without waiting: any other may be gone, or another's, before the device has read it.
    """

    def __init__(self):
        super().__init__()
        self.sent, self.asked = [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation is torch.ops.aten._to_copy.default and kwargs.get("device") not in (None, args[0].device):
            self.sent.append(args[0].data_ptr())
            assert not kwargs.get("non_blocking") or args[0].is_pinned()
        self.asked += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **kwargs)


def test_each_sample_is_sent_from_the_memory_that_it_lies_in():
    """To the device `meta`, which takes tensors and keeps nothing of them."""
    tensors = [torch.zeros(2, SIZE, SIZE) for _ in range(3)]
    with Watch() as watch:
        assert stack_on(torch.device("meta"), tensors).shape == (3, 2, SIZE, SIZE)
    assert watch.sent == [tensor.data_ptr() for tensor in tensors]


def test_pinned_memory_alone_is_sent_without_waiting():
    """Seen by what the helper asks of tensors, as there is no pinned memory without a GPU."""

    class Memory:
        def __init__(self, pinned):
            self.is_pinned = lambda: pinned

        def to(self, device, non_blocking):
            return device, non_blocking

    assert send(Memory(True), "gpu") == ("gpu", True)
    assert send(Memory(False), "gpu") == ("gpu", False)
    sends = [path for path in (MODULE / "SAM3DSegmentLib").rglob("*.py") if "non_blocking" in path.read_text("utf-8")]
    assert sends == [MODULE / "SAM3DSegmentLib" / "base" / "devices.py"]


def test_embeddings_are_sent_so(tmp_path):
    """They are a transposed view, of which torch makes a copy that is gone at once."""

    class Meta:
        device = torch.device("meta")

    class Views:
        encoder = Meta

    learner = DecoderLearner(Sam3dDecoder(2, CHANNELS), Views, {})
    fit = SquareFit.of_slices(SIZE, SIZE, (1.0, 1.0), SIZE)
    embeddings = torch.zeros(2, 256, 2, 2, dtype=torch.float16).transpose(0, 1)
    samples = [Sample(fit, torch.zeros(2, SIZE, SIZE), embeddings=embeddings)]
    with Watch() as watch:
        learner.predict(lambda embeddings, grey: [embeddings], samples)
    assert watch.sent == [embeddings.data_ptr(), samples[0].classes.data_ptr()]


def test_a_compact_encoder_is_sent_its_slices_so():
    learner = EndToEndLearner(torch.nn.Identity(), Sam3dDecoder(2, CHANNELS), CONFIG, torch.device("meta"))
    fit = SquareFit.of_slices(SIZE, SIZE, (1.0, 1.0), SIZE)
    samples = [Sample(fit, torch.zeros(2, SIZE, SIZE), torch.zeros(1, 2, SIZE, SIZE)) for _ in range(2)]
    with Watch() as watch:
        levels, labels = learner.predict(lambda squares, grey: [squares], samples)
    assert levels[0].shape == (2, 1, 2, SIZE, SIZE)
    assert labels[0].shape == (2, 2, SIZE, SIZE)
    assert watch.sent == [part.data_ptr() for what in ("grey", "classes") for part in map(attrgetter(what), samples)]


@pytest.mark.skipif(torch.__version__.startswith("2.2."), reason="this torch asks for each, which costs time only")
def test_the_average_asks_for_its_count_once_and_not_for_each_parameter():
    learner = EndToEndLearner(torch.nn.Identity(), Sam3dDecoder(2, CHANNELS), CONFIG, torch.device("cpu"))
    loop = Loop(make_fabric(torch.device("cpu")), learner, TrainingConfig(), Budget(1, 0))
    loop.average.update_parameters(learner.module)
    with Watch() as watch:
        loop.average.update_parameters(learner.module)
    assert watch.asked <= 4 < len(list(learner.module.parameters()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_samples_come_from_pinned_memory_and_nothing_waits(tmp_path):
    device = torch.device("cuda")
    case = prepare(tmp_path, write_case(tmp_path, "a"), SIZE)
    config = TrainingConfig(image_size=SIZE, training_depth=4)
    samples = Samples([case], FreshViews([case], AugmentationConfig()), config, 2)
    learner = EndToEndLearner(build_vit(COMPACT_VIT, SIZE), Sam3dDecoder(2, CHANNELS), CONFIG, device)
    first, second = itertools.islice(make_loader(samples, StepNumbers(0, 2, 0, 1), 2, True), 2)
    assert all(sample.grey.is_pinned() and sample.classes.is_pinned() for sample in first + second)
    module = learner.module.to(device)
    learner.predict(module, first)  # sends what is sent only once
    torch.cuda.set_sync_debug_mode("error")
    try:
        levels, labels = learner.predict(module, second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    classes = torch.stack([sample.classes for sample in second])
    torch.testing.assert_close(
        labels[-1].cpu(), case.fit.place_labels(classes.flatten(0, 1)).view(labels[-1].shape).long()
    )
    assert levels[-1].device.type == "cuda"
