"""Volumes on the model's square and back: positions, sizes, aspect, and that every user of a volume sees the same."""

import itertools

import numpy as np
import pytest
import torch

from SAM3DSegmentLib.card import SlicingRule
from SAM3DSegmentLib.channel import IntensityRule
from SAM3DSegmentLib.preparation import Preparation, SquareFit


@pytest.mark.parametrize(("height", "width"), itertools.product((1, 5, 7, 11), repeat=2))
@pytest.mark.parametrize("size", [16, 48])
def test_slices_are_centred_and_fill_the_square(height, width, size):
    fit = SquareFit.of_slices(height, width, (1.0, 1.0), size)
    assert max(fit.inner) == size
    square = fit.place(torch.rand(2, 3, height, width) + 1)
    assert square.shape == (2, 3, size, size)
    assert torch.count_nonzero(square) == 6 * fit.inner[0] * fit.inner[1]
    for axis in (0, 1):
        filled = square[0, 0].any(1 - axis).nonzero().flatten()
        assert abs(int(filled[0]) - (size - 1 - int(filled[-1]))) <= 1


def test_a_pixel_takes_the_label_at_its_centre():
    fit = SquareFit.of_slices(144, 144, (1.0, 1.0), 48)
    rows = torch.arange(144).expand(144, 144).T[None]
    assert fit.shrink_labels(rows)[0, :, 0].tolist() == list(range(1, 144, 3))
    assert fit.shrink_labels(rows.mT)[0, 0].tolist() == list(range(1, 144, 3))


@pytest.mark.parametrize(("height", "width"), itertools.product((5, 7, 11), repeat=2))
def test_labels_survive_the_square_to_the_voxel(height, width):
    fit = SquareFit.of_slices(height, width, (1.0, 1.0), 48)
    labels = torch.arange(height * width).reshape(1, height, width) % 5
    one_hot = torch.nn.functional.one_hot(fit.place_labels(labels), 5).movedim(-1, 1).float()
    torch.testing.assert_close(fit.restore(one_hot).argmax(1), labels)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (7, 11), (11, 5), (60, 90)])
@pytest.mark.parametrize("size", [64, 112])
def test_the_way_back_keeps_positions(height, width, size):
    """A linear ramp has the same value at the same place on both grids, to a tenth of a pixel, away from the border."""
    fit = SquareFit.of_slices(height, width, (1.0, 1.0), size)
    ramp = (torch.arange(height)[:, None] * 3.0 + torch.arange(width)[None] * 2.0)[None, None]
    back = fit.restore(fit.place(fit.shrink(ramp)))
    torch.testing.assert_close(back[..., 2:-2, 2:-2], ramp[..., 2:-2, 2:-2], atol=0.2, rtol=0)


@pytest.mark.parametrize("cells", [8, 16, 32, 64])
def test_a_coarser_grid_goes_back_to_the_same_positions(cells):
    """The square's own coordinates, averaged over the cells of a level, are again those of the pixels' centres."""
    fit = SquareFit.of_slices(30, 50, (1.0, 1.0), 64)
    rows = torch.arange(64.0)[:, None].expand(64, 64)
    level = torch.nn.functional.avg_pool2d(rows[None, None], 64 // cells)
    torch.testing.assert_close(fit.restore(level)[..., 4:-4, :], fit.restore(rows[None, None])[..., 4:-4, :])


def test_the_way_back_is_torchs_own_interpolation_on_the_square_itself():
    for height, width, size in ((35, 50, 320), (512, 300, 256), (7, 7, 64)):
        fit = SquareFit.of_slices(height, width, (0.9, 1.3), size)
        inner = torch.rand(1, 2, *fit.inner)
        expected = torch.nn.functional.interpolate(inner, (height, width), mode="bilinear", align_corners=False)
        torch.testing.assert_close(fit.restore(fit._pad(inner)), expected, atol=1e-4, rtol=0)


def test_the_aspect_is_kept_in_millimetres():
    fit = SquareFit.of_slices(100, 100, (2.0, 1.0), 64)
    assert fit.inner == (64, 32)


@pytest.mark.parametrize(
    ("height", "width", "size", "level"),
    [
        (35, 50, 320, 2),
        (35, 50, 192, 3),
        (81, 80, 320, 3),
        (512, 512, 1024, 3),
        (1024, 900, 1024, 4),
        (512, 512, 2048, 2),
    ],
)
def test_a_level_is_as_fine_as_the_volume(height, width, size, level):
    assert SquareFit.of_slices(height, width, (1.0, 1.0), size).level() == level


@pytest.mark.parametrize(("height", "width", "spacing"), [(8, 32, (4.0, 1.0)), (32, 8, (1.0, 4.0))])
def test_a_level_is_as_fine_as_the_volume_along_both_axes(height, width, spacing):
    assert SquareFit.of_slices(height, width, spacing, 64).level() == 3


@pytest.mark.parametrize("shape", [(9, 70, 90), (9, 20, 13), (5, 33, 121), (1, 1, 40)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.9)])
def test_a_slice_is_the_same_alone_and_among_others(shape, spacing):
    """Shrinking, enlarging, anisotropic and odd sizes: batches must not matter, or training and use would differ."""
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    matrix = np.diag([*spacing[::-1], 1.0])
    prepared = Preparation(SlicingRule(), (IntensityRule(),), 48).prepare(volume, matrix)
    whole, squares = prepared.grey(0, prepared.depth), prepared.squares(0, prepared.depth)
    assert whole.shape == (shape[0], 1, *prepared.fit.grid)
    assert squares.shape == (shape[0], 1, 48, 48)
    for index in range(prepared.depth):
        assert torch.equal(prepared.grey(index, index + 1)[0], whole[index])
        assert torch.equal(prepared.squares(index, index + 1)[0], squares[index])


def test_shrinking_averages():
    """Without antialiasing every fourth pixel would be taken, and noise stay as loud as it was."""
    noise = np.random.default_rng(0).normal(size=(2, 256, 256)).astype(np.float32)
    rule = IntensityRule("window", -5, 5)
    grey = Preparation(SlicingRule(), (rule,), 64).prepare(noise, np.eye(4)).grey(0, 2)
    assert float(grey.std()) < 0.4 * 255 / 10


@pytest.mark.parametrize("size", [16, 64, 112])
@pytest.mark.parametrize(
    ("height", "width", "spacing"), [(30, 50, (1.0, 1.0)), (90, 40, (0.5, 2.0)), (7, 7, (1.0, 1.0))]
)
def test_the_grid_is_the_coarser_of_the_slices_own_and_the_squares(height, width, spacing, size):
    fit = SquareFit.of_slices(height, width, spacing, size)
    assert fit.grid == (min(height, fit.inner[0]), min(width, fit.inner[1]))
    ramp = (torch.arange(height)[:, None] * 3.0 + torch.arange(width)[None] * 2.0)[None, None]
    gridded = fit.shrink(ramp)
    assert gridded.shape[2:] == fit.grid
    inside = (..., slice(1, -1), slice(1, -1))
    step = 3 * height / fit.grid[0] + 2 * width / fit.grid[1]  # between two cells
    torch.testing.assert_close(fit.to_grid(fit.place(gridded))[inside], gridded[inside], atol=0.3 * step, rtol=0)
    back = fit.enlarge(gridded)
    assert back.shape == ramp.shape
    middle = (..., slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4)))
    torch.testing.assert_close(back[middle], ramp[middle], atol=0.3 * step, rtol=0)
