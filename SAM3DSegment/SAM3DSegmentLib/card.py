"""What a model file stores so that it gives the same mask on another machine: a `ModelCard` is its header.

Values are checked when an object is made, so a bad one fails before any work is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .base.errors import require
from .channel import MOST_CHANNELS, Channel, IntensityRule, require_channels

PATCH_SIZE = 16  # pixels per token along each in-plane axis, the same in every SAM encoder
# With one cell in each direction, the decoder's norms would see a single value in a volume of one slice.
LEAST_IMAGE_SIZE, LARGEST_IMAGE_SIZE = 2 * PATCH_SIZE, 4096
LARGEST_DEPTH = 4096  # slices that a decoder sees at once
LARGEST_PLACES = 255  # that a coarse look hands on
UNKNOWN = 255  # in place of a class index: nobody has said what this voxel is
EMBEDDING_CHANNELS = 256  # channels of the feature that SAM's encoder hands on
ANATOMICAL_PLANES = ("axial", "coronal", "sagittal")
NORMALISATIONS = ("sam", "unit", "grey")  # see `intensity.normalise`
EACH, RGB = CHANNEL_LAYOUTS = ("each", "rgb")  # see `intensity.split_passes`
COLOURS = 3  # that an encoder of SAM's class reads


def require_image_size(pixels: int) -> None:
    """Raises InputError unless an encoder can take slices of pixels x pixels, and a decoder what it makes of them."""
    require(
        LEAST_IMAGE_SIZE <= pixels <= LARGEST_IMAGE_SIZE and pixels % PATCH_SIZE == 0,
        f"image_size {pixels} is not a multiple of {PATCH_SIZE} in {LEAST_IMAGE_SIZE}..{LARGEST_IMAGE_SIZE}; "
        "use for example 256 or 1024.",
    )


@dataclass(frozen=True)
class VitConfig:
    """Shape of an image encoder of SAM's class (`segment_anything.modeling.ImageEncoderViT`).

    adapters: whether each block has one beside its MLP, as SAM-Med2D's have.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_attention_blocks: tuple[int, ...]
    window_size: int = 14
    adapters: bool = False

    def __post_init__(self) -> None:
        require(
            1 <= self.num_heads <= self.embed_dim <= 4096 and 1 <= self.depth <= 64 and 1 <= self.window_size <= 256,
            f"an encoder of width {self.embed_dim} with {self.depth} blocks of {self.num_heads} heads and windows of "
            f"{self.window_size} is impossible; SAM's largest has 1280, 32, 16 and 14.",
        )
        require(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}; choose values that divide.",
        )


