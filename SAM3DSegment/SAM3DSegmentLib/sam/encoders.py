"""The encoders that a model may be trained on, by name. Nothing here imports torch."""

from __future__ import annotations

from ..card import VitConfig

SAM_ENCODERS = {
    "sam_vit_b": VitConfig(768, 12, 12, (2, 5, 8, 11)),
    "sam_vit_l": VitConfig(1024, 24, 16, (5, 11, 17, 23)),
    "sam_vit_h": VitConfig(1280, 32, 16, (7, 15, 23, 31)),
}
# A small encoder of the same class, for models that are trained end to end and carry it in their file.
COMPACT_ENCODER = "compact_vit"
COMPACT_VIT = VitConfig(192, 1, 4, (0,))
