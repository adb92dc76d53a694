"""The network that a training makes: what settings leave open is told by the cases, and its card describes it."""

from __future__ import annotations

import math
from dataclasses import replace

from ..card import EMBEDDING_CHANNELS, DecoderConfig, EncoderConfig, Label, ModelCard, WindowRule
from ..channel import Channel
from ..model_store import find_model, read_card
from ..preparation import SquareFit
from ..settings import TrainingConfig
from .case_files import Dataset

Triple = tuple[float, float, float]

# Of a training sample, where the settings leave its slices open.
SAMPLE_PIXELS = 16 * 256 * 256
LEAST_DEPTH, MOST_DEPTH = 16, 64
_MODALITIES = ("CT", "MR", "MRI", "PT", "PET")


def with_flips(config: TrainingConfig, sided: bool) -> TrainingConfig:
    """Where the settings leave it open, views are flipped and mirrored unless a label is `sided`."""
    flips = config.augmentation.flip_left_right
    if flips is None:
        flips = not sided
    mirror = flips if config.mirror is None else config.mirror
    return replace(config, augmentation=replace(config.augmentation, flip_left_right=flips), mirror=mirror)


def depth_for(fit: SquareFit) -> int:
    """Slices of a training sample, so that it takes no more memory and time than 16 slices of 256 x 256 pixels."""
    return min(MOST_DEPTH, max(LEAST_DEPTH, SAMPLE_PIXELS // math.prod(fit.grid)))


def make_card(
    config: TrainingConfig, dataset: Dataset, labels: tuple[Label, ...], fit: SquareFit, spacing: Triple, extent: Triple
) -> ModelCard:
    """But for what only the training finds out."""
    channels = config.input_channels or tuple(map(_channel, dataset.channels))
    encoder = EncoderConfig(config.encoder, fit.size, channel_layout=config.channel_layout)
    count = max(1, len(channels))
    width = EMBEDDING_CHANNELS * encoder.passes(count)
    decoder = DecoderConfig(
        len(labels) + 1,
        (width, *config.channels[1:]),
        levels=_levels(config, fit),
        detail=config.detail,
        grey_channels=count,
    )
    return ModelCard(
        name=config.name,
        description=config.description,
        modality=config.modality or dataset.modality,
        labels=labels,
        encoder=encoder,
        decoder=decoder,
        slicing=config.slicing,
        intensity=config.intensity,
        channels=tuple(replace(channel, intensity=channel.intensity or config.intensity) for channel in channels),
        window=config.window or WindowRule(config.training_depth, config.training_depth // 2),
        mirror=bool(config.mirror),
        island_share=config.island_share,
        spacing_mm=spacing,
        extent_mm=extent,
        licence=config.licence or dataset.licence,
        author=config.author,
    )


def _channel(name: str) -> Channel:
    """A channel of the data; nnU-Net calls some by the modality."""
    return Channel(name, modality=name.upper() if name.upper() in _MODALITIES else "")


def _levels(config: TrainingConfig, fit: SquareFit) -> int:
    """As many as asked for; else as in the model to begin with; else what the cases' own grid needs."""
    if config.levels or not config.start_from:
        return config.levels or fit.level()
    return read_card(find_model(config.start_from)).decoder.levels
