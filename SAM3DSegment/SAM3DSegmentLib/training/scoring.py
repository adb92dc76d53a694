"""How well a model does on labelled cases: Dice by case and label, on each case's own grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric

from ..base.watch import UNWATCHED, Watch
from ..card import UNKNOWN, Label
from ..formats.volumes import Volume
from ..inference import Segmenter
from ..metrics import Scores, label_dice
from ..network import Network
from ..places.finder import Finder
from ..preparation import Voxels
from .case_files import CaseFiles
from .classes import LabelRules
from .learner import TrainedNetwork
from .plan import Plan
from .reading import read_case


class Segments(Protocol):
    """A `Segmenter`, or what is measured as one."""

    def segment(self, array_kji: Voxels, ijk_to_ras: np.ndarray, watch: Watch = UNWATCHED) -> np.ndarray: ...


def make_segmenter(plan: Plan, trained: list[TrainedNetwork], finder: Finder | None = None) -> Segmenter:
    """Segments as the model of these networks will; finder: of the places that it looks at."""
    card = replace(plan.card, encoder=trained[0].encoder.config)
    return Segmenter(card, Network(trained[0].encoder, [part.decoder for part in trained]), finder=finder)


def segment_case(
    segmenter: Segments, case: CaseFiles, labels: tuple[Label, ...], rules: LabelRules, watch: Watch = UNWATCHED
) -> tuple[Volume, np.ndarray, np.ndarray]:
    """The image, and on its grid class indices (K, J, I) uint8: those of the reference, and those that were found."""
    image, reference = read_case(case, labels, rules)
    found = segmenter.segment(image.channels, image.ijk_to_ras, watch)
    indices = np.zeros(256, np.uint8)
    indices[[label.value for label in labels]] = range(1, len(labels) + 1)
    return image, reference, indices[found]


def score_cases(
    segmenter: Segments,
    cases: list[CaseFiles],
    labels: tuple[Label, ...],
    rules: LabelRules,
    fabric: Fabric,
    watch: Watch,
) -> Scores:
    """Segment the cases, each device its share, one at a time in memory; on known voxels. Raises Cancelled.

    With several devices it cannot be cancelled in between: all have to reach the end together.
    """
    dice = np.zeros((len(cases), len(labels)))
    watch = watch.silent() if fabric.world_size == 1 else UNWATCHED
    for number in range(fabric.global_rank, len(cases), fabric.world_size):
        _, reference, found = segment_case(segmenter, cases[number], labels, rules, watch)
        found[reference == UNKNOWN] = UNKNOWN
        dice[number] = label_dice(found, reference, list(range(1, len(labels) + 1)))
    shared = fabric.all_reduce(torch.from_numpy(dice).to(fabric.device, torch.float32), reduce_op="sum")
    assert isinstance(shared, torch.Tensor)
    return Scores(tuple(c.name for c in cases), tuple(label.name for label in labels), shared.cpu().double().numpy())
