"""Segment files: one volume to one file, or many to a folder; with a record of how each result was made."""

from __future__ import annotations

import datetime
import logging
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..base.errors import Cancelled, InputError, Sam3dError
from ..base.files import check_new_file, last_line
from ..base.watch import UNWATCHED, Watch
from ..formats.images import read_header
from ..formats.label_maps import check_label_output, is_segmentation, write_labels
from ..formats.volumes import (
    IMAGE_OUTPUT_SUFFIXES,
    OUTPUT_SUFFIXES,
    SEGMENTATION_SUFFIX,
    check_axes,
    list_volumes,
    read_volume,
    volume_name,
    write_volume,
)
from ..inference import Segmenter
from ..model_file import Sam3dModel

logger = logging.getLogger(__name__)


@dataclass
class Summary:
    """What became of many volumes: `records` of the segmented ones, names of the skipped, reasons of the failed."""

    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.records)} segmented, {len(self.skipped)} already there, {len(self.failed)} failed"


@dataclass(frozen=True)
class Outputs:
    """Where results go: the mask of one volume, or the folder for those of many; what else is written of it."""

    masks: Path
    confidence: Path | None = None
    report: Path | None = None
    overwrite: bool = False


def plan_outputs(inputs: list[Path], output: Path) -> tuple[list[tuple[Path, Path]], bool]:
    """Pairs of input and output file, and whether `output` is a folder.

    One volume (a file or a DICOM folder) goes to the file `output`; a folder of volumes, or several inputs, go to the
    folder `output` as NAME.seg.nrrd. Raises InputError where two inputs would have one output, or none is an image.
    """
    volumes: list[Path] = []
    for path in inputs:
        volumes.extend(_volumes_of(path))
    if len(inputs) == 1 and volumes == inputs:
        return [(inputs[0], output)], False
    if output.name.lower().endswith(OUTPUT_SUFFIXES) and not output.is_dir():
        raise InputError(
            f"output {str(output)!r} is the name of one file, and there are {len(volumes)} volumes in what is given; "
            "give a folder's name, or one volume."
        )
    pairs = [(volume, output / (volume_name(volume) + SEGMENTATION_SUFFIX)) for volume in volumes]
    by_target: dict[str, Path] = {}
    for volume, target in pairs:
        other = by_target.setdefault(str(target).casefold(), volume)  # some file systems do not see the case
        if other != volume:
            raise InputError(f"{str(other)!r} and {str(volume)!r} would both become {str(target)!r}; rename one.")
    return pairs, True


