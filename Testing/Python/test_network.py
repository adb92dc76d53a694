"""What the network spares: of all slices of air, one is encoded, once."""

import numpy as np
import pytest
import torch

from conftest import MRI
from SAM3DSegmentLib.card import DecoderConfig, EncoderConfig, VitConfig
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.encoder import FrozenEncoder
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.sam.vit import build_vit

SIZE = 48


class Recorder:
    """An encoder that remembers the slices that it was asked for."""

    def __init__(self, encoder):
        self.config, self.device, self.dtype = encoder.config, encoder.device, encoder.dtype
        self.image_size, self.batch_size = encoder.image_size, encoder.batch_size
        self.seen = []
        self._encoder = encoder
        self.computed, self.multiplications = 0, 1.0

    def __call__(self, slices):
        self.seen.extend(slices)
        return self._encoder(slices)


def make_network(detail=()):
    torch.manual_seed(0)
    config = EncoderConfig("tiny", SIZE, "0" * 64, VitConfig(48, 1, 3, (0,)))
    encoder = FrozenEncoder(build_vit(config.vit, SIZE).eval(), config, torch.device("cpu"), torch.float32)
    return Network(
        Recorder(encoder),
        [Sam3dDecoder.from_config(DecoderConfig(3, (256, 8, 8, 8, 8), levels=2, detail=detail)).eval()],
    )


def slices_with_air():
    grey = torch.rand(6, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255
    grey[[0, 2, 3]] = 0
    return grey


@pytest.mark.parametrize("mirror", [None, 0, 1, 2])
def test_slices_of_air_have_the_embedding_of_one_that_is_encoded_alone(mirror):
    grey = slices_with_air()
    network, other = make_network(), make_network()
    air = other.encode(torch.ones(1, 1, SIZE, SIZE) * 1e-30, mirror)  # as good as black, and encoded as it is
    found = network.encode(grey, mirror)
    for index, part in enumerate(grey):
        if not part.any():
            assert torch.equal(found[index : index + 1], air)
    kept = grey.flatten(1).any(1)
    assert torch.equal(found[kept], other.encode(grey[kept], mirror))


def test_air_is_encoded_once():
    network = make_network()
    for _ in range(3):
        network.encode(slices_with_air())
    black = [slice for slice in network.encoder.seen if len(slice.unique()) == 3]  # one value of each colour
    assert len(black) == 1
    assert len(network.encoder.seen) == 3 * 3 + 1


def test_a_volume_in_air_is_as_it_is_when_all_of_it_is_encoded(one_decoder, monkeypatch):
    mri = read_volume(MRI)
    array = np.pad(mri.array_kji, ((0, 0), (0, 0), (9, 20)), constant_values=mri.array_kji.min())
    segmenter = Segmenter.load(one_decoder, "cpu", "fp32")
    mask = segmenter.segment(array, mri.ijk_to_ras)
    monkeypatch.setattr(Network, "encode", Network._encode)
    np.testing.assert_array_equal(mask, segmenter.segment(array, mri.ijk_to_ras))


@pytest.mark.parametrize("mirror", [0, 1, 2])
def test_a_detail_part_sees_the_mirrored_slices_in_the_mirrored_view(mirror):
    """So that the mirror image of a volume has the mirror image of what is added to its logits."""
    network = make_network(detail=(4, 6))
    grey = torch.rand(5, 1, 9, 11, generator=torch.Generator().manual_seed(1)) * 255
    logits = network.detail(grey, mirror)
    assert logits.shape == (5, 3, 9, 11)
    axis = 0 if mirror == 0 else mirror + 1  # of (D, C, h, w)
    torch.testing.assert_close(network.detail(grey.flip(axis), mirror).flip(axis), logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(network.detail(grey), logits, atol=1e-2)


@pytest.mark.parametrize("mirror", [0, 2])
def test_of_a_view_and_its_mirror_image_the_mean_is_taken(mirror):
    network = make_network()
    grey = torch.rand(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 255
    plain = network.decode(network.encode(grey))
    axis = [0, None, 3][mirror]  # mirror is an axis of (D, H, W), and there are channels or classes after D
    mirrored = network.decode(network.encode(grey.flip(axis))).flip(axis)
    torch.testing.assert_close(
        network.decode(network.encode(grey, mirror), mirror), (plain + mirrored) / 2, atol=1e-3, rtol=1e-3
    )
