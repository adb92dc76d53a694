"""The result of segmenting one volume: its labels, their confidence, and a record of how they were made."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from . import __version__
from .base.watch import UNWATCHED, Watch
from .geometry import voxel_ml
from .inference import Segmenter
from .model_file import Sam3dModel


def segment_array(
    segmenter: Segmenter,
    model: Sam3dModel,
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    watch: Watch = UNWATCHED,
    misfits: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels of one volume and the confidence in percent, both (K, J, I) uint8, and how they were made.

    misfits: what `suitability` finds of the volume, for the record.
    """
    began = time.monotonic()
    labels, confidence = segmenter.segment_with_confidence(array_kji, ijk_to_ras, watch)
    seconds = time.monotonic() - began
    ml = voxel_ml(ijk_to_ras)
    encoder = segmenter.network.encoder
    record = {
        "model": model.card.name,
        "model_sha256": model.sha256,
        "encoder": asdict(model.card.encoder),
        "device": str(encoder.device),
        "quality": segmenter.level,
        "precision": str(encoder.dtype).removeprefix("torch."),
        "seconds": round(seconds, 2),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {"SAM3DSegment": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "misfits": list(misfits),
        "segments": [_measure(labels == label.value, confidence, label.name, ml) for label in model.card.labels],
    }
    return labels, confidence, record


def _measure(mask: np.ndarray, confidence: np.ndarray, name: str, ml_of_voxel: float) -> dict[str, Any]:
    """Size of a segment, and the model's mean confidence in percent; that of an empty segment is null."""
    count = int(np.count_nonzero(mask))
    mean = round(float(confidence[mask].mean()), 1) if count else None
    return {"name": name, "volume_ml": round(count * ml_of_voxel, 4), "mean_confidence": mean}