def _volumes_of(path: Path) -> list[Path]:
    """The volumes that an input stands for: those of a folder without its segmentations, else itself."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{str(path)!r} does not exist; check the path.")
        if is_segmentation(path):
            raise InputError(f"{str(path)!r} is a segmentation; give the image that it was drawn on.")
        return [path]
    from ..formats.content import holds_dicom
    from ..formats.dicom import nothing_found  # it loads pydicom

    files = list_volumes(path)
    segmentations = [file for file in files if is_segmentation(file)]
    volumes = [file for file in files if file not in segmentations]
    if segmentations:
        logger.info("left out of %s, as segmentations: %s.", path, _names(segmentations))
    if volumes and holds_dicom(path):
        raise InputError(
            f"folder {str(path)!r} holds a DICOM series and volume files ({_names(volumes)}); give one of the files, "
            "or move the slices into a folder of their own."
        )
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    if volumes and folders:
        logger.warning("folders within %s are not looked into: %s.", path, _names(folders))
    if volumes or holds_dicom(path):
        return volumes or [path]
    if segmentations:
        raise InputError(f"folder {str(path)!r} holds segmentations only; give the folder of the images.")
    raise nothing_found(path)


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _check_outputs(outputs: Outputs, targets: list[Path], is_folder: bool, read: list[Path]) -> None:
    """Raises InputError unless all that is written can be, is of different names, and is nothing that is `read`."""
    if is_folder:
        if outputs.masks.exists() and not outputs.masks.is_dir():
            raise InputError(f"output {str(outputs.masks)!r} is a file; for several volumes give a folder.")
        if outputs.confidence is not None:
            raise InputError(f"--confidence {str(outputs.confidence)!r} is one file; leave it out for several volumes.")
    else:
        check_label_output(outputs.masks, outputs.overwrite, read)
    if outputs.confidence is not None:
        name = outputs.confidence.name.lower()
        if not name.endswith(IMAGE_OUTPUT_SUFFIXES) or name.endswith(SEGMENTATION_SUFFIX):
            raise InputError(
                f"--confidence {str(outputs.confidence)!r} has no ending of an image; "
                f"use {', '.join(IMAGE_OUTPUT_SUFFIXES)}."
            )
        check_new_file(outputs.confidence, outputs.overwrite, read)
    if outputs.report is not None:
        check_new_file(outputs.report, outputs.overwrite, read)
    given = [path.absolute() for path in (outputs.masks, *targets, outputs.confidence, outputs.report) if path]
    if twice := [path for path in given if given.count(path) > 1]:
        raise InputError(f"two outputs are to be {str(twice[0])!r}; give each a name of its own.")


def _files_of(path: Path) -> list[Path]:
    """The files that are read for an input."""
    if path.is_dir():
        return list(path.iterdir())
    return [path, read_header(path).data]


def _reason(source: Path, error: Exception) -> str:
    """Why a volume failed, in one line."""
    return str(error) if isinstance(error, Sam3dError) else f"{str(source)!r} failed: {last_line(error)}."


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
    return (
        labels,
        confidence,
        {
            "model": model.card.name,
            "model_sha256": model.sha256,
            "encoder": asdict(model.card.encoder),
            "device": str(segmenter.network.encoder.device),
            "quality": segmenter.level,
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
    watch: Watch = UNWATCHED,
    confidence_target: Path | None = None,
    series_uid: str | None = None,
) -> dict[str, Any]:
    """Segment one volume into one file, its confidence into another if asked; return the record of it."""
    volume = read_volume(source, series_uid)
    for path in filter(None, (target, confidence_target)):
        check_axes(path, volume.ijk_to_ras)
    labels, confidence, record = segment_array(segmenter, model, volume.array_kji, volume.ijk_to_ras, watch)
    if confidence_target is not None:
        write_volume(confidence_target, confidence, volume.ijk_to_ras)
    write_labels(target, labels, volume, model.card.labels)
    return {"input": str(source), "output": str(target), **record}


def segment_files(
    model: Sam3dModel,
    load_segmenter: Callable[[], Segmenter],
    inputs: list[Path],
    outputs: Outputs,
    watch: Watch = UNWATCHED,
    series_uid: str | None = None,
    read_files: Iterable[Path] = (),
) -> Summary:
    """Segment all inputs. One volume that fails raises; among many it is noted and the next one is taken.

    An existing output is an error for one volume and skipped among many, unless `outputs.overwrite`. read_files: what
    else is read, such as the model, and may be no output. series_uid chooses a series of the one DICOM folder given.
    """
    pairs, is_folder = plan_outputs(inputs, outputs.masks)
    if series_uid is not None and (is_folder or not inputs[0].is_dir()):
        raise InputError(f"--series {series_uid!r} is for one DICOM folder; leave it out for anything else.")
    read = [*read_files, *(file for path in inputs for file in _files_of(path))]
    _check_outputs(outputs, [target for _, target in pairs] if is_folder else [], is_folder, read)
    if is_folder:
        outputs.masks.mkdir(parents=True, exist_ok=True)
    todo = pairs if outputs.overwrite else [(source, target) for source, target in pairs if not target.exists()]
    summary = Summary(skipped=[str(pair[0]) for pair in pairs if pair not in todo])
    if not todo:
        return summary
    segmenter = load_segmenter()
    for source, target in todo:
        try:
            record = segment_file(segmenter, model, source, target, watch, outputs.confidence, series_uid)
        except Cancelled:
            raise
        except (Sam3dError, MemoryError, RuntimeError) as error:
            if not is_folder:
                raise
            summary.failed[str(source)] = _reason(source, error)
            logger.error("%s", summary.failed[str(source)])
            continue
        summary.records.append(record)
        logger.info("%s -> %s in %.1f s", source, target, record["seconds"])
    return summary
