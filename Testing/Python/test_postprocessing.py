import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import MRI
from SAM3DSegmentLib import postprocessing
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.postprocessing import find_islands


def remove_islands(labels, share):
    cleaned = labels.copy()
    for slab, island in find_islands(labels, share):
        cleaned[slab][island] = 0
    return cleaned


def scene():
    """A large label 1 (60 voxels) touching a small label 2 (6), far from both an island of each, and a lone label 3."""
    labels = np.zeros((9, 11, 13), np.uint8)
    labels[1:4, 1:6, 1:5] = 1
    labels[4, 1:4, 1:3] = 2
    labels[7, 9, 1:6] = 1
    labels[7, 1, 9] = 2
    labels[1, 9, 11] = 3
    return labels


def test_an_island_is_judged_by_its_own_label():
    labels = scene()
    cleaned = remove_islands(labels, 0.1)
    expected = labels.copy()
    expected[7, 9, 1:6] = 0  # 5 of 60 voxels; label 2's 1 of 6, and all of label 3, are more than a tenth
    np.testing.assert_array_equal(cleaned, expected)
    assert cleaned.dtype == np.uint8
    np.testing.assert_array_equal(labels, scene())  # the input is left alone
    expected[7, 1, 9] = 0
    np.testing.assert_array_equal(remove_islands(labels, 0.2), expected)


def test_pieces_that_touch_by_a_corner_or_another_label_are_one():
    labels = np.zeros((5, 7, 11), np.uint8)
    labels[0:2, 0:4, 0:4] = 1
    labels[2, 4, 4] = 1  # by a corner
    labels[2, 4, 5] = 2
    labels[2, 4, 6] = 1  # by label 2
    np.testing.assert_array_equal(remove_islands(labels, 0.9), labels)


@pytest.mark.parametrize("slab", [1, 2, 7, 100])
def test_pieces_go_on_from_slab_to_slab(monkeypatch, slab):
    """Against one labelling of the whole volume; half-full noise has pieces of every size that wind through slabs."""
    rng = np.random.default_rng(3)
    labels = (rng.random((23, 11, 13)) < 0.12).astype(np.uint8) * rng.integers(1, 4, (23, 11, 13), dtype=np.uint8)
    foreground = labels > 0
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(foreground.astype(np.uint8)), True))
    expected = labels.copy()
    for value in (1, 2, 3):
        sizes = np.bincount(pieces[labels == value], minlength=pieces.max() + 1)
        expected[(labels == value) & (sizes < 0.3 * sizes.max())[pieces]] = 0
    monkeypatch.setattr(postprocessing, "SLAB_VOXELS", slab * 11 * 13)
    assert 0 < np.count_nonzero(expected) < np.count_nonzero(labels)
    np.testing.assert_array_equal(remove_islands(labels, 0.3), expected)


def test_a_pair_of_similar_size_stays():
    labels = np.zeros((5, 7, 11), np.uint8)
    labels[1:4, 1:6, 1:4], labels[1:4, 1:6, 7:9] = 1, 1
    np.testing.assert_array_equal(remove_islands(labels, 0.5), labels)


@pytest.mark.parametrize("value", [0, 4])
def test_nothing_and_everything_stay_as_they_are(value):
    labels = np.full((3, 4, 5), value, np.uint8)
    np.testing.assert_array_equal(remove_islands(labels, 0.1), labels)


def test_a_model_says_whether_islands_are_removed(one_decoder):
    """Of two hippocampi one behind the other, the second cut off, one is smaller."""
    mri = read_volume(MRI)
    two = np.concatenate([mri.array_kji, mri.array_kji[:, :, :22]], axis=2)

    def segment(share):
        card = dataclasses.replace(one_decoder.card, island_share=share)
        segmenter = Segmenter.load(dataclasses.replace(one_decoder, card=card), "cpu", "fp32")
        return segmenter.segment_with_confidence(two, mri.ijk_to_ras)

    with_islands, confidence = segment(0.0)
    labels, confidence_after = segment(1.0)
    removed = with_islands != labels
    assert 0 < np.count_nonzero(removed) < np.count_nonzero(labels)
    np.testing.assert_array_equal(labels, remove_islands(with_islands, 1.0))
    assert not confidence_after[removed].any()
    np.testing.assert_array_equal(confidence_after[~removed], confidence[~removed])


def test_a_share_is_a_share(bundled_model):
    with pytest.raises(InputError, match=r"island_share 1.5 is outside 0..1"):
        dataclasses.replace(bundled_model.card, island_share=1.5)
