"""Training settings as frozen dataclasses; each is checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from .card import EMBEDDING_CHANNELS, IntensityRule, Label, SlicingRule, WindowRule
from .errors import require


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes to a training case. Ranges are half-widths about "unchanged".

    In-plane changes are sharp, because slices are enlarged anyway. Changes through the plane (rotation out of it,
    scaling across it) blur slices together: for a few views only, and none of a volume with an acquisition axis.
    """

    probability: float = 0.9
    rotation_degrees: float = 15.0
    through_plane_probability: float = 0.2  # of the changed views
    scaling: float = 0.15
    shear: float = 0.05
    translation: float = 0.06  # fraction of the field of view
    flip_left_right: bool = False  # only where left and right structures share a label
    gamma: float = 0.4  # exponent is exp(+-gamma)
    contrast: float = 0.2
    noise: float = 0.05  # standard deviation, of a 0..1 range


@dataclass(frozen=True)
class TrainingConfig:
    """What `train` does. All of it may stand in the JSON file given with `--config`."""

    name: str = ""
    description: str = ""
    modality: str = ""
    licence: str = ""
    author: str = ""
    labels: tuple[Label, ...] = ()  # empty: taken from dataset.json
    encoder: str = "sam_vit_b"
    image_size: int = 256
    channels: tuple[int, ...] = (EMBEDDING_CHANNELS, 128, 64, 32, 16)
    slicing: SlicingRule = SlicingRule()
    intensity: IntensityRule = IntensityRule()
    window: WindowRule = WindowRule()
    mirror: bool = False
    island_share: float = 0.0
    augmentation: AugmentationConfig = AugmentationConfig()
    augmented_copies: int = 4  # per case, for a frozen encoder, whose embeddings are computed once
    start_from: str = ""  # a model, by name or file, whose weights to begin with
    batch_size: int = 2  # training samples of each step
    training_depth: int = 16  # slices of one training sample
    dice_per_class: bool = True
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup_steps: int = 60
    averaging: float = 0.99  # decay of the moving average of the weights, which is what is kept
    minutes: float = 30.0
    epochs: int = 0  # 0: train for `minutes`
    validations: int = 8  # how often the held-out Dice is measured
    validation_cases: int = 0  # 0: a fifth of the cases, at least one
    test_cases: int = 0  # seen by neither training nor the choice of the best checkpoint
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 0, f"epochs {self.epochs} is negative; use 0 to train for a time.")
        require(self.minutes > 0 or self.epochs > 0, f"minutes {self.minutes} is not positive; give a time or epochs.")
        for name in ("augmented_copies", "validation_cases", "test_cases"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)} is negative; use 0 or more.")
        require(self.learning_rate > 0, f"learning_rate {self.learning_rate} is not positive; 0.001 is a good start.")
        require(self.batch_size >= 1, f"batch_size {self.batch_size} must be at least 1; 2 is a good start.")
        require(self.training_depth >= 1, f"training_depth {self.training_depth} must be at least 1 slice.")
        require(self.validations >= 1, f"validations {self.validations} must be at least 1.")
        require(0 <= self.averaging < 1, f"averaging {self.averaging} is outside [0, 1).")
