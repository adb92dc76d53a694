"""Segment files: one volume to one file, or many to a folder; with a record of how each result was made."""

from __future__ import annotations

import datetime
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__
from .errors import InputError
from .inference import OnProgress, Segmenter, ShouldCancel
from .model_file import Sam3dModel
from .volume_io import (
    SEGMENTATION_SUFFIX,
    check_output,
    list_volumes,
    read_volume,
    volume_name,
    write_labels,
    write_volume,
)

logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """What became of many volumes: `records` of the segmented ones, names of the skipped, reasons of the failed."""

    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.records)} segmented, {len(self.skipped)} already there, {len(self.failed)} failed"


def plan_outputs(inputs: list[Path], output: Path) -> tuple[list[tuple[Path, Path]], bool]:
    """Pairs of input and output file, and whether `output` is a folder.

    One volume (a file or a DICOM folder) goes to the file `output`; a folder of volumes, or several inputs, go to the
    folder `output` as NAME.seg.nrrd. Raises InputError where two inputs would have one output.
    """
    volumes: list[Path] = []
    for path in inputs:
        volumes.extend(list_volumes(path) or [path] if path.is_dir() else [path])
    if len(inputs) == 1 and volumes == inputs:
        return [(inputs[0], output)], False
    pairs = [(volume, output / (volume_name(volume) + SEGMENTATION_SUFFIX)) for volume in volumes]
    by_target: dict[Path, Path] = {}
    for volume, target in pairs:
        if target in by_target:
            raise InputError(
                f"{str(by_target[target])!r} and {str(volume)!r} would both become {str(target)!r}; rename one."
            )
        by_target[target] = volume
    return pairs, True


def segment_array(
    segmenter: Segmenter,
    model: Sam3dModel,
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    on_progress: OnProgress | None = None,
    should_cancel: ShouldCancel | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels of one volume and the confidence in percent, both (K, J, I) uint8, and how they were made."""
    began = time.monotonic()
    labels, confidence = segmenter.segment_with_confidence(array_kji, ijk_to_ras, on_progress, should_cancel)
    seconds = time.monotonic() - began
    voxel_ml = float(abs(np.linalg.det(ijk_to_ras[:3, :3]))) / 1000
    return (
        labels,
        confidence,
        {
            "model": model.card.name,
            "model_sha256": model.sha256,
            "encoder": asdict(model.card.encoder),
            "device": str(segmenter.network.encoder.device),
            "precision": str(segmenter.network.encoder.dtype).removeprefix("torch."),
            "seconds": round(seconds, 2),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "versions": {"SAM3DSegment": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "segments": [
                _measure(labels == label.value, confidence, label.name, voxel_ml) for label in model.card.labels
            ],
        },
    )


def _measure(mask: np.ndarray, confidence: np.ndarray, name: str, voxel_ml: float) -> dict[str, Any]:
    """Size of a segment, and the model's mean confidence in percent; that of an empty segment is null."""
    count = int(np.count_nonzero(mask))
    mean = round(float(confidence[mask].mean()), 1) if count else None
    return {"name": name, "volume_ml": round(count * voxel_ml, 4), "mean_confidence": mean}


def segment_file(
    segmenter: Segmenter,
    model: Sam3dModel,
    source: Path,
    target: Path,
    on_progress: OnProgress | None = None,
    should_cancel: ShouldCancel | None = None,
    confidence_target: Path | None = None,
) -> dict[str, Any]:
    """Segment one volume into one file, its confidence into another if asked; return the record of it."""
    volume = read_volume(source)
    labels, confidence, record = segment_array(
        segmenter, model, volume.array_kji, volume.ijk_to_ras, on_progress, should_cancel
    )
    if confidence_target is not None:
        write_volume(confidence_target, confidence, volume.ijk_to_ras)
    write_labels(target, labels, volume, model.card.labels)
    return {"input": str(source), "output": str(target), **record}


def segment_files(
    model: Sam3dModel,
    load_segmenter: Callable[[], Segmenter],
    inputs: list[Path],
    output: Path,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    should_cancel: ShouldCancel | None = None,
    confidence: Path | None = None,
) -> Summary:
    """Segment all inputs. One volume that fails raises; among many it is noted and the next one is taken.

    An existing output is an error for one volume and skipped among many, unless `overwrite`.
    """
    pairs, is_folder = plan_outputs(inputs, output)
    summary = Summary()
    if is_folder:
        if output.exists() and not output.is_dir():
            raise InputError(f"output {str(output)!r} is a file; for several volumes give a folder.")
        if confidence is not None:
            raise InputError(f"--confidence {str(confidence)!r} is one file; leave it out for several volumes.")
        output.mkdir(parents=True, exist_ok=True)
    else:
        if not pairs[0][0].exists():
            raise InputError(f"{str(pairs[0][0])!r} does not exist; check the path.")
        for target in filter(None, (output, confidence)):
            check_output(target, overwrite, inputs)
    segmenter = load_segmenter()
    for source, target in pairs:
        if target.exists() and not overwrite:
            summary.skipped.append(str(source))
            continue
        try:
            record = segment_file(segmenter, model, source, target, on_progress, should_cancel, confidence)
        except InputError as error:
            if not is_folder:
                raise
            summary.failed[str(source)] = str(error)
            logger.error("%s", error)
            continue
        summary.records.append(record)
        logger.info("%s -> %s in %.1f s", source, target, record["seconds"])
    return summary
