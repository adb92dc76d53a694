"""What lies between painted slices: three ways to tell it from these and the image, for one structure in one box.

Axes are (D, H, W), D across the painted slices. Each function fills what is not `known`, and says how it knows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

EDGE = 6.0  # squared differences of grey, in deviations of the box, times this: how fast a walker loses heart
ACROSS = 2.0  # how readily it steps to the next slice, where a step within a slice is 1
LEAST_STEP = 1e-6  # so that no voxel is cut off from all painted ones
TOLERANCE = 1e-3  # of the walker's equations, relative to their right side
MOST_ITERATIONS = 500

REACH = 4  # pixels to each side in which patches are compared
PATCH = 5  # pixels of a patch's side, in the slice and its two neighbours
NEARNESS = 3.0  # pixels: the standard deviation by which a vote from afar counts less
NOISE = 1e-2  # squared difference of grey that means nothing
MODEL_WEIGHT = 2.0  # of a model's probability beside the grey values where patches are compared
VOTES_VOXELS = 2**25  # that the differences of all shifts may take at once

Check = Callable[[], None]  # raises if the work is to end


def interpolate_distance(shown: np.ndarray, spacing_hw: tuple[float, float], slices: np.ndarray) -> np.ndarray:
    """Signed distances in mm to the border of a structure in painted slices, and between these in proportion.

    shown: boolean (n, H, W), the structure in the n painted slices; slices: where each of D slices lies among them, as
    fractions of 0..n-1. Returns (D, H, W) float32, positive inside. Where a painted slice lacks the structure, it ends
    half-way to it. Raya and Udupa 1990, IEEE Transactions on Medical Imaging 9(1), 32-42.
    """
    inside = [ndimage.distance_transform_edt(mask, spacing_hw) if mask.any() else None for mask in shown]
    most = max(float(distance.max()) for distance in inside if distance is not None)
    painted = np.full(shown.shape, -most, np.float32)
    for number, distance in enumerate(inside):
        if distance is not None:
            painted[number] = distance - ndimage.distance_transform_edt(~shown[number], spacing_hw)
    below = np.clip(np.floor(slices).astype(int), 0, max(0, len(shown) - 2))
    above = np.minimum(below + 1, len(shown) - 1)
    share = (slices - below).astype(np.float32)[:, None, None]
    return (1 - share) * painted[below] + share * painted[above]


def walk(grey: Tensor, mask: Tensor, known: Tensor, guess: Tensor, check: Check, weight: float = 0.0) -> Tensor:
    """The probability that a random walker from each voxel meets the structure before anything else that is painted.

    grey: (D, H, W) float32 of unit deviation; mask, known: boolean, the structure where it is known. Steps over edges
    of the image are unlikely. guess: another probability, from which the solution starts; with a `weight`, a walker
    stops at each voxel and believes it, the more often the higher that is.
    Grady 2006, IEEE PAMI 28(11), 1768-1783; with priors: Grady 2005, CVPR. The equations are solved by conjugate
    gradients, without a matrix: memory is that of a dozen arrays of the box.
    """
    steps = [ACROSS * _step(grey, 0), _step(grey, 1), _step(grey, 2)]
    degree = torch.full_like(grey, weight)
    for axis, step in enumerate(steps):
        count = grey.shape[axis] - 1
        degree.narrow(axis, 0, count).add_(step)
        degree.narrow(axis, 1, count).add_(step)
    free = (~known).to(grey.dtype)

    def from_neighbours(values: Tensor) -> Tensor:
        total = torch.zeros_like(values)
        for axis, step in enumerate(steps):
            count = values.shape[axis] - 1
            total.narrow(axis, 0, count).addcmul_(step, values.narrow(axis, 1, count))
            total.narrow(axis, 1, count).addcmul_(step, values.narrow(axis, 0, count))
        return total

    def operate(values: Tensor) -> Tensor:
        return free * (degree * values - from_neighbours(values))

    painted = (mask & known).to(grey.dtype)
    right = free * (from_neighbours(painted) + weight * guess)
    return painted + _conjugate_gradients(operate, right, free * guess, free / degree, check)


def vote(
    channels: Tensor, values: Tensor, known: Tensor, painted: list[int], wanted: list[int], check: Check
) -> Tensor:
    """Values of the slices `wanted` from the painted slices next to them: those of similar patches, near in place.

    channels: (F, D, H, W) float32, what is compared, grey values first; values, known: (D, H, W), of which only the
    known ones of painted slices are read. Returns (len(wanted), H, W) float32. Coupe et al. 2011, NeuroImage 54(2),
    940-954, between slices of one volume instead of between volumes.
    """
    result = torch.zeros((len(wanted), *values.shape[1:]), device=values.device)
    shifts = [(row, column) for row in range(-REACH, REACH + 1) for column in range(-REACH, REACH + 1)]
    for sources, numbers in _by_sources(painted, wanted):
        at_once = max(1, VOTES_VOXELS // (len(shifts) * len(sources) * values[0].numel()))
        for start in range(0, len(numbers), at_once):
            check()
            some = numbers[start : start + at_once]
            ours = _with_neighbours(channels, some)
            differences, nearness, votes, counts = [], [], [], []
            for source in sources:
                theirs = _padded(_with_neighbours(channels, [source]))
                is_known = _padded(known[source][None, None].float(), mode="constant")
                theirs_values = _padded(values[source][None, None])
                away = torch.tensor([abs(number - source) for number in some], device=values.device)
                span = max(1, max(sources) - min(sources))
                for shift in shifts:
                    squares = (ours - _shifted(theirs, shift)).square().sum(1, keepdim=True) / 3
                    differences.append(F.avg_pool2d(squares, PATCH, 1, PATCH // 2, count_include_pad=False)[:, 0])
                    distance = (shift[0] ** 2 + shift[1] ** 2) / (2 * NEARNESS**2)
                    nearness.append(distance + away.float()[:, None, None] / span)
                    votes.append(_shifted(theirs_values, shift)[0])
                    counts.append(_shifted(is_known, shift)[0])
            stacked = torch.stack(differences)  # (shifts, n, H, W)
            least = stacked.min(0).values
            weights = (-(stacked - least) / (least + NOISE) - torch.stack(nearness)).exp_() * torch.stack(counts)
            total = weights.sum(0)
            mean = (weights * torch.stack(votes)).sum(0) / total.clamp_min(1e-20)
            for number, slice_ in zip(some, mean):
                result[wanted.index(number)] = slice_
    return result


def _step(grey: Tensor, axis: int) -> Tensor:
    """How readily a walker steps between neighbours along an axis."""
    count = grey.shape[axis] - 1
    difference = grey.narrow(axis, 1, count) - grey.narrow(axis, 0, count)
    return (-EDGE * difference.square()).exp_() + LEAST_STEP


def _conjugate_gradients(
    operate: Callable[[Tensor], Tensor], right: Tensor, solution: Tensor, scale: Tensor, check: Check
) -> Tensor:
    """Of a symmetric positive definite operator, scaled by its diagonal's inverse."""
    residual = right - operate(solution)
    direction = scale * residual
    energy = (residual * direction).sum()
    enough = TOLERANCE * right.norm()
    for _ in range(MOST_ITERATIONS):
        check()
        if residual.norm() <= enough:
            break
        image = operate(direction)
        step = energy / (direction * image).sum()
        solution = solution + step * direction
        residual = residual - step * image
        scaled = scale * residual
        energy, before = (residual * scaled).sum(), energy
        direction = scaled + energy / before * direction
    return solution


def _by_sources(painted: list[int], wanted: list[int]) -> list[tuple[list[int], list[int]]]:
    """Slices that are asked for, by the painted slices next to them: the last before and the first behind."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in wanted:
        before = [one for one in painted if one < number][-1:]
        behind = [one for one in painted if one > number][:1]
        groups.setdefault((*before, *behind), []).append(number)
    return [(list(sources), numbers) for sources, numbers in groups.items() if sources]


def _with_neighbours(channels: Tensor, numbers: list[int]) -> Tensor:
    """Each of the slices with the one before and the one behind it: (n, 3 F, H, W)."""
    last = channels.shape[1] - 1
    rows = [channels[:, [max(0, one - 1), one, min(last, one + 1)]].flatten(0, 1) for one in numbers]
    return torch.stack(rows)


def _padded(slices: Tensor, mode: str = "replicate") -> Tensor:
    return F.pad(slices, (REACH,) * 4, mode=mode)


def _shifted(padded: Tensor, shift: tuple[int, int]) -> Tensor:
    height, width = padded.shape[-2] - 2 * REACH, padded.shape[-1] - 2 * REACH
    top, left = REACH + shift[0], REACH + shift[1]
    return padded[..., top : top + height, left : left + width]
