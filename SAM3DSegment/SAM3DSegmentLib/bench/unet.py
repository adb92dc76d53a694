"""A 3-D U-Net that is trained and measured as our decoder is: same cases, augmentation, loss, loop and minutes.

It sees the volumes on their own grid.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.devices import resolve_device
from ..base.errors import Cancelled, InputError
from ..base.watch import UNWATCHED, Watch
from ..card import ModelCard
from ..geometry import slicing_of
from ..metrics import Scores
from ..preparation import Preparation, Voxels, as_channels
from ..settings import TrainingConfig
from ..training.checkpoint import Checkpoint
from ..training.loop import Budget, Loop, make_fabric
from ..training.plan import Plan, make_plan
from ..training.prepared import prepare_case
from ..training.samples import FreshViews, Sample, Samples, StepNumbers, make_loader, stack_on
from ..training.scoring import score_cases
from ..training.validation import Validation

# nnU-Net's network, narrow enough for minutes of a CPU. Its first convolutions are at full resolution: MONAI's `UNet`,
# which halves it at once, was 0.02 of Dice worse after as many minutes.
UNET_CHANNELS = (16, 32, 64, 128)
UNET_LEARNING_RATE = 3e-3
PATCH = (48, 64, 64)  # slices, rows, columns that the U-Net sees at once
_MULTIPLE = 8  # its three halvings


def measure_unet(data: Path, config: TrainingConfig, cases: int | None, device: str, watch: Watch) -> dict[str, Any]:
    """Train on the folder `data`, at most `cases` of it, and measure on the test cases. Raises Cancelled."""
    config = replace(config, learning_rate=UNET_LEARNING_RATE, training_depth=PATCH[0], mirror=False)
    plan = make_plan(data, config, cases, watch=watch)
    if plan.problems:
        raise InputError(plan.problems[0].problem)
    (split,) = plan.splits
    fabric = make_fabric(resolve_device(device))
    torch.manual_seed(config.seed)
    learner = UnetLearner(len(plan.labels) + 1, len(plan.card.inputs), fabric.device)
    loop = Loop(fabric, learner, config, Budget(0, config.minutes * 60))

    def score(names: tuple[str, ...], weights: dict[str, Tensor]) -> Scores:
        segmenter = UnetSegmenter(plan, learner.with_weights(weights), fabric.device)
        return score_cases(segmenter, [plan.files[name] for name in names], plan.labels, plan.rules, fabric, watch)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        prepared = []
        for case in plan.facts:
            if case.files.name in split.training:
                native = _native(plan.card, case.shape_kji, case.ijk_to_ras)
                (made,) = prepare_case(case.files, plan.labels, native, plan.rules, Path(folder))
                prepared.append(opened.enter_context(contextlib.closing(made)))
        samples = Samples(prepared, _Patches(prepared, config.augmentation), config, config.batch_size)
        checkpoint = Checkpoint(Path(folder) / "checkpoint.pt", {})
        validation = Validation(
            lambda weights: score(split.validation, weights), checkpoint, lambda loop, weights, scores, is_best: None
        )
        loader = make_loader(samples, StepNumbers(0, config.batch_size, 0, 1), 0, False)
        if not loop.run(loader, [validation], watch):
            raise Cancelled("cancelled while the U-Net was trained.")
        scores = score(split.test, checkpoint.best)
    return {
        "dice": scores.mean(),
        "dice_by_label": {name: round(value, 4) for name, value in scores.by_label().items()},
        "steps": loop.state.step,
        "parameters": sum(p.numel() for p in learner.module.parameters()),
    }


class PaddedUnet(nn.Module):
    """MONAI's U-Net as nnU-Net has it, on grey volumes (N, M, D, H, W) of any size -> a list of one level of logits."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        halvings = len(UNET_CHANNELS) - 1
        self.unet = DynUNet(
            3,
            channels,
            num_classes,
            kernel_size=[3] * len(UNET_CHANNELS),
            strides=[1] + [2] * halvings,
            upsample_kernel_size=[2] * halvings,
            filters=UNET_CHANNELS,
        )

    def forward(self, grey: Tensor) -> list[Tensor]:
        missing = [-size % _MULTIPLE for size in grey.shape[2:]]
        padded = F.pad(grey, [part for size in reversed(missing) for part in (0, size)])
        depth, height, width = grey.shape[2:]
        return [self.unet(padded)[:, :, :depth, :height, :width]]


class UnetLearner:
    """The U-Net in the place of an encoder and a decoder, for the same loop."""

    def __init__(self, num_classes: int, channels: int, device: torch.device) -> None:
        self.module: nn.Module = PaddedUnet(num_classes, channels)
        self._channels = channels
        self._num_classes = num_classes
        self._device = device

    def predict(self, module: nn.Module, samples: list[Sample]) -> tuple[list[Tensor], list[Tensor]]:
        grey = stack_on(self._device, [sample.grey for sample in samples if sample.grey is not None])
        classes = stack_on(self._device, [sample.classes for sample in samples])
        return module(_as_input(grey)), [classes.long()]

    def with_weights(self, weights: dict[str, Tensor]) -> PaddedUnet:
        unet = PaddedUnet(self._num_classes, self._channels)
        unet.load_state_dict(weights)
        return unet.to(self._device).eval()


class UnetSegmenter:
    """A trained U-Net, used as a `Segmenter` is."""

    def __init__(self, plan: Plan, unet: PaddedUnet, device: torch.device) -> None:
        self._plan = plan
        self._unet = unet
        self._device = device

    @torch.no_grad()
    def segment(self, array_kji: Voxels, ijk_to_ras: np.ndarray, watch: Watch = UNWATCHED) -> np.ndarray:
        prepared = _native(self._plan.card, as_channels(array_kji)[0].shape, ijk_to_ras).prepare(array_kji, ijk_to_ras)
        grey = _as_input(prepared.grey(0, prepared.depth).to(self._device).transpose(0, 1)[None])
        patch = tuple(min(part, size) for part, size in zip(PATCH, grey.shape[2:]))
        logits = sliding_window_inference(grey, patch, 1, lambda part: self._unet(part)[0], overlap=0.5)
        assert isinstance(logits, Tensor)
        classes = prepared.fit.enlarge(logits[0].transpose(0, 1)).argmax(1).cpu().numpy()
        values = np.array([0, *(label.value for label in self._plan.labels)], np.uint8)
        return prepared.slicing.to_kji(values[classes])


class _Patches(FreshViews):
    """Random views as for our network, cut at random to what the U-Net sees at once."""

    def sample(self, case: int, start: int, stop: int, step: int, generator: torch.Generator) -> Sample:
        view = super().sample(case, start, stop, step, generator)
        assert view.grey is not None
        cut = []
        for size, most in zip(view.classes.shape[1:], PATCH[1:]):
            first = int(torch.randint(max(0, size - most) + 1, (1,), generator=generator))
            cut.append(slice(first, first + most))
        return Sample(view.fit, view.classes[:, cut[0], cut[1]], view.grey[..., cut[0], cut[1]])


def _native(card: ModelCard, shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray) -> Preparation:
    """The preparation whose square has as many pixels as the volume's own slice, which then is its grid."""
    slicing = slicing_of(ijk_to_ras, card.slicing)
    return Preparation(card.slicing, card.intensities, max(shape_kji[axis] for axis in slicing.kji_axes[1:]))


def _as_input(grey: Tensor) -> Tensor:
    return grey / 127.5 - 1
