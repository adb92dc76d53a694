"""Segment files: one volume to one file, or many to a folder; with a record of how each result was made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import Cancelled, Sam3dError
from ..base.files import last_line
from ..base.watch import UNWATCHED, Watch
from ..formats.label_maps import write_labels
from ..formats.volumes import check_axes, write_volume
from ..inference import Segmenter
from ..model_file import Sam3dModel
from ..results import segment_array
from .sources import Outputs, Source, find_targets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is segmented, and where the results go.

    series_uid chooses a series of the one DICOM folder given; also_read: other files that are read, such as the model,
    which no output may replace.
    """

    inputs: tuple[Path, ...]
    outputs: Outputs
    series_uid: str | None = None
    also_read: tuple[Path, ...] = ()


@dataclass
class Summary:
    """What became of many volumes: `records` of the segmented ones, names of the skipped, reasons of the failed."""

    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.records)} segmented, {len(self.skipped)} already there, {len(self.failed)} failed"


def segment_files(
    request: Request, model: Sam3dModel, load_segmenter: Callable[[], Segmenter], watch: Watch = UNWATCHED
) -> Summary:
    """Segment all inputs. One volume that fails raises; among many it is noted and the next one is taken.

    An existing output is an error for one volume and skipped among many, unless `outputs.overwrite`. The segmenter is
    loaded only if there is something to do.
    """
    outputs = request.outputs
    targets = find_targets(request.inputs, outputs, request.series_uid, request.also_read)
    if targets.is_folder:
        outputs.masks.mkdir(parents=True, exist_ok=True)
    todo = [pair for pair in targets.pairs if outputs.overwrite or not pair[1].exists()]
    wanted = {target for _, target in todo}
    summary = Summary(skipped=[str(source.path) for source, target in targets.pairs if target not in wanted])
    if not todo:
        return summary
    segmenter = load_segmenter()
    for source, target in todo:
        try:
            watch.check()
            record = _segment_file(segmenter, model, source, target, request, watch)
        except Cancelled as error:
            if not summary.records:
                raise
            raise Cancelled(f"cancelled; {len(summary.records)} of {len(todo)} volumes were segmented.") from error
        except (Sam3dError, MemoryError, RuntimeError) as error:
            if not targets.is_folder:
                raise
            summary.failed[str(source.path)] = _reason(source.path, error)
            logger.error("%s", summary.failed[str(source.path)])
            continue
        summary.records.append(record)
        logger.info("%s -> %s in %.1f s", source.path, target, record["seconds"])
    return summary


def _segment_file(
    segmenter: Segmenter, model: Sam3dModel, source: Source, target: Path, request: Request, watch: Watch
) -> dict[str, Any]:
    """Segment one volume into one file, its confidence into another if asked; return the record of it."""
    confidence_target = request.outputs.confidence
    volume = source.read(request.series_uid)
    for path in filter(None, (target, confidence_target)):
        check_axes(path, volume.ijk_to_ras)
    labels, confidence, record = segment_array(segmenter, model, volume.array_kji, volume.ijk_to_ras, watch)
    if confidence_target is not None:
        write_volume(confidence_target, confidence, volume.ijk_to_ras)
    write_labels(target, labels, volume, model.card.labels)
    return {"input": str(source.path), "output": str(target), **record}


def _reason(path: Path, error: Exception) -> str:
    """Why a volume failed, in one line."""
    return str(error) if isinstance(error, Sam3dError) else f"{str(path)!r} failed: {last_line(error)}."
