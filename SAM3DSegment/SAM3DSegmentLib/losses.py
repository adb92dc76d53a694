"""Cross-entropy plus soft Dice at every decoder level (formulas and their source: docs/loss_and_decoder.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base.errors import InputError
from .card import UNKNOWN


class DiceLoss(nn.Module):
    """1 - SoftDice, SoftDice = 2 <Y, P> / (|Y|^2 + |P|^2), P = softmax(logits), Y one-hot; mean over the batch.

    per_class=False takes the ratio once per sample, over all classes and voxels; per_class=True averages the ratio of
    each class that the sample has, so that a small structure counts as much as the background. For a class that the
    sample lacks the ratio is 0 with next to no gradient, whatever P is, so it is left out; where such a class is found
    all the same, the classes that are really there and the cross-entropy pay for it.

    All sums are over known voxels: where a label is UNKNOWN, Y and P are 0, and so is the gradient.
    """

    def __init__(self, per_class: bool = True) -> None:
        super().__init__()
        self.per_class = per_class

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits (N, C, D, H, W) float, labels (N, D, H, W) int64 in 0..C-1 or UNKNOWN -> scalar."""
        known = (labels != UNKNOWN)[:, None]
        probabilities = logits.softmax(dim=1) * known
        one_hot = torch.zeros_like(probabilities).scatter_(1, labels[:, None] * known, 1.0) * known
        space = (2, 3, 4)
        overlap = (one_hot * probabilities).sum(space)  # (N, C)
        occupied = one_hot.sum(space)
        squares = occupied + probabilities.square().sum(space)
        if not self.per_class:
            return 1 - (2 * overlap.sum(1) / squares.sum(1).clamp_min(1)).mean()  # >= 1 where a voxel is known
        present = occupied > 0
        ratio = torch.where(present, 2 * overlap / squares.clamp_min(1), 0.0)
        return 1 - (ratio.sum(1) / present.sum(1).clamp_min(1)).mean()


class DiceCrossEntropyLoss(nn.Module):
    """L = CE + (1 - SoftDice); CE is the mean over known voxels, 0 if there are none."""

    def __init__(self, per_class: bool = True) -> None:
        super().__init__()
        self.dice = DiceLoss(per_class)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits (N, C, D, H, W) float, labels (N, D, H, W) int64 in 0..C-1 or UNKNOWN -> scalar."""
        entropy = F.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
        return entropy / (labels != UNKNOWN).sum().clamp_min(1) + self.dice(logits, labels)


class DeepSupervisionLoss(nn.Module):
    """Sum over the levels of alpha_l L_l, each level weighing twice the coarser one; the weights add up to 1.

    For four levels (alpha_4, alpha_3, alpha_2, alpha_1) = (8, 4, 2, 1) / 15, level 4 being the finest. Labels are
    brought to a level's in-plane size by taking the voxel nearest to each cell's centre.
    """

    def __init__(self, per_class: bool = True) -> None:
        super().__init__()
        self.loss = DiceCrossEntropyLoss(per_class)

    @staticmethod
    def weights(levels: int) -> list[float]:
        """Coarse to fine: for four levels [1/15, 2/15, 4/15, 8/15]."""
        return [2**level / (2**levels - 1) for level in range(levels)]

    def forward(self, logits: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]) -> Tensor:
        """logits: one (N, C, D, H, W) tensor, or a list of them coarse to fine; labels (N, D, H, W) int64.

        Or as many labels as logits, where these do not all show the same part of a slice.
        """
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        if not levels:
            raise InputError("the list of logits is empty; give at least the finest level.")
        references = [labels] * len(levels) if isinstance(labels, Tensor) else list(labels)
        terms = []
        for weight, level, reference in zip(self.weights(len(levels)), levels, references, strict=True):
            if level.shape[2] != reference.shape[1]:
                raise InputError(f"logits {tuple(level.shape)} and labels {tuple(reference.shape)} differ in depth.")
            terms.append(weight * self.loss(level, _resize_labels(reference, level.shape[-2], level.shape[-1])))
        return torch.stack(terms).sum()


def _resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    if labels.shape[-2:] == (height, width):
        return labels
    rows = _nearest(labels.shape[-2], height, labels.device)
    columns = _nearest(labels.shape[-1], width, labels.device)
    return labels[..., rows[:, None], columns]


def _nearest(size: int, new_size: int, device: torch.device) -> Tensor:
    centres = (torch.arange(new_size, device=device) + 0.5) * (size / new_size)
    return centres.long().clamp(max=size - 1)
