"""The encoders that a model may be trained on, by name. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import InputError
from ..card import VitConfig
from .weights import CHECKPOINTS

SAM_ENCODERS = {
    "sam_vit_b": VitConfig(768, 12, 12, (2, 5, 8, 11)),
    "sam_vit_l": VitConfig(1024, 24, 16, (5, 11, 17, 23)),
    "sam_vit_h": VitConfig(1280, 32, 16, (7, 15, 23, 31)),
}
# A small encoder of the same class, for models that are trained end to end and carry it in their file.
COMPACT_ENCODER = "compact_vit"
COMPACT_VIT = VitConfig(192, 1, 4, (0,))
USUAL_ENCODER = "auto"  # in a training's settings: what `usual_encoder` says


def usual_encoder(sam_checkpoint: str | Path | None = None) -> str:
    """Of a training that names none: SAM's ViT-B if its weights are given or here, else a compact one of its own.

    The compact one needs nothing more, has seen nothing else, and with few cases is as good as one that a model lends
    (docs/benchmarks.md).
    """
    return "sam_vit_b" if sam_checkpoint is not None or has_sams_weights() else COMPACT_ENCODER


def has_sams_weights() -> bool:
    """Whether those of ViT-B are on this computer; a user without a home has none."""
    try:
        return CHECKPOINTS["sam_vit_b"].path.is_file()
    except InputError:
        return False
