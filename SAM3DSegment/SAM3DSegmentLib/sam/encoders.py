"""The encoders that a model may be trained on, one row each: shape, normalisation, file, licence. No torch here.

Where each row's `normalisation` was read stands above it. A hash that nobody could compute from the published file is
left out, and such a file is not downloaded, because nobody could say whether it is the right one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import InputError
from ..base.folders import weights_folder
from ..card import VitConfig

_SAM_FILES = "https://dl.fbaipublicfiles.com/segment_anything/"
_LEAST_BYTES = 10**6  # of weights of unknown size: LoRA's smallest have 18 MB

_VIT_B = VitConfig(768, 12, 12, (2, 5, 8, 11))
_VIT_B_ADAPTED = replace(_VIT_B, adapters=True)
_VIT_L = VitConfig(1024, 24, 16, (5, 11, 17, 23))
_VIT_H = VitConfig(1280, 32, 16, (7, 15, 23, 31))


@dataclass(frozen=True)
class PublishedEncoder:
    """An encoder whose weights somebody published.

    family: as people call it; file_name: that of its weights in the weights folder; source: the page that leads to
    them; sha256, megabytes: of that file, "" and 0 where they are not known; telling: in a key that no other family's
    file has, "" if there is none; base: the encoder whose weights the file only changes, and which is needed too.
    """

    name: str
    family: str
    vit: VitConfig
    normalisation: str
    file_name: str
    source: str
    licence: str
    sha256: str = ""
    megabytes: int = 0
    telling: str = ""
    base: str = ""

    @property
    def title(self) -> str:
        """For people, such as SAM ViT-B."""
        return f"{self.family} ViT-{self.name[-1].upper()}"

    @property
    def url(self) -> str:
        """Where to download it; SAM3DSEGMENT_WEIGHTS_URL names a mirror with the same file names."""
        return os.environ.get("SAM3DSEGMENT_WEIGHTS_URL", _SAM_FILES).rstrip("/") + "/" + self.file_name

    @property
    def path(self) -> Path:
        return weights_folder() / self.file_name

    @property
    def is_here(self) -> bool:
        """By its size: not the few bytes of a link of git-annex or Git LFS, nor a copy that was cut short."""
        try:
            size = self.path.stat().st_size if self.path.is_file() else 0
        except OSError:
            return False
        if self.megabytes:
            return abs(size / 1e6 - self.megabytes) < 0.01 * self.megabytes
        return size > _LEAST_BYTES


_SAM = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
_HQ_SAM = "https://github.com/SysCV/sam-hq#model-checkpoints"
_SAMED = "https://github.com/hitachinsk/SAMed"

ENCODERS = {
    encoder.name: encoder
    for encoder in (
        # facebookresearch/segment-anything, build_sam.py: pixel_mean, pixel_std
        PublishedEncoder(
            "sam_vit_b", "SAM", _VIT_B, "sam", "sam_vit_b_01ec64.pth", _SAM, "Apache-2.0",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", 375,
        ),
        PublishedEncoder(
            "sam_vit_l", "SAM", _VIT_L, "sam", "sam_vit_l_0b3195.pth", _SAM, "Apache-2.0",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", 1250,
        ),
        PublishedEncoder(
            "sam_vit_h", "SAM", _VIT_H, "sam", "sam_vit_h_4b8939.pth", _SAM, "Apache-2.0",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", 2560,
        ),
        # bowang-lab/MedSAM, MedSAM_Inference.py and train_one_gpu.py. Its version 0.0.1 of April 2023, which
        # wanglab/medsam-vit-base holds too by its date, is another: it left SAM's encoder as it was, and so is SAM's.
        PublishedEncoder(
            "medsam_vit_b", "MedSAM", _VIT_B, "unit", "medsam_vit_b.pth",
            "https://github.com/bowang-lab/MedSAM#get-started", "Apache-2.0",
        ),
        # computational-cell-analytics/medico-sam, medico_sam/transform/raw.py (0..255), trained through SAM's own
        # `preprocess`; micro-sam's name for it is vit_b_medical_imaging, and its hash there is no SHA-256.
        PublishedEncoder(
            "medicosam_vit_b", "MedicoSAM", _VIT_B, "sam", "vit_b_medicosam.pt",
            "https://github.com/computational-cell-analytics/medico-sam#download-model-checkpoints", "MIT",
        ),
        # OpenGVLab/SAM-Med2D, DataLoader.py; trained on 256 pixels
        PublishedEncoder(
            "sam_med2d_vit_b", "SAM-Med2D", _VIT_B_ADAPTED, "sam", "sam-med2d_b.pth",
            "https://github.com/OpenGVLab/SAM-Med2D", "Apache-2.0", telling=".Adapter.",
        ),
        # SysCV/sam-hq, segment_anything/build_sam.py: SAM's encoder, frozen
        PublishedEncoder(
            "hq_sam_vit_b", "HQ-SAM", _VIT_B, "sam", "sam_hq_vit_b.pth", _HQ_SAM, "Apache-2.0", telling=".hf_token.",
        ),
        PublishedEncoder(
            "hq_sam_vit_l", "HQ-SAM", _VIT_L, "sam", "sam_hq_vit_l.pth", _HQ_SAM, "Apache-2.0", telling=".hf_token.",
        ),
        PublishedEncoder(
            "hq_sam_vit_h", "HQ-SAM", _VIT_H, "sam", "sam_hq_vit_h.pth", _HQ_SAM, "Apache-2.0", telling=".hf_token.",
        ),
        # hitachinsk/SAMed, preprocess_data.py (0..1 by a fixed window) and test.py (mean 0, deviation 1)
        PublishedEncoder(
            "samed_vit_b", "SAMed", _VIT_B, "grey", "epoch_159.pth", _SAMED, "MIT",
            telling="w_a_000", base="sam_vit_b",
        ),
    )
}  # fmt: skip
# A small encoder of the same class, for models that are trained end to end and carry it in their file.
COMPACT_ENCODER = "compact_vit"
COMPACT_VIT = VitConfig(192, 1, 4, (0,))
USUAL_ENCODER = "auto"  # in a training's settings: what its checkpoint is, else what `usual_encoder` says


def published(name: str) -> PublishedEncoder:
    """The row of this name. Raises InputError listing those that there are."""
    if name not in ENCODERS:
        raise InputError(f"encoder {name!r} has no published checkpoint; use one of {', '.join(ENCODERS)}.")
    return ENCODERS[name]


def published_as(sha256: str) -> PublishedEncoder | None:
    """The encoder whose published file has this hash."""
    return next((encoder for encoder in ENCODERS.values() if encoder.sha256 == sha256), None)


def usual_encoder() -> str:
    """Of a training that names none: SAM's ViT-B if its weights are here, else a compact one of its own.

    The compact one needs nothing more, has seen nothing else, and with few cases is as good as one that a model lends
    (docs/benchmarks.md).
    """
    return "sam_vit_b" if has_sams_weights() else COMPACT_ENCODER


def has_sams_weights() -> bool:
    """Whether those of ViT-B are on this computer; a user without a home has none."""
    try:
        return ENCODERS["sam_vit_b"].path.is_file()
    except InputError:
        return False
