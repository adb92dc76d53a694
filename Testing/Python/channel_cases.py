"""Synthetic cases of several channels, in which no channel alone shows where the structure is; an untrained model."""

import json

import numpy as np
import SimpleITK as sitk
import torch

from SAM3DSegmentLib.card import DecoderConfig, EncoderConfig, Label, ModelCard, VitConfig
from SAM3DSegmentLib.channel import Channel
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.model_file import Sam3dModel
from SAM3DSegmentLib.sam.vit import build_vit

VIT = VitConfig(16, 1, 2, (0,))
SHAPE = (12, 48, 48)
CELL = 16  # pixels: each of the 3 x 3 columns of the volume may hold a ball


def make_case(seed, channels=2):
    """Channels (K, J, I) int16 and labels uint8: a ball is the structure where it is bright in every channel.

    Each channel shows twice as many others, that no other channel shows, so that a model that sees one channel reaches
    a Dice of about 0.5.
    """
    rng = np.random.default_rng(seed)
    cells = rng.permutation(9)
    decoys = 2 if channels == 2 else 1
    shown = [np.zeros(SHAPE) for _ in range(channels)]
    labels = np.zeros(SHAPE, np.uint8)
    for number, cell in enumerate(cells[: 1 + decoys * channels]):
        centre = (rng.uniform(4, 7), *(CELL * part + rng.uniform(6, 10) for part in divmod(int(cell), 3)))
        grid = np.indices(SHAPE)
        ball = sum((axis - at) ** 2 for axis, at in zip(grid, centre)) <= rng.uniform(3.5, 5.5) ** 2
        in_channels = range(channels) if number == 0 else [(number - 1) % channels]
        for channel in in_channels:
            shown[channel][ball] = 1
        if number == 0:
            labels[ball] = 1
    return [(200 + 400 * grey + rng.normal(0, 40, SHAPE)).astype(np.int16) for grey in shown], labels


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def write_nnunet(folder, seeds, channels=("T1", "T2"), labels=None):
    """imagesTr/case_00_0000.nii.gz and so on with dataset.json."""
    for seed in seeds:
        images, mask = make_case(seed, len(channels))
        for number, image in enumerate(images):
            write_image(folder / "imagesTr" / f"case_{seed:02d}_{number:04d}.nii.gz", image)
        write_image(folder / "labelsTr" / f"case_{seed:02d}.nii.gz", mask)
    description = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": labels or {"background": 0, "ball": 1},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def make_model(names=("T1", "T2"), layout="each", modality=""):
    count = max(1, len(names))
    encoder = EncoderConfig("compact_vit", 32, "", VIT, channel_layout=layout)
    decoder = DecoderConfig(2, (256 * encoder.passes(count), 4, 4, 4, 4), detail=(4,), grey_channels=count)
    card = ModelCard(
        "pair", "", modality, (Label(1, "Ball", (230, 159, 0)),), encoder, decoder, channels=tuple(map(Channel, names))
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = {key: value.half() for key, value in build_vit(VIT, 32).state_dict().items()}
        made = Sam3dDecoder.from_config(decoder).eval()
    for head in (made.heads[-1], made.detail.head):
        torch.nn.init.zeros_(head.bias)  # else all voxels may be of one class
    return Sam3dModel(card, made, tensors)
