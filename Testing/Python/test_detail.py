"""The part of a decoder that reads the grey slices: any size, what it learns, and gradients that are right."""

import pytest
import torch

from SAM3DSegmentLib.detail import GreyDetail
from SAM3DSegmentLib.losses import DeepSupervisionLoss


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 7), (2, 5, 1), (8, 9, 6), (9, 16, 17), (35, 10, 13)])
def test_any_size_is_taken(shape):
    detail = GreyDetail((4, 6, 8), 3)
    assert detail(torch.rand(2, 1, *shape) * 255).shape == (2, 3, *shape)


def test_what_lies_behind_the_last_slice_is_as_it_is():
    """Few slices are continued by the last: the same as if it had been given so often."""
    torch.manual_seed(0)
    detail = GreyDetail((4, 6, 8), 3)
    grey = torch.rand(1, 1, 4, 6, 7) * 255
    continued = torch.cat([grey, grey[:, :, -1:].expand(-1, -1, 5, -1, -1)], dim=2)
    assert torch.equal(detail(grey), detail(continued)[:, :, :4])


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8, 9, 16])
def test_gradients_are_right_in_half_precision(depth):
    """oneDNN's bf16 gradients over exactly two slices are not: no grid, however coarse, may have so few."""
    torch.manual_seed(0)
    detail = GreyDetail((4, 6, 8, 8), 2)
    grey = torch.rand(1, 1, depth, 24, 20) * 255
    labels = (torch.nn.functional.avg_pool3d(grey, (1, 5, 5), 1, (0, 2, 2)) > 127).long()[:, 0]
    gradients = []
    for half in (False, True):
        detail.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = detail(grey)
        DeepSupervisionLoss()(logits.float(), labels).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in detail.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def test_it_learns_to_the_voxel():
    torch.manual_seed(0)
    detail = GreyDetail((4, 6, 8), 2)
    grey = torch.rand(1, 1, 9, 12, 11) * 255
    labels = (grey > 128).long()[:, 0]
    optimiser = torch.optim.Adam(detail.parameters(), 0.02)
    moved = set()
    for _ in range(60):
        optimiser.zero_grad()
        DeepSupervisionLoss()(detail(grey), labels).backward()
        moved |= {name for name, parameter in detail.named_parameters() if parameter.grad.abs().sum() > 0}
        optimiser.step()
    assert moved == {name for name, _ in detail.named_parameters()}
    assert (detail(grey).argmax(1) == labels).float().mean() > 0.95
