import logging

import numpy as np
import pytest
import torch

from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import IntensityRule
from SAM3DSegmentLib.intensity import measure_grey_scale, percentiles, sam_normalise


def test_ct_window():
    scale = measure_grey_scale(np.array([[[-2000, -160, 40, 240, 3000]]], np.int16), IntensityRule("window", -160, 240))
    np.testing.assert_allclose(scale.apply(np.array([-2000, -160, 40, 240, 3000])), [0, 0, 127.5, 255, 255])


def test_percentiles_ignore_a_few_extreme_voxels():
    values = np.arange(1001, dtype=np.float64).reshape(7, 11, 13)
    values[0, 0, 0] = 1e9
    scale = measure_grey_scale(values, IntensityRule("percentiles", 1, 99))
    assert scale.low == pytest.approx(np.percentile(values, 1))
    assert scale.high == pytest.approx(np.percentile(values, 99))
    assert scale.apply(values).max() == 255


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.int64])
def test_percentiles_are_numpys_own(dtype):
    rng = np.random.default_rng(1)
    for values in (
        rng.normal(0, 40, (5, 7, 11)),
        np.zeros((2, 3, 4)),
        rng.integers(-3, 3, (9, 4, 2)),
        np.full((1, 1, 1), -7.5),
    ):
        array = (np.abs(values) if dtype == np.uint8 else values).astype(dtype)
        wanted = [0, 0.5, 31.7, 50, 99.5, 100]
        np.testing.assert_allclose(
            percentiles(array, wanted), np.percentile(array.astype(np.float32), wanted), rtol=1e-5, atol=1e-5
        )


def test_zscore_counts_deviations_from_the_mean():
    values = np.random.default_rng(0).normal(100, 10, (9, 10, 11))
    scale = measure_grey_scale(values, IntensityRule("zscore", -2, 3))
    assert scale.low == pytest.approx(values.mean() - 2 * values.std())
    assert scale.high == pytest.approx(values.mean() + 3 * values.std())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_any_scalar_type(dtype):
    values = np.arange(60, dtype=dtype).reshape(3, 4, 5)
    grey = measure_grey_scale(values, IntensityRule("percentiles", 0, 100)).apply(values)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey.ravel(), np.arange(60) / 59 * 255, rtol=1e-5)


def test_voxels_that_are_no_numbers_are_reported_and_become_black_or_white(caplog):
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    clean = measure_grey_scale(values[:2], IntensityRule("percentiles", 0, 100))
    values[2] = np.nan
    values[2, 0, 0], values[2, 0, 1] = np.inf, -np.inf
    with caplog.at_level(logging.WARNING):
        scale = measure_grey_scale(values, IntensityRule("percentiles", 0, 100))
    assert "20 of 60 voxels are NaN or Inf" in caplog.text
    assert scale == clean
    assert scale.apply(values)[2, 0, :3].tolist() == [255, 0, 0]


def test_a_volume_without_a_number_is_refused_and_a_constant_one_is_black():
    with pytest.raises(InputError, match="none of the 8 voxels"):
        measure_grey_scale(np.full((2, 2, 2), np.nan), IntensityRule())
    for kind in ("percentiles", "zscore"):
        low, high = (0, 100) if kind == "percentiles" else (-1, 1)
        constant = np.full((2, 2, 2), 7)
        assert measure_grey_scale(constant, IntensityRule(kind, low, high)).apply(constant).max() == 0


def test_normalisation_is_sams_own():
    from segment_anything.modeling import ImageEncoderViT, Sam

    sam = Sam(ImageEncoderViT(img_size=16, embed_dim=8, depth=1, num_heads=1), None, None)
    grey = torch.rand(2, 1, 16, 16) * 255
    torch.testing.assert_close(sam_normalise(grey), sam.preprocess(grey.expand(2, 3, 16, 16)))


def test_bad_rules_are_quoted():
    for arguments, value in ((("gamma",), "gamma"), (("window", 10, 5), "[10, 5]"), (("percentiles", 1, 101), "101")):
        with pytest.raises(InputError) as error:
            IntensityRule(*arguments)
        assert value in str(error.value)
