"""Sentences on volumes that differ from a model's training data, from the facts of the volume alone."""

import dataclasses
import re

import numpy as np
import pytest

from conftest import CT, ROOT
from SAM3DSegmentLib.base.errors import GeometryError
from SAM3DSegmentLib.card import DecoderConfig, EncoderConfig, Label, ModelCard, SlicingRule, VitConfig
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import segment_volume
from SAM3DSegmentLib.suitability import VolumeFacts, describe_lengths, find_misfits, looks_like_labels

CARD = ModelCard(
    name="tiny",
    description="",
    modality="MRI",
    labels=(Label(1, "Blob", (230, 159, 0)),),
    encoder=EncoderConfig("compact_vit", 32, "abc", VitConfig(48, 1, 2, (0,))),
    decoder=DecoderConfig(2, (256, 8, 8, 4, 4)),
    slicing=SlicingRule("axial", 2.0),
    spacing_mm=(1.0, 1.0, 1.0),
    extent_mm=(40.0, 50.0, 60.0),
)
SUITABLE = VolumeFacts(np.eye(4), (40, 50, 60), least_value=0.0)


def facts(**changes):
    return dataclasses.replace(SUITABLE, **changes)


def card(**changes):
    return dataclasses.replace(CARD, **changes)


def box(low, high):
    """The eight corners (8, 3)."""
    return np.array([(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])], float)


def test_a_volume_like_the_training_data_suits():
    assert find_misfits(CARD, SUITABLE) == []


@pytest.mark.parametrize(
    ("modality", "stated", "least", "words"),
    [
        ("MRI", "MR", -1000, ""),  # what DICOM states counts, not the values
        ("MRI", "CT", 0, "Its modality is CT, but the model is for MRI; choose another model."),
        ("CT", "MR", -1000, "Its modality is MR, but the model is for CT"),
        ("CT", "CT", 0, ""),
        ("", "CT", 0, ""),
        ("MRI", "", -501, "Its values go down to -501, as in a CT, but the model is for MRI"),
        ("MRI", "", -500, ""),
        ("CT", "", -1, ""),
        ("CT", "", 0, "It has no negative values"),
        ("", "", -1000, ""),
    ],
)
def test_the_modality_is_as_dicom_states_it_else_guessed_from_the_values(modality, stated, least, words):
    found = find_misfits(card(modality=modality), facts(modality=stated, least_value=least))
    assert len(found) == bool(words)
    assert not words or words in found[0]


@pytest.mark.parametrize(("spacing", "is_far"), [(2.0, False), (2.1, True), (0.5, False), (0.45, True)])
def test_a_spacing_of_more_than_twice_or_less_than_half_is_far(spacing, is_far):
    found = find_misfits(card(extent_mm=None), facts(ijk_to_ras=np.diag([1, spacing, 1, 1])))
    assert len(found) == is_far
    if is_far:
        [sentence] = found
        assert "is far from the training data's 1.0 x 1.0 x 1.0 mm; expect a worse result." in sentence
        assert f"{spacing:.1f}" in sentence


def test_the_extent_of_the_whole_volume_is_compared():
    assert find_misfits(CARD, facts(shape_kji=(81, 50, 60))) == [
        "It covers 81 x 50 x 60 mm, but the model was trained on volumes of 40 x 50 x 60 mm around the structure; "
        "crop it to such a size, or in 3D Slicer choose a region of that size in Advanced."
    ]
    assert find_misfits(card(extent_mm=None, spacing_mm=None), facts(shape_kji=(810, 5, 60))) == []


def test_a_region_is_compared_instead_of_the_whole_volume():
    large = facts(shape_kji=(400, 500, 600))
    assert find_misfits(CARD, large)
    assert find_misfits(CARD, dataclasses.replace(large, region_ras=box((10, 10, 10), (70, 60, 50)))) == []
    [sentence] = find_misfits(CARD, dataclasses.replace(large, region_ras=box((10, 10, 10), (70, 60, 20))))
    assert "It covers 10 x 50 x 60 mm" in sentence
    [sentence] = find_misfits(CARD, facts(shape_kji=(10, 50, 60), region_ras=box((-100, -100, -100), (300, 300, 300))))
    assert "It covers 10 x 50 x 60 mm" in sentence  # a region ends where the volume does


