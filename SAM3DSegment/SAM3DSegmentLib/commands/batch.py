"""Segment files: one volume to one file, or many to a folder; with a record of how each result was made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import Cancelled, InputError
from ..base.files import one_line
from ..base.watch import UNWATCHED, Watch
from ..formats.label_maps import Provenance, check_fits, write_labels
from ..formats.volumes import check_axes, write_volume
from ..inference import Segmenter
from ..model_file import Sam3dModel
from ..results import segment_array
from ..suitability import VolumeFacts, find_and_warn, find_misfits
from .report import Report, Summary
from .sources import Outputs, Source, Target, find_targets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What is segmented, and where the results go.

    series_uid chooses a series of the one DICOM folder given; also_read: other files that are read, such as the model,
    which no output may replace. strict: a volume that does not suit the model fails.
    """

    inputs: tuple[Path, ...]
    outputs: Outputs
    series_uid: str | None = None
    also_read: tuple[Path, ...] = ()
    strict: bool = False


def segment_files(
    request: Request, model: Sam3dModel, load_segmenter: Callable[[], Segmenter], watch: Watch = UNWATCHED
) -> Summary:
    """Segment all inputs. One volume that fails raises; among many it is noted and the next one is taken.

    An existing output is an error for one volume and skipped among many, unless `outputs.overwrite`. The segmenter is
    loaded only if there is something to do. The report is written after each volume.
    """
    outputs = request.outputs
    targets = find_targets(request.inputs, outputs, request.series_uid, request.also_read)
    if targets.is_folder:
        outputs.masks.mkdir(parents=True, exist_ok=True)
    skipped = [target for target in targets.each if target.is_done and not outputs.overwrite]
    todo = [target for target in targets.each if not target.is_done or outputs.overwrite]
    summary = Summary(skipped=[str(target.source.path) for target in skipped])
    report = Report.open(outputs.report, keep=targets.is_folder)
    if not todo:
        report.write(summary)
        return summary
    segmenter = load_segmenter()
    for target in todo:
        try:
            watch.check()
            record = _segment_file(segmenter, model, target, request, watch)
        except Cancelled as error:
            if not summary.records:
                raise
            raise Cancelled(f"cancelled; {len(summary.records)} of {len(todo)} volumes were segmented.") from error
        except Exception as error:
            if not targets.is_folder:
                raise
            name = str(target.source.path)
            summary.failed[name] = one_line(error, name)
            logger.error("%s", summary.failed[name])
            logger.debug("%s failed here:", name, exc_info=True)
        else:
            summary.records.append(record)
            logger.info("%s -> %s in %.1f s", target.source.path, target.path, record["seconds"])
        report.write(summary)
    return summary


def _segment_file(
    segmenter: Segmenter, model: Sam3dModel, target: Target, request: Request, watch: Watch
) -> dict[str, Any]:
    """Segment one volume into one file, its confidence into another if asked; return the record of it."""
    confidence_target = request.outputs.confidence
    target.check()
    volume = target.source.read(request.series_uid)
    provenance = Provenance(model.card.name, model.sha256)
    check_fits(target.path, volume, model.card.labels, provenance)
    if confidence_target is not None:
        check_axes(confidence_target, volume.ijk_to_ras)
    facts = VolumeFacts.of_array(volume.array_kji, volume.ijk_to_ras, volume.modality)
    misfits = _judge(model, facts, target.source, request.strict)
    labels, confidence, record = segment_array(segmenter, model, volume.array_kji, volume.ijk_to_ras, watch, misfits)
    if confidence_target is not None:
        write_volume(confidence_target, confidence, volume.ijk_to_ras)
    write_labels(target.path, labels, volume, model.card.labels, provenance=provenance)
    return {"input": str(target.source.path), "output": str(target.path), **record}


def _judge(model: Sam3dModel, facts: VolumeFacts, source: Source, strict: bool) -> list[str]:
    """The volume's misfits, told in a warning. Raises InputError if there are any and they are not accepted."""
    if not strict:
        return find_and_warn(model.card, facts, repr(str(source.path)))
    if misfits := find_misfits(model.card, facts):
        raise InputError(
            f"{str(source.path)!r} does not suit the model {model.card.name!r}: {' '.join(misfits)} To segment it all "
            "the same, leave out --strict."
        )
    return []
