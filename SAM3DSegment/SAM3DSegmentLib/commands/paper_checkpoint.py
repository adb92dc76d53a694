"""Checkpoints of the paper's public code (UARK-AICV/SAM3D) as models of ours.

Such a file holds the decoder alone, which runs on SAM ViT-B's embeddings of slices of 176 pixels. Its blocks are
`ResDualConv3d` with a 1x1x1 projection and norms without weights; biases of convolutions are dropped, because the norm
after each removes them. Its heads are two convolutions each, on the upsampled features of the three finest levels.
Several modalities are encoded one by one, and their embeddings joined in the order of the data; the file does not name
them.
"""

from __future__ import annotations

import colorsys
import pickle
from pathlib import Path

from torch import Tensor

from ..base.errors import ModelFileError
from ..card import (
    EMBEDDING_CHANNELS,
    DecoderConfig,
    EncoderConfig,
    Label,
    ModelCard,
    WindowRule,
)
from ..channel import MOST_CHANNELS, Channel
from ..decoder import Sam3dDecoder
from ..model_file import Sam3dModel
from ..sam.encoders import published
from ..sam.pickled import load_pickled

ENCODER, IMAGE_SIZE, DEPTH = "sam_vit_b", 176, 64
# What their inference also does and a card cannot express, so that masks differ.
NOT_IMPORTED = (
    "the intensities and the spacing of their plan, slices without SAM's mean and deviation, "
    "and Gaussian windows of 176 x 176 pixels"
)

_BLOCKS = ("decoder5", "decoder4", "decoder3", "decoder2")  # coarse to fine
_HEADS = ("out3", "out2", "out1")
_LAYER_KEYS = {"conv1.0": "conv1", "conv2.0": "conv2", "downsample.0": "projection.0"}
_HEAD_KEYS = {"conv_pred.0": "0", "segmentation_head": "3"}


def read_paper_checkpoint(path: Path) -> Sam3dModel:
    """Raises ModelFileError for a file that is not such a checkpoint."""
    theirs = _read_state(path)
    missing = [key for key in _required_keys() if key not in theirs]
    if missing:
        raise ModelFileError(f"{str(path)!r} has no {missing[0]!r}; it is not a checkpoint of UARK-AICV/SAM3D.")
    classes = len(theirs["out1.segmentation_head.weight"])
    widths = tuple(theirs[f"{block}.conv1.0.weight"].shape[0] for block in _BLOCKS)
    inputs = theirs["decoder5.conv1.0.weight"].shape[1]
    modalities, rest = divmod(inputs, EMBEDDING_CHANNELS)
    if rest or not 1 <= modalities <= MOST_CHANNELS:
        raise ModelFileError(
            f"{str(path)!r} takes {inputs} channels of embeddings, which is not 1 to {MOST_CHANNELS} times "
            f"{EMBEDDING_CHANNELS}; download it again."
        )
    heads = [name for name in _HEADS if all(key in theirs for key in _head_keys(name))]
    config = DecoderConfig(
        classes,
        (inputs, *widths),
        projection_kernel=1,
        upsampling="nearest",
        heads=len(heads),
        head="convolutional",
        grey_channels=modalities,
    )
    decoder = Sam3dDecoder.from_config(config)
    state = decoder.state_dict()  # whose norms are the identity, like theirs
    for number, block in enumerate(_BLOCKS):
        for key, own in _LAYER_KEYS.items():
            state[f"layers.{number}.{own}.weight"] = theirs[f"{block}.{key}.weight"]
    for number, head in enumerate(heads):
        for key, own in _HEAD_KEYS.items():
            state[f"heads.{number}.{own}.weight"] = theirs[f"{head}.{key}.weight"]
        state[f"heads.{number}.3.bias"] = theirs[f"{head}.segmentation_head.bias"]
    try:
        decoder.load_state_dict(state)
    except RuntimeError as error:
        raise ModelFileError(
            f"the weights of {str(path)!r} do not fit their own decoder; download it again."
        ) from error
    return Sam3dModel(_card(path, config), decoder.requires_grad_(False).eval())


def _required_keys() -> list[str]:
    return [f"{block}.{key}.weight" for block in _BLOCKS for key in _LAYER_KEYS] + _head_keys("out1")


def _head_keys(head: str) -> list[str]:
    return [f"{head}.{key}.weight" for key in _HEAD_KEYS] + [f"{head}.segmentation_head.bias"]


def _card(path: Path, config: DecoderConfig) -> ModelCard:
    return ModelCard(
        name=path.stem,
        description=f"From a checkpoint of UARK-AICV/SAM3D, without {NOT_IMPORTED}: masks are not those of their code.",
        modality="",
        labels=tuple(Label(n, f"structure {n}", _color(n)) for n in range(1, config.num_classes)),
        encoder=EncoderConfig(ENCODER, IMAGE_SIZE, published(ENCODER).sha256),
        decoder=config,
        channels=_channels(config.grey_channels),
        window=WindowRule(DEPTH, DEPTH // 2),
    )


def _channels(count: int) -> tuple[Channel, ...]:
    """By nnU-Net's numbers, if there are several."""
    return tuple(Channel(f"{number:04d}") for number in range(count)) if count > 1 else ()


def _color(number: int) -> tuple[int, int, int]:
    """Far from those of its neighbours: hues a golden section apart."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number * 0.618 % 1, 0.7, 0.9))
    return red, green, blue


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelFileError(f"checkpoint {str(path)!r} is not a file; give the path of a .model file.")
    try:
        content = load_pickled(path)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise ModelFileError(
            f"checkpoint {str(path)!r} cannot be read safely ({type(error).__name__}); it holds more than weights; "
            "if you trust it, save only its 'state_dict' with torch.save."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
