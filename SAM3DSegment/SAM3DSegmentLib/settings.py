"""Training settings as frozen dataclasses; each is checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .base.errors import InputError, require
from .card import (
    CHANNEL_LAYOUTS,
    EACH,
    EMBEDDING_CHANNELS,
    LARGEST_DEPTH,
    DecoderConfig,
    Label,
    SlicingRule,
    WindowRule,
    require_image_size,
)
from .channel import Channel, IntensityRule, require_channels


def _require_between(name: str, value: float, low: float, high: float) -> None:
    require(low <= value <= high, f"{name} {value} is outside {low}..{high}; choose a value in that range.")


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes to a training case. Ranges are half-widths about "unchanged".

    Changes through the plane (rotation out of it, scaling across it) blur slices together: for a few views only, and
    none of a volume with an acquisition axis.
    """

    probability: float = 0.9
    rotation_degrees: float = 15.0
    through_plane_probability: float = 0.2  # of the changed views
    scaling: float = 0.15
    shear: float = 0.05
    translation: float = 0.06  # fraction of the square
    # Only where left and right structures share a label. None: unless a structure has "left" or "right" in its name, or
    # lies on one side of the volumes.
    flip_left_right: bool | None = False
    gamma: float = 0.4  # exponent is exp(+-gamma)
    contrast: float = 0.2
    noise: float = 0.05  # standard deviation, of a 0..1 range

    def __post_init__(self) -> None:
        for name, most in (
            ("probability", 1),
            ("through_plane_probability", 1),
            ("rotation_degrees", 180),
            ("scaling", 0.9),
            ("shear", 0.9),
            ("translation", 0.5),
            ("gamma", 3),
            ("contrast", 1),
            ("noise", 1),
        ):
            _require_between(name, getattr(self, name), 0, most)


@dataclass(frozen=True)
class TrainingConfig:
    """What `train` does. All of it may stand in the JSON file given with `--config`."""

    name: str = ""
    description: str = ""
    modality: str = ""
    licence: str = ""
    author: str = ""
    labels: tuple[Label, ...] = ()  # empty: those that the data have
    encoder: str = "auto"  # the checkpoint's that is given; SAM's ViT-B if its weights are here, else "compact_vit"
    image_size: int = 0  # 0: by the encoder and the cases
    channels: tuple[int, ...] = (EMBEDDING_CHANNELS, 128, 64, 32, 16)  # of the decoder, for a volume of one channel
    levels: int = 0  # of the decoder; 0: up to the first whose grid is at or above that of the slices
    detail: tuple[int, ...] = ()  # channels of a part that reads the grey slices beside the embeddings; (): none
    slicing: SlicingRule = SlicingRule()
    intensity: IntensityRule = IntensityRule()
    input_channels: tuple[Channel, ...] = ()  # of the volumes: those to train on, by name; (): all that the data have
    channel_layout: str = EACH  # each in a pass of its own through the encoder; "rgb": up to three as colours of one
    window: WindowRule | None = WindowRule()  # None: as deep as the training samples, half of it shared
    mirror: bool | None = False  # as in the model's card; None: where augmentation may flip, too
    island_share: float = 0.0
    augmentation: AugmentationConfig = AugmentationConfig()
    augmented_copies: int = 4  # per case, for a frozen encoder, whose embeddings are computed once
    foreground_share: float = 0.33  # of the samples that are placed on a structure, each label as often as the others
    painted_slices: bool = False  # of every case only the slices on which something is painted are known
    resample: bool = False  # bring label maps that lie on another grid to that of their image
    look_twice: bool | None = None  # find structures on a coarse grid first; None: where they are small in the volumes
    start_from: str = ""  # a model, by name or file, whose weights to begin with
    batch_size: int = 2  # samples of each step, on each device; with a detail part every second is for it alone
    training_depth: int = 16  # slices of one training sample; 0: the more the smaller the cases' slices are
    dice_per_class: bool = True
    learning_rate: float = 1e-3
    weight_decay: float = 0.3
    warmup_steps: int = 60
    average_decay: float = 0.99  # of the moving average of the weights, which is what is validated and kept
    minutes: float = 30.0  # of training steps, without encoding and validation
    epochs: int = 0  # passes over the training cases; 0: train for `minutes`
    validations: int = 8  # how often the held-out Dice is measured
    patience: int = 0  # validations without a better one after which training ends; 0: never
    validation_cases: int = 0  # 0: a fifth of the cases, at least one
    test_cases: int = 0  # seen by neither training nor the choice of the best checkpoint
    folds: int = 1  # so many decoders, each trained without another part of the cases; the model is their ensemble
    seed: int = 0

    @property
    def trains_detail_alone(self) -> bool:
        """Whether every second sample of a batch is for the detail part alone."""
        return bool(self.detail) and self.batch_size > 1

    def __post_init__(self) -> None:
        for name, least, most in (
            ("augmented_copies", 0, 1000),
            ("batch_size", 1, 1024),
            ("training_depth", 0, LARGEST_DEPTH),
            ("warmup_steps", 0, 10**9),
            ("epochs", 0, 10**9),
            ("validations", 1, 10**4),
            ("patience", 0, 10**4),
            ("validation_cases", 0, 10**6),
            ("test_cases", 0, 10**6),
            ("folds", 1, 1000),
            ("seed", 0, 2**31 - 1),
        ):
            _require_between(name, getattr(self, name), least, most)
        _require_between("foreground_share", self.foreground_share, 0, 1)
        _require_between("island_share", self.island_share, 0, 1)
        _require_between("weight_decay", self.weight_decay, 0, 1)
        require(0 <= self.average_decay < 1, f"average_decay {self.average_decay} is outside [0, 1).")
        require(
            0 < self.learning_rate <= 1, f"learning_rate {self.learning_rate} is outside (0, 1]; 0.001 is a good start."
        )
        require(
            self.epochs > 0 or 0 < self.minutes < math.inf,
            f"minutes {self.minutes} is not a duration; give minutes above 0, or epochs.",
        )
        if self.image_size:
            require_image_size(self.image_size)
        require(
            self.channels[:1] == (EMBEDDING_CHANNELS,),
            f"channels {self.channels} must begin with {EMBEDDING_CHANNELS}, the channels of the encoder's output.",
        )
        # Raises if they do not fit.
        DecoderConfig(
            len(self.labels) + 1 if self.labels else 2, self.channels, levels=self.levels or 4, detail=self.detail
        )
        require_channels(self.input_channels)
        require(
            self.channel_layout in CHANNEL_LAYOUTS,
            f"channel_layout {self.channel_layout!r} is unknown; use one of {', '.join(CHANNEL_LAYOUTS)}.",
        )
        for what in ("value", "name"):
            given = [getattr(label, what) for label in self.labels]
            require(
                len(set(given)) == len(given),
                f"the {what}s {given} of the labels are not all different; change one of them.",
            )
        if self.folds > 1 and self.validation_cases:
            raise InputError(
                f"validation_cases {self.validation_cases} and folds {self.folds} exclude each other: each fold is "
                "validated on the cases that it was not trained on; leave validation_cases out."
            )
