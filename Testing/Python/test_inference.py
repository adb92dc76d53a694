"""Segmenting real volumes with the bundled model, in every form they may come in."""

import dataclasses
import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from conftest import CT, MRI, MRI_LABEL, ijk_to_ras_of, write_dicom
from SAM3DSegmentLib.base.errors import Cancelled, GeometryError, InputError, WeightsError
from SAM3DSegmentLib.base.watch import UNWATCHED
from SAM3DSegmentLib.card import ModelCard, SlicingRule, WindowRule
from SAM3DSegmentLib.channel import IntensityRule
from SAM3DSegmentLib.encoder import load_encoder
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter, segment_volume, watch_of
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.preparation import Preparation
from SAM3DSegmentLib.streaming import stream_logits
from SAM3DSegmentLib.work import PARTS, Work, window_bounds


@pytest.fixture(scope="module")
def segmenter(one_decoder):
    return Segmenter.load(one_decoder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def mri():
    return read_volume(MRI)


@pytest.fixture(scope="module")
def mri_mask(segmenter, mri):
    return segmenter.segment(mri.array_kji, mri.ijk_to_ras)


@pytest.fixture(scope="module")
def rounded_mask(segmenter, mri):
    """Of the MRI in whole numbers, as most formats and scanners have them."""
    return segmenter.segment(np.round(mri.array_kji), mri.ijk_to_ras)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def whole_mask(bundled_model, mri):
    """As all of the model's decoders find it."""
    return Segmenter.load(bundled_model, device="cpu", precision="fp32").segment(mri.array_kji, mri.ijk_to_ras)


def test_the_bundled_model_finds_the_hippocampus_of_a_case_it_has_never_seen(whole_mask):
    reference = read_volume(MRI_LABEL).array_kji
    assert whole_mask.dtype == np.uint8
    assert whole_mask.shape == reference.shape
    for value in (1, 2):
        assert dice(whole_mask == value, reference == value) > 0.8


# All 48 orders and directions are tried with a tiny model in Testing/Gui/test_logic.py.
@pytest.mark.parametrize(
    ("permutation", "flips"),
    [((0, 2, 1), (True, False, False)), ((1, 2, 0), (False, True, True)), ((2, 1, 0), (True, True, True))],
)
def test_any_storage_order_gives_the_same_mask_in_the_world(segmenter, mri, mri_mask, permutation, flips):
    def restore(image):
        return sitk.Flip(sitk.PermuteAxes(image, permutation), flips)

    stored = restore(sitk.ReadImage(str(MRI)))
    mask = segmenter.segment(sitk.GetArrayFromImage(stored), ijk_to_ras_of(stored))
    expected = sitk.GetImageFromArray(mri_mask)
    expected.CopyInformation(sitk.ReadImage(str(MRI)))
    np.testing.assert_array_equal(mask, sitk.GetArrayFromImage(restore(expected)))


@pytest.mark.parametrize(
    ("permutation", "flips", "degrees"),
    [((0, 1, 2), (False, False, False), 0), ((2, 0, 1), (True, False, True), 20)],
)
def test_a_region_gives_the_voxels_of_the_volume_cropped_to_it(segmenter, tmp_path, permutation, flips, degrees):
    """Cropped by another program, in any storage order and oblique."""
    image = sitk.Flip(sitk.PermuteAxes(sitk.ReadImage(str(MRI)), permutation), flips)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, 0, np.radians(degrees))
    directions = np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(directions.ravel())
    low, high = (3, 5, 4), [size - 2 for size in image.GetSize()]
    sitk.WriteImage(image[low[0] : high[0], low[1] : high[1], low[2] : high[2]], str(tmp_path / "crop.nii.gz"))
    crop = read_volume(tmp_path / "crop.nii.gz")
    expected = np.zeros(image.GetSize()[::-1], np.uint8)
    box = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1]))
    expected[box] = segmenter.segment(crop.array_kji, crop.ijk_to_ras)
    region = ",".join(f"{a}:{b}" for a, b in zip(low, high))
    labels, confidence = segmenter.segment_with_confidence(
        sitk.GetArrayFromImage(image), ijk_to_ras_of(image), region=region
    )
    np.testing.assert_array_equal(labels, expected)
    assert labels.any()
    confidence[box] = 0
    assert not confidence.any()


