import logging

import numpy as np
import pytest
import torch

from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import EncoderConfig
from SAM3DSegmentLib.channel import IntensityRule
from SAM3DSegmentLib.intensity import measure_grey_scale, normalise, percentiles


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


def noise(top=1000, shape=(8, 20, 30)):
    return np.random.default_rng(3).integers(0, top, shape)


@pytest.mark.parametrize(("dtype", "base"), [
    (np.int64, 2**40), (np.int64, -(2**50)), (np.uint64, 2**63), (np.uint32, 2**31), (np.int32, -(2**30)),
    (np.float64, 2.0**40),
])  # fmt: skip
@pytest.mark.parametrize("rule", [IntensityRule(), IntensityRule("zscore", -2, 3)])
def test_a_great_number_added_to_all_values_changes_nothing(dtype, base, rule):
    """Read as float32, they would be some few values, or one."""
    plain = noise().astype(dtype)
    plain[0, 0, 0] = 0
    moved = plain + dtype(base)
    np.testing.assert_array_equal(
        measure_grey_scale(moved, rule).apply(moved), measure_grey_scale(plain, rule).apply(plain)
    )


def test_a_window_lies_where_it_lay_beneath_a_great_number():
    moved = noise().astype(np.int64) + 2**40
    scale = measure_grey_scale(moved, IntensityRule("window", 2**40 + 100, 2**40 + 355))
    np.testing.assert_array_equal(scale.apply(moved), np.clip(noise(), 100, 355) - 100)


@pytest.mark.parametrize(
    "array", [noise().astype(np.int32) - 500, noise() * 2**52, noise() / 7, np.full((2, 3, 4), 2**40)]
)
def test_values_that_float32_can_tell_apart_are_left_as_they_are(array):
    assert measure_grey_scale(array, IntensityRule()).base == 0


def sparse(value):
    """A volume of which 0.2 % are not 0."""
    array = np.zeros((10, 20, 30), type(value))
    array[4:6, 4:7, 4:6] = np.arange(12).reshape(2, 3, 2) * value / 11
    return array


@pytest.mark.parametrize("value", [1.0, 1000.0, 1000])
def test_percentiles_that_coincide_give_way_to_the_whole_range(caplog, value):
    scale = measure_grey_scale(sparse(value), IntensityRule())
    assert (scale.low, scale.high) == (0, value)
    assert "percentiles 0.5 and 99.5 of the voxels are both 0; the contrast is that of all values, 0 to" in caplog.text


def test_a_constant_volume_is_no_matter_of_percentiles(caplog):
    measure_grey_scale(np.full((4, 5, 6), 7, np.int16), IntensityRule())
    assert caplog.text == ""


def padded(value, dtype=np.int32, share=10):
    array = (noise() - 500).astype(dtype)
    array.ravel()[::share] = value
    return array


@pytest.mark.parametrize("rule", [IntensityRule(), IntensityRule("zscore", -2, 3)])
@pytest.mark.parametrize(("value", "side"), [(-32768, "below"), (-(2**31), "below"), (2**31 - 1, "above")])
def test_padding_far_from_all_values_is_said(caplog, value, side, rule):
    measure_grey_scale(padded(value), rule)
    assert f"10 % of the voxels are {np.float32(value):g}, far {side} all others" in caplog.text


@pytest.mark.parametrize("array", [
    padded(-1024), padded(0), np.where(noise() < 500, 0, noise()), noise(2), noise(3), padded(-32768, share=1000),
    padded(2000), np.maximum(noise(), 900),
])  # fmt: skip
def test_air_and_what_was_cut_away_is_no_padding(caplog, array):
    measure_grey_scale(array, IntensityRule())
    assert "far" not in caplog.text
    measure_grey_scale(padded(-32768), IntensityRule("window", -500, 500))
    assert "far" not in caplog.text


def test_normalisation_is_sams_own():
    from segment_anything.modeling import ImageEncoderViT, Sam

    sam = Sam(ImageEncoderViT(img_size=16, embed_dim=8, depth=1, num_heads=1), None, None)
    grey = torch.rand(2, 1, 16, 16) * 255
    torch.testing.assert_close(normalise(grey, "sam"), sam.preprocess(grey.expand(2, 3, 16, 16)))


def test_unit_is_what_medsam_did_to_each_slice():
    """As its scripts write it: (x - min) / max(max - min, 1e-8), for slices of their own range and one of one value."""
    grey = (
        torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        * torch.tensor([255.0, 40, 0])[:, None, None, None]
        + torch.tensor([0.0, 60, 77])[:, None, None, None]
    )
    for slice_, found in zip(grey[:, 0].double().numpy(), normalise(grey, "unit").numpy()):
        expected = (slice_ - slice_.min()) / np.clip(slice_.max() - slice_.min(), 1e-8, None)
        np.testing.assert_allclose(found, np.repeat(expected[None], 3, 0), atol=1e-6)
    assert [found.max().item() for found in normalise(grey, "unit")] == [1, 1, 0]


def test_grey_is_the_volumes_own_range():
    grey = torch.tensor([0.0, 51, 255]).view(1, 1, 1, 3)
    torch.testing.assert_close(normalise(grey, "grey"), torch.tensor([0.0, 0.2, 1]).expand(1, 3, 1, 3))


def test_an_unknown_normalisation_names_those_that_there_are():
    with pytest.raises(InputError, match="'imagenet' is unknown; use one of sam, unit, grey"):
        EncoderConfig("sam_vit_b", 256, normalisation="imagenet")
    with pytest.raises(InputError, match="'imagenet' is unknown; use one of sam, unit, grey"):
        normalise(torch.zeros(1, 1, 2, 2), "imagenet")


def test_bad_rules_are_quoted():
    for low, high in ((-np.inf, np.inf), (-np.inf, 5), (0, np.nan)):
        for kind in ("window", "zscore"):
            with pytest.raises(InputError, match=rf"\[{low}, {high}\] is not finite"):
                IntensityRule(kind, low, high)
    for arguments, value in ((("gamma",), "gamma"), (("window", 10, 5), "[10, 5]"), (("percentiles", 1, 101), "101")):
        with pytest.raises(InputError) as error:
            IntensityRule(*arguments)
        assert value in str(error.value)