def test_sizes_are_those_along_the_slicing_axes():
    """Axial slices of a volume whose first index runs from foot to head."""
    head_first = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert find_misfits(CARD, facts(ijk_to_ras=head_first, shape_kji=(60, 50, 40))) == []
    [sentence] = find_misfits(CARD, facts(ijk_to_ras=head_first, shape_kji=(60, 50, 100)))
    assert "It covers 100 x 50 x 60 mm" in sentence


BLOBS = np.zeros((8, 20, 20), np.uint8)
BLOBS[2:6, 3:9, 3:9], BLOBS[2:6, 10:18, 8:15] = 1, 7


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (BLOBS, "This is a label map; choose the image that it belongs to."),
        (BLOBS.astype(np.float32), "This is a label map"),
        (np.where(BLOBS, 255, 0).astype(np.int16), "This is a label map"),
        (np.zeros((8, 20, 20)), "It is empty: each of its voxels is 0."),
        (np.full((8, 20, 20), -1024, np.int16), "It is empty: each of its voxels is -1024."),
        (np.where(BLOBS, np.nan, 3), "It is empty: each of its voxels is 3."),
        (BLOBS * 0.5, ""),
        (np.random.default_rng(0).integers(0, 256, BLOBS.shape).astype(np.uint8), ""),
        (np.where(BLOBS, np.random.default_rng(0).integers(0, 99, BLOBS.shape), 0), ""),  # without its background
        (BLOBS.astype(np.int16) - 3, ""),
    ],
)
def test_label_maps_and_empty_volumes_are_noticed_by_their_voxels(array, words):
    found = find_misfits(card(extent_mm=None), VolumeFacts.of_array(array, np.eye(4)))
    assert len(found) == bool(words)
    assert not words or words in found[0]


def test_labels_are_noticed_without_reading_a_large_volume_to_its_end():
    class Slices:
        """Of an image: the second would fail."""

        def __iter__(self):
            yield np.random.default_rng(0).integers(1, 99, (600, 600)).astype(np.int16)
            raise AssertionError

    assert not looks_like_labels(Slices(), 1, 98)


def test_the_segmentation_from_python_warns_once(bundled_model, caplog):
    """A CT for a model of MRI: a volume of another modality, size and spacing."""
    volume = read_volume(CT)
    small = volume.array_kji[:6, :64, :64]
    segment_volume(small, volume.ijk_to_ras, bundled_model, device="cpu")
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("the volume may not suit the model 'hippocampus-mri': Its values go down to -")


def test_the_readmes_first_command_is_no_misfit(bundled_model):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    name = re.search(r"sam3dsegment segment (\S+)", readme)[1]
    volume = read_volume(ROOT / name)
    assert find_misfits(bundled_model.card, VolumeFacts.of_array(volume.array_kji, volume.ijk_to_ras)) == []


def test_sentences_are_translated_before_values_are_filled_in():
    seen = []

    def translate(text):
        seen.append(text)
        return text.upper().replace("{HERE}", "{here}").replace("{THERE}", "{there}")

    [sentence] = find_misfits(CARD, facts(modality="CT"), translate)
    assert "{here}" in seen[0]
    assert sentence == "ITS MODALITY IS CT, BUT THE MODEL IS FOR MRI; CHOOSE ANOTHER MODEL."


def test_axes_that_cannot_be_sliced_are_an_error():
    with pytest.raises(GeometryError):
        find_misfits(CARD, facts(ijk_to_ras=np.diag([1.0, 0, 1, 1])))


def test_lengths_are_described_with_the_given_decimals():
    assert describe_lengths((35.26, 36, 50)) == "35.3 x 36.0 x 50.0"
    assert describe_lengths(np.array([35.26, 36, 50]), 0) == "35 x 36 x 50"