@pytest.mark.parametrize("form", [".nii.gz", ".nrrd", ".mha", "dicom"])
def test_any_file_format_gives_the_same_mask(segmenter, mri, rounded_mask, tmp_path, form):
    image = sitk.Cast(sitk.Round(sitk.ReadImage(str(MRI))), sitk.sitkInt16)
    path = tmp_path / f"volume{form}"
    if form == "dicom":
        write_dicom(path, image)
    else:
        sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(segmenter.segment(volume.array_kji, volume.ijk_to_ras), rounded_mask)
    np.testing.assert_allclose(volume.ijk_to_ras, mri.ijk_to_ras, atol=1e-3)


def test_an_oblique_and_a_left_handed_matrix_give_the_same_voxels(segmenter, mri, mri_mask):
    turn = np.eye(4)
    angle = np.radians(20)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    np.testing.assert_array_equal(segmenter.segment(mri.array_kji, turn @ mri.ijk_to_ras), mri_mask)
    left_handed = mri.ijk_to_ras @ np.diag([1, 1, -1, 1])
    mirrored = segmenter.segment(mri.array_kji[::-1], left_handed)
    np.testing.assert_array_equal(mirrored[::-1], mri_mask)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float64])
def test_the_scalar_type_does_not_matter(segmenter, mri, rounded_mask, dtype):
    rounded = np.round(mri.array_kji).astype(dtype)
    np.testing.assert_array_equal(segmenter.segment(rounded, mri.ijk_to_ras), rounded_mask)


@pytest.mark.slow
def test_a_function_call_is_enough(bundled_model, mri, whole_mask):
    np.testing.assert_array_equal(
        segment_volume(mri.array_kji, mri.ijk_to_ras, bundled_model, "cpu", precision="fp32"), whole_mask
    )


@pytest.mark.parametrize("shape", [(3, 3, 3), (1, 9, 5), (2, 1, 1), (40, 3, 5)])
def test_tiny_and_thin_volumes_run(segmenter, shape):
    volume = np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)
    assert segmenter.segment(volume, np.eye(4)).shape == shape


def test_a_ct_of_512_x_512_x_20_runs(segmenter):
    ct = sitk.ReadImage(str(CT))
    large = sitk.Resample(
        ct, (512, 512, 20), sitk.Transform(), sitk.sitkLinear, ct.GetOrigin(), (0.7, 0.6, 4.5), ct.GetDirection()
    )
    mask = segmenter.segment(sitk.GetArrayFromImage(large), ijk_to_ras_of(large))
    assert mask.shape == (20, 512, 512)
    assert set(np.unique(mask)) <= {0, 1, 2}


def with_windows(segmenter, depth, overlap):
    card = dataclasses.replace(segmenter.card, window=WindowRule(depth, overlap))
    return Segmenter(card, segmenter.network)


def test_windows_agree_with_the_whole_volume_at_once(segmenter, mri, mri_mask):
    """Instance norm sees a window only, so the agreement is close but not exact."""
    windowed = with_windows(segmenter, 32, 16).segment(mri.array_kji, mri.ijk_to_ras)
    assert dice(windowed > 0, mri_mask > 0) > 0.9


@pytest.mark.parametrize(
    ("depth", "length", "overlap"), [(1, 64, 16), (64, 64, 16), (65, 64, 16), (200, 64, 16), (51, 8, 7), (9, 4, 0)]
)
def test_windows_cover_every_slice_and_move_forwards(depth, length, overlap):
    windows = window_bounds(depth, WindowRule(length, overlap))
    assert windows[0][0] == 0
    assert windows[-1][1] == depth
    for (start, stop), (next_start, next_stop) in zip(windows, windows[1:]):
        assert start < next_start <= stop - overlap
        assert stop < next_stop
    assert all(stop - start == min(length, depth) for start, stop in windows)


def test_confidence_is_the_probability_of_the_label_in_percent(segmenter, monkeypatch):
    def decode(embeddings, *more):
        """Probabilities of a third, two thirds and next to none, everywhere."""
        return torch.tensor([0, np.log(2), -50]).view(1, 3, 1, 1).repeat(len(embeddings), 1, 2, 2)

    monkeypatch.setattr(segmenter.network, "decode", decode)
    monkeypatch.setattr(Network, "has_detail", False)
    volume = np.random.default_rng(0).normal(size=(3, 5, 4))
    labels, confidence = segmenter.segment_with_confidence(volume, np.eye(4))
    np.testing.assert_array_equal(labels, np.full(volume.shape, 1, np.uint8))
    np.testing.assert_array_equal(confidence, np.full(volume.shape, 67, np.uint8))