@dataclass(frozen=True)
class EncoderConfig:
    """Which frozen encoder a model needs.

    sha256 is the hash of the checkpoint file, or of the tensors when the encoder is carried in the model file
    (`vit` then gives its shape). normalisation: what is done to grey slices before; cards without it mean "sam".
    channel_layout: how several channels reach it, each in a pass of its own, or as the colours of one.
    """

    name: str
    image_size: int
    sha256: str = ""
    vit: VitConfig | None = None
    normalisation: str = "sam"
    channel_layout: str = EACH

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require(
            self.channel_layout in CHANNEL_LAYOUTS,
            f"channel_layout {self.channel_layout!r} is unknown; use one of {', '.join(CHANNEL_LAYOUTS)}.",
        )
        require(
            self.normalisation in NORMALISATIONS,
            f"normalisation {self.normalisation!r} is unknown; use one of {', '.join(NORMALISATIONS)}.",
        )

    @property
    def in_model_file(self) -> bool:
        """True when the encoder's weights travel in the model file, so that no checkpoint is needed."""
        return self.vit is not None

    def passes(self, channels: int) -> int:
        """How often a slice of so many channels goes through the encoder. Raises InputError for too many of them."""
        if self.channel_layout == EACH:
            return channels
        require(
            channels <= COLOURS,
            f"channel_layout {RGB!r} takes up to {COLOURS} channels, not {channels}; use {EACH!r}.",
        )
        return 1


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the 3-D decoder.

    `levels`: so many of its four layers and heads are built, from the coarsest; each doubles the in-plane grid, so
    that 4 undo SAM's patch size, and fewer suit volumes whose own grid is coarser. `channels` are five numbers anyway.

    The other defaults are this project's method. The rest exists because the paper's public code (UARK-AICV/SAM3D,
    sam3d.py) projects with 1x1x1, upsamples with "nearest", and has three heads, on the finest levels, that are
    "convolutional": a 3x3x3 convolution to half the channels, an instance norm, LeakyReLU and a 1x1x1 convolution.

    `detail` is our own addition, off by default: channels of a part that reads the grey slices beside the embeddings,
    on the slices' own grid, then on each of half that size. `grey_channels`: channels of these slices.
    """

    num_classes: int
    channels: tuple[int, ...] = (EMBEDDING_CHANNELS, 128, 64, 32, 16)
    projection_kernel: int = 3
    upsampling: str = "trilinear"
    heads: int = 4
    levels: int = 4
    head: str = "linear"
    detail: tuple[int, ...] = ()
    grey_channels: int = 1

    def __post_init__(self) -> None:
        require(
            2 <= self.num_classes <= 256,
            f"num_classes {self.num_classes} is outside 2..256; count the background as one class.",
        )
        require(
            len(self.channels) == 5 and all(a >= b > 0 for a, b in zip(self.channels, self.channels[1:])),
            f"channels {self.channels} must be five positive numbers that never grow, such as (256, 128, 64, 32, 16).",
        )
        require(
            self.projection_kernel in (1, 3),
            f"projection_kernel {self.projection_kernel} is unknown; use 3, or 1 for the paper's public code.",
        )
        require(
            self.upsampling in ("trilinear", "nearest"),
            f"upsampling {self.upsampling!r} is unknown; use 'trilinear' or 'nearest'.",
        )
        require(1 <= self.heads <= 4, f"heads {self.heads} is outside 1..4; the default of 4 gives every level a head.")
        require(
            self.head in ("linear", "convolutional"),
            f"head {self.head!r} is unknown; use 'linear', or 'convolutional' for the paper's public code.",
        )
        require(
            2 <= self.levels <= 4,
            f"levels {self.levels} is outside 2..4; 4 give logits of the encoder's own size, 3 of half that size.",
        )
        require(
            len(self.detail) <= 5 and all(1 <= width <= 1024 for width in self.detail),
            f"detail {self.detail} must be at most 5 numbers in 1..1024, such as (16, 32, 64, 128), or none.",
        )
        require(
            1 <= self.grey_channels <= MOST_CHANNELS,
            f"grey_channels {self.grey_channels} is outside 1..{MOST_CHANNELS}; a volume has so many channels.",
        )


@dataclass(frozen=True)
class SlicingRule:
    """Along which axis a volume is cut into slices.

    The acquisition axis is used where there is one: the axis whose spacing is at least `anisotropy` times the next
    largest. Otherwise slices are cut in the anatomical `plane`.
    """

    plane: str = "axial"
    anisotropy: float = 1.5

    def __post_init__(self) -> None:
        require(
            self.plane in ANATOMICAL_PLANES,
            f"plane {self.plane!r} is unknown; use one of {', '.join(ANATOMICAL_PLANES)}.",
        )
        require(
            self.anisotropy > 1, f"anisotropy {self.anisotropy} must be greater than 1; 1.5 suits most acquisitions."
        )


@dataclass(frozen=True)
class WindowRule:
    """The decoder's window along the slicing axis: `depth` slices, `overlap` of them shared with the next window.

    Instance norms take their statistics from the window, so it should be as deep as the training samples
    (`TrainingConfig.training_depth`): longer ones cost Dice (docs/training.md).
    """

    depth: int = 16
    overlap: int = 8

    def __post_init__(self) -> None:
        require(
            1 <= self.depth <= LARGEST_DEPTH and 0 <= self.overlap < self.depth,
            f"window depth {self.depth} with overlap {self.overlap} is impossible; overlap must be below depth, and "
            f"depth at most {LARGEST_DEPTH}.",
        )


@dataclass(frozen=True)
class Terminology:
    """A coded concept, as in DICOM: coding scheme, code and meaning, e.g. SCT 72107004 "Hippocampus"."""

    scheme: str
    code: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """One structure: value in the label map (1..255), name, colour (RGB 0..255) and coded concepts."""

    value: int
    name: str
    color: tuple[int, int, int]
    category: Terminology = Terminology("SCT", "85756007", "Tissue")
    type: Terminology = Terminology("SCT", "85756007", "Tissue")
    modifier: Terminology | None = None

    def __post_init__(self) -> None:
        require(1 <= self.value <= 255, f"label value {self.value} of {self.name!r} is outside 1..255; renumber it.")
        require(
            len(self.color) == 3 and all(0 <= c <= 255 for c in self.color),
            f"colour {self.color} of label {self.name!r} is not three numbers in 0..255.",
        )


@dataclass(frozen=True)
class TrainingSummary:
    """How a model was made, for its card. `dice` maps label names to the mean Dice on `dice_cases` held-out cases."""

    cases: int = 0
    minutes: float = 0.0
    steps: int = 0
    seed: int = 0
    dice: dict[str, float] = field(default_factory=dict)
    dice_cases: int = 0
    dice_note: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CoarseLook:
    """How a model finds its structures in a large volume, before it looks at their places closely.

    card: of the model that finds them, whose one label is a place, on a grid of about `spacing_mm`. places: as many are
    looked at, at most. margin_mm: on each side of what is found. extent_mm: median of the boxes, slicing axis first.
    """

    card: ModelCard
    spacing_mm: float
    places: int
    margin_mm: float
    extent_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        require(
            len(self.card.labels) == 1 and self.card.coarse is None,
            f"a coarse look has one label, the place, and no coarse look itself, not {len(self.card.labels)} labels.",
        )
        require(
            0 < self.spacing_mm <= 1000 and 1 <= self.places <= LARGEST_PLACES and 0 <= self.margin_mm <= 1000,
            f"a coarse look at {self.spacing_mm} mm for {self.places} places with margins of {self.margin_mm} mm is "
            "impossible; 3 mm, 1 place and 6 mm are usual.",
        )


@dataclass(frozen=True)
class ModelCard:
    """Header of a model file: all that is needed to use it, and what a reader wants to know before."""

    name: str
    description: str
    modality: str
    labels: tuple[Label, ...]
    encoder: EncoderConfig
    decoder: DecoderConfig
    slicing: SlicingRule = SlicingRule()
    intensity: IntensityRule = IntensityRule()
    channels: tuple[Channel, ...] = ()  # of a volume; (): one, of this modality and intensity
    window: WindowRule = WindowRule()
    mirror: bool = False  # decode every slice left-right mirrored too and average; for labels without a side
    island_share: float = 0.0  # of a label's largest piece: smaller ones are removed (postprocessing.py); 0 keeps all
    spacing_mm: tuple[float, float, float] | None = None  # median of the training volumes, slicing axis first
    extent_mm: tuple[float, float, float] | None = None  # likewise their size, by which a wrong crop is noticed
    coarse: CoarseLook | None = None  # None: the whole volume is looked at closely
    training: TrainingSummary = TrainingSummary()
    licence: str = ""
    author: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        require(
            len(self.labels) + 1 == self.decoder.num_classes,
            f"{len(self.labels)} labels do not fit {self.decoder.num_classes} classes; "
            "there must be one class more, for the background.",
        )
        require_channels(self.channels)
        if self.channels:
            width = EMBEDDING_CHANNELS * self.encoder.passes(len(self.channels))
            require(
                (self.decoder.channels[0], self.decoder.grey_channels) == (width, len(self.channels)),
                f"a decoder of {self.decoder.channels[0]} channels that reads {self.decoder.grey_channels} grey ones "
                f"does not fit the channels {', '.join(channel.name for channel in self.channels)}; {width} and "
                f"{len(self.channels)} do.",
            )
        require(0 <= self.island_share <= 1, f"island_share {self.island_share} is outside 0..1; 0.1 is a good start.")
        values = [label.value for label in self.labels]
        require(len(set(values)) == len(values), f"label values {values} are not all different; renumber them.")
        names = [label.name for label in self.labels]
        require(len(set(names)) == len(names), f"label names {names} are not all different; rename them.")

    @property
    def inputs(self) -> tuple[Channel, ...]:
        """The channels that a volume must have, at least one; a single one may be without a name."""
        return self.channels or (Channel("", self.intensity, self.modality),)

    @property
    def intensities(self) -> tuple[IntensityRule, ...]:
        """Of each of the inputs."""
        return tuple(channel.intensity or self.intensity for channel in self.inputs)

    def check_channels(self, count: int) -> None:
        """Raises InputError unless a volume of so many channels can be read."""
        wanted = ", ".join(channel.name for channel in self.channels) or "one"
        require(
            count == len(self.inputs),
            f"a volume of {count} channel{'' if count == 1 else 's'} was given, but the model {self.name!r} reads "
            f"{wanted}; give {'this one' if len(self.inputs) == 1 else 'these, in this order'}.",
        )
