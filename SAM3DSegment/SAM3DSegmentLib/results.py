"""The result of segmenting one volume: its labels, their confidence, and a record of how they were made."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from . import __version__
from .base.watch import UNWATCHED, Watch
from .geometry import AUTO_REGION, Crop, voxel_ml
from .inference import Segmenter
from .model_store import Described
from .preparation import Voxels, as_channels


def segment_array(
    segmenter: Segmenter,
    model: Described,
    array_kji: Voxels,
    ijk_to_ras: np.ndarray,
    watch: Watch = UNWATCHED,
    misfits: Sequence[str] = (),
    region: str = AUTO_REGION,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels of one volume and the confidence in percent, both (K, J, I) uint8, and how they were made.

    misfits: what `suitability` finds of the volume, for the record. region: as for `segment_volume`.
    """
    channels = as_channels(array_kji)
    named = dict(zip((channel.name for channel in model.card.channels), channels)) if len(channels) > 1 else {}
    began = time.monotonic()
    labels, confidence = segmenter.segment_with_confidence(array_kji, ijk_to_ras, watch, region)
    seconds = time.monotonic() - began
    ml = voxel_ml(ijk_to_ras)
    encoder = segmenter.network.encoder
    record = {
        "model": model.card.name,
        "model_sha256": model.sha256,
        "encoder": asdict(model.card.encoder),
        "device": str(encoder.device),
        "quality": segmenter.level,
        "region": region,
        "boxes": [str(box) for box in segmenter.boxes],
        "precision": str(encoder.dtype).removeprefix("torch."),
        "seconds": round(seconds, 2),
        "date": date_now(),
        "versions": {"SAM3DSegment": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "misfits": list(misfits),
        "segments": [
            {"name": label.name, "value": label.value}
            | measure_segment(labels == label.value, channels[0], ml, confidence, segmenter.boxes, named)
            for label in model.card.labels
        ],
    }
    return labels, confidence, record


def date_now() -> str:
    """ISO 8601, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def measure_segment(
    mask: np.ndarray,
    array_kji: np.ndarray,
    ml_of_voxel: float,
    confidence: np.ndarray | None = None,
    boxes: Sequence[Crop] = (),
    channels: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Size of a segment, grey values in it, the model's mean confidence in percent; what an empty one has not is null.

    mask: boolean (K, J, I), on the grid of the other arrays. sd: standard deviation of the finite grey values (of the
    population: divided by their number). cut_off: whether it touches the border of the volume, or of one of the boxes
    that were segmented of it, so that part of the structure may lie outside; an axis with one voxel has no border.
    channels: all of them by name, if there are several, of which the array is the first.
    """
    count = int(np.count_nonzero(mask))
    of_channels = {name: _grey_values(array[mask]) for name, array in (channels or {}).items()}
    return {
        "volume_ml": round(count * ml_of_voxel, 4),
        "mean_confidence": round(float(confidence[mask].mean()), 1) if count and confidence is not None else None,
        "voxels": count,
        **_grey_values(array_kji[mask]),
        "cut_off": any(_touches_border(box.view(mask)) for box in boxes or [Crop.whole(mask.shape)]),
        **({"channels": of_channels} if of_channels else {}),
    }


def _grey_values(values: np.ndarray) -> dict[str, float | None]:
    values = values.astype(np.float64)
    values = values[np.isfinite(values)]
    return {
        "mean": float(values.mean()) if len(values) else None,
        "sd": float(values.std()) if len(values) else None,
    }


def _touches_border(mask: np.ndarray) -> bool:
    return any(bool(np.take(mask, end, axis).any()) for axis in range(3) if mask.shape[axis] > 1 for end in (0, -1))