def test_where_windows_overlap_each_counts_most_in_its_middle(segmenter, monkeypatch):
    windows = itertools.count()

    def decode(embeddings, *more):
        """The number of the window, everywhere."""
        return torch.full((len(embeddings), 1, 1, 1), float(next(windows)))

    monkeypatch.setattr(segmenter.network, "decode", decode)
    monkeypatch.setattr(Network, "has_detail", False)
    preparation = Preparation(SlicingRule("axial"), (IntensityRule(),), segmenter.card.encoder.image_size)
    prepared = preparation.prepare(np.arange(12 * 8 * 8).reshape(12, 8, 8), np.eye(4))
    logits = list(stream_logits(prepared, segmenter.network, Work(12, WindowRule(8, 4)), UNWATCHED))
    assert [float(one[0, 4, 4]) for one in logits] == pytest.approx([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


@pytest.mark.slow
def test_memory_holds_only_the_window(segmenter, mri, monkeypatch):
    """While a long volume streams through, embeddings behind the window are let go."""
    long = np.concatenate([mri.array_kji] * 2, axis=2)  # sagittal slices are cut along i
    small = with_windows(segmenter, 8, 2)
    held = []
    decode = small.network.decode
    monkeypatch.setattr(
        small.network, "decode", lambda embeddings, *more: held.append(len(embeddings)) or decode(embeddings, *more)
    )
    assert small.segment(long, mri.ijk_to_ras).shape == long.shape
    assert len(held) > 10
    assert max(held) <= 8 + small.network.encoder.batch_size


def test_progress_counts_the_work_and_ends_at_the_total(segmenter, mri):
    seen = []
    segmenter.segment(mri.array_kji, mri.ijk_to_ras, watch_of(lambda *line: seen.append(line), None))
    done = [line[1] for line in seen]
    assert all(line[0] == "segment" and line[2] == PARTS for line in seen)
    assert done == sorted(set(done))
    assert done[-1] == PARTS
    assert max(after - before for before, after in zip([0, *done], done)) < PARTS / 10


def test_cancel_stops_between_batches(segmenter, mri):
    seen = []
    with pytest.raises(Cancelled):
        segmenter.segment(
            mri.array_kji, mri.ijk_to_ras, watch_of(lambda *line: seen.append(line), lambda: len(seen) >= 2)
        )
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 5)), "2 channels"),
        (np.zeros((2, 2, 3, 4, 5)), r"\(2, 2, 3, 4, 5\)"),
        (np.zeros((0, 3, 4)), r"\(0, 3, 4\)"),
        (np.zeros((2, 3, 4), complex), "complex128"),
        (np.zeros((2, 3, 4), bool), "bool"),
    ],
)
def test_what_is_no_volume_is_refused(segmenter, array, message):
    with pytest.raises(InputError, match=message):
        segmenter.segment(array, np.eye(4))


def test_a_broken_matrix_is_refused(segmenter, mri):
    with pytest.raises(GeometryError):
        segmenter.segment(mri.array_kji, np.zeros((4, 4)))


def sam_card(bundled_model, untrained_sam, size):
    """The bundled model's card, as if its decoder had been trained on SAM's embeddings."""
    encoder = load_encoder("sam_vit_b", untrained_sam, size, "cpu", "fp32")
    return dataclasses.replace(bundled_model.card, encoder=encoder.config), encoder


@pytest.mark.slow
def test_a_model_on_sams_encoder_runs_and_asks_for_its_weights(bundled_model, untrained_sam, mri):
    card, encoder = sam_card(bundled_model, untrained_sam, 128)
    assert isinstance(card, ModelCard)
    model = dataclasses.replace(bundled_model, card=card, encoder_tensors={})
    mask = segment_volume(mri.array_kji, mri.ijk_to_ras, model, "cpu", sam_checkpoint=untrained_sam)
    assert mask.shape == mri.array_kji.shape
    with pytest.raises(WeightsError, match="weights download sam_vit_b"):
        segment_volume(mri.array_kji, mri.ijk_to_ras, model, "cpu")


def test_half_precision_agrees(bundled_model, mri, whole_mask):
    half = Segmenter.load(bundled_model, "cpu", "bf16").segment(mri.array_kji, mri.ijk_to_ras)
    assert dice(half > 0, whole_mask > 0) > 0.98


def test_the_models_weights_are_left_alone(bundled_model, mri):
    before = {key: value.clone() for key, value in bundled_model.decoder.state_dict().items()}
    segment_volume(mri.array_kji, mri.ijk_to_ras, bundled_model, "cpu", precision="bf16")
    for key, value in bundled_model.decoder.state_dict().items():
        assert torch.equal(value, before[key])
