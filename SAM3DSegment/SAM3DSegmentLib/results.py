"""The result of segmenting one volume: its labels, their confidence, and a record of how they were made."""

from __future__ import annotations

import datetime
import platform
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from . import __version__
from .base.watch import UNWATCHED, Watch
from .inference import Segmenter
from .model_file import Sam3dModel


def segment_array(
    segmenter: Segmenter,
    model: Sam3dModel,
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    watch: Watch = UNWATCHED,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels of one volume and the confidence in percent, both (K, J, I) uint8, and how they were made."""
    began = time.monotonic()
    labels, confidence = segmenter.segment_with_confidence(array_kji, ijk_to_ras, watch)
    seconds = time.monotonic() - began
    voxel_ml = float(abs(np.linalg.det(ijk_to_ras[:3, :3]))) / 1000
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
        "segments": [_measure(labels == label.value, confidence, label.name, voxel_ml) for label in model.card.labels],
    }
    return labels, confidence, record


def _measure(mask: np.ndarray, confidence: np.ndarray, name: str, voxel_ml: float) -> dict[str, Any]:
    """Size of a segment, and the model's mean confidence in percent; that of an empty segment is null."""
    count = int(np.count_nonzero(mask))
    mean = round(float(confidence[mask].mean()), 1) if count else None
    return {"name": name, "volume_ml": round(count * voxel_ml, 4), "mean_confidence": mean}
