"""The losses against the formulas, written once more in plain numpy."""

import numpy as np
import pytest
import torch

from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, DiceLoss

CLASSES = 3


def example(shape=(2, 4, 6, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], CLASSES, *shape[1:], generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, shape, generator=generator)
    return logits, labels


def softmax_and_one_hot(logits, labels):
    z = logits.detach().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    y = np.stack([labels.numpy() == c for c in range(CLASSES)], axis=1).astype(float)
    return p, y


def soft_dice(p, y):
    return 2 * (p * y).sum() / ((y**2).sum() + (p**2).sum())


def numpy_dice_loss(logits, labels, per_class):
    p, y = softmax_and_one_hot(logits, labels)
    if per_class:
        return np.mean([1 - np.mean([soft_dice(p[n, c], y[n, c]) for c in range(CLASSES)]) for n in range(len(p))])
    return np.mean([1 - soft_dice(p[n], y[n]) for n in range(len(p))])


def numpy_cross_entropy(logits, labels):
    p, y = softmax_and_one_hot(logits, labels)
    return -(y * np.log(p)).sum() / labels.numel()


@pytest.mark.parametrize("per_class", [False, True])
def test_dice_loss(per_class):
    logits, labels = example()
    assert DiceLoss(per_class)(logits, labels).item() == pytest.approx(numpy_dice_loss(logits, labels, per_class))


@pytest.mark.parametrize("per_class", [False, True])
def test_dice_cross_entropy(per_class):
    logits, labels = example(seed=1)
    expected = numpy_cross_entropy(logits, labels) + numpy_dice_loss(logits, labels, per_class)
    assert DiceCrossEntropyLoss(per_class)(logits, labels).item() == pytest.approx(expected)


def test_levels_weigh_8_4_2_1_of_15_from_fine_to_coarse():
    logits, labels = example((1, 2, 16, 16))
    levels = [example((1, 2, size, size), seed=size)[0] for size in (2, 4, 8)] + [logits]
    expected = 0.0
    for level, weight in zip(levels, (1, 2, 4, 8)):
        stride = 16 // level.shape[-1]
        coarse = labels[:, :, stride // 2 :: stride, stride // 2 :: stride] if stride > 1 else labels
        expected += weight / 15 * (numpy_cross_entropy(level, coarse) + numpy_dice_loss(level, coarse, True))
    assert DeepSupervisionLoss(per_class=True)(levels, labels).item() == pytest.approx(expected)
    assert DeepSupervisionLoss.weights(4) == pytest.approx([1 / 15, 2 / 15, 4 / 15, 8 / 15])


def test_a_single_tensor_is_the_finest_level():
    logits, labels = example()
    alone = DeepSupervisionLoss()(logits, labels)
    torch.testing.assert_close(alone, DiceCrossEntropyLoss()(logits, labels))


def test_a_perfect_prediction_costs_nothing_and_an_absent_class_is_no_error():
    labels = torch.zeros(1, 2, 3, 3, dtype=torch.int64)
    labels[:, 0] = 1  # class 2 is absent
    logits = 100.0 * torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).float()
    assert DiceCrossEntropyLoss(True)(logits, labels).item() == pytest.approx(0, abs=1e-6)
    assert DiceCrossEntropyLoss(False)(logits, labels).item() == pytest.approx(0, abs=1e-6)


def test_bad_levels_are_refused():
    logits, labels = example()
    with pytest.raises(InputError, match="empty"):
        DeepSupervisionLoss()([], labels)
    with pytest.raises(InputError, match="differ in depth"):
        DeepSupervisionLoss()([logits[:, :, :-1]], labels)


def absent_class_example(margin):
    """A voxel-perfect output of classes 0 and 1, of logit margin `margin`; class 2 is absent."""
    labels = torch.zeros(1, 2, 8, 8, dtype=torch.int64)
    labels[:, :, 2:6, 2:6] = 1
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).double()
    return margin * one_hot, labels


@pytest.mark.parametrize("margin", [5, 10, 15])
def test_a_class_that_is_rightly_absent_costs_nothing(margin):
    logits, labels = absent_class_example(margin)
    without = DiceLoss(True)(logits[:, :2], labels)
    assert DiceLoss(True)(logits, labels).item() == pytest.approx(without.item(), abs=0.02)


def test_a_class_that_is_found_where_it_is_absent_costs_and_is_corrected():
    logits, labels = absent_class_example(5.0)
    wrong = logits.clone()
    wrong[:, 2, :, :2, :2] = 9  # found in a corner of the background
    wrong.requires_grad_()
    assert DiceLoss(True)(wrong, labels) > DiceLoss(True)(logits, labels) + 0.01
    DiceCrossEntropyLoss(True)(wrong, labels).backward()
    assert (wrong.grad[:, 2, :, :2, :2] > 0).all()


def test_every_sample_counts_its_own_classes():
    logits, labels = example((2, 2, 6, 6))
    labels[0][labels[0] == 2] = 0
    both = DiceLoss(True)(logits, labels)
    alone = [DiceLoss(True)(logits[n : n + 1], labels[n : n + 1]) for n in (0, 1)]
    torch.testing.assert_close(both, sum(alone) / 2)


@pytest.mark.parametrize(("levels", "weights"), [(2, [1 / 3, 2 / 3]), (3, [1 / 7, 2 / 7, 4 / 7])])
def test_fewer_levels_weigh_twice_the_coarser_one_too(levels, weights):
    assert DeepSupervisionLoss.weights(levels) == pytest.approx(weights)
