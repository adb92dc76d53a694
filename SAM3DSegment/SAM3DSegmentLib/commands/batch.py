"""Segment files: one volume to one file, or many to a folder; with a record of how each result was made."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..base.claims import claimed, owner_of, remove_dead_claims
from ..base.errors import Cancelled, InputError
from ..base.files import one_line
from ..base.watch import UNWATCHED, Watch
from ..formats.label_maps import Provenance, check_fits, write_delivered
from ..formats.volumes import Volume, check_axes, write_volume
from ..inference import Segmenter
from ..model_file import Sam3dModel
from ..results import segment_array
from ..suitability import VolumeFacts, find_and_warn, find_channel_misfits
from .channels import check_channels, join_channels
from .measuring import Masks, measure_result, read_result
from .page import Page
from .parts import Which
from .planes import draw_planes
from .report import Report, Summary
from .sources import EVERY, Outputs, Source, Target, find_targets
from .table import Table, rows_of_record
from .tree import describe_derivatives, is_bids

logger = logging.getLogger(__name__)

WAIT_S = 0.5  # between two looks at what others have in hand


@dataclass(frozen=True)
class Request:
    """What is segmented, and where the results go.

    series_uid chooses a series of the one DICOM folder given; also_read: other files that are read, such as the model,
    which no output may replace. strict: a volume that does not suit the model fails. which: of a folder's volumes.
    channels: by name, of the one volume given, the channels besides it; resample: these to the grid of the first.
    """

    inputs: tuple[Path, ...]
    outputs: Outputs
    series_uid: str | None = None
    also_read: tuple[Path, ...] = ()
    strict: bool = False
    which: Which = EVERY
    channels: Mapping[str, Path] = field(default_factory=dict)
    resample: bool = False


def segment_files(
    request: Request, model: Sam3dModel, load_segmenter: Callable[[], Segmenter], watch: Watch = UNWATCHED
) -> Summary:
    """Segment all inputs. One volume that fails raises; among many it is noted and the next one is taken.

    An existing output is an error for one volume and skipped among many, unless `outputs.overwrite`. The segmenter is
    loaded only if there is something to do. The report is written after each volume. Of several processes on one
    folder, each volume is done by one: one that another process has in hand is taken last, and waited for, so that at
    the end every volume is done or has failed.
    """
    outputs = request.outputs
    targets = find_targets(
        request.inputs,
        outputs,
        request.series_uid,
        request.also_read,
        request.which,
        model.card.name,
        lambda sources: join_channels(sources, model.card, request.channels),
    )
    if targets.is_folder:
        outputs.masks.mkdir(parents=True, exist_ok=True)
    if request.which.recursive and any(is_bids(target.source.relative) for target in targets.each):
        describe_derivatives(outputs.masks, model.card, model.sha256)
    table = Table(outputs.table) if outputs.table else None
    page = Page(outputs.page) if outputs.page else None
    run = _Run(request, model, lru_cache(load_segmenter), watch, Report(outputs.report, targets.is_folder), table, page)
    run.summary.left_out.update({str(path): why for path, why in targets.left_out.items()})
    todo = [target for target in targets.each if not run.skips(target)]
    if not todo:
        run.write_report()
    try:
        if targets.is_folder:
            _share(todo, run)
            run.complete_measurements(targets.each)
            for folder in {target.path.parent for target in targets.each}:
                remove_dead_claims(folder)
        else:
            run.segment(todo[0])
    except Cancelled as error:
        done = len(run.summary.records)
        if not done:
            raise
        raise Cancelled(f"cancelled; {done} of {len(todo)} volumes were segmented.") from error
    return run.summary


@dataclass
class _Run:
    """Work on the volumes of one request, and what became of them."""

    request: Request
    model: Sam3dModel
    load_segmenter: Callable[[], Segmenter]
    watch: Watch
    report: Report
    table: Table | None
    page: Page | None
    summary: Summary = field(default_factory=Summary)

    def skips(self, target: Target) -> bool:
        """Whether the mask is there and stays; that is noted."""
        if self.request.outputs.overwrite or not target.is_done:
            return False
        self.summary.skipped.append(str(target.source.path))
        return True

    def segment_one_of_many(self, target: Target) -> None:
        """As `segment`, but what fails is noted."""
        self.load_segmenter()  # if that fails, no volume can be segmented
        try:
            self.segment(target)
        except Cancelled:
            raise
        except Exception as error:
            self.summary.records = [r for r in self.summary.records if r["output"] != str(target.path)]
            self._note_failure(target.source, error)

    def _note_failure(self, source: Source, error: Exception) -> None:
        name = str(source.path)
        self.summary.failed[name] = one_line(error, name)
        logger.error("%s", self.summary.failed[name])
        logger.debug("%s failed here:", name, exc_info=error)
        self.write_report()
        if self.page is not None:
            self.page.add_failure(source.case, self.summary.failed[name], source.path, self.watch.check)

    def segment(self, target: Target) -> None:
        """One volume into one file, its confidence into another if asked.

        It is noted before the mask appears: a process that is killed between the two leaves a record that the next run
        replaces, and never a mask of which nothing is known.
        """
        self.watch.check()
        source, confidence_target = target.source, self.request.outputs.confidence
        target.check()
        check_channels(source, self.model.card)
        volume = source.read(self.request.series_uid, self.request.resample)
        provenance = Provenance(self.model.card.name, self.model.sha256)
        check_fits(target.path, volume, self.model.card.labels, provenance)
        if confidence_target is not None:
            check_axes(confidence_target, volume.ijk_to_ras)
        modalities = (volume.modality, *[""] * len(volume.more))
        facts = [
            VolumeFacts.of_array(channel, volume.ijk_to_ras, modality)
            for channel, modality in zip(volume.channels, modalities)
        ]
        misfits = _judge(self.model, facts, source, self.request.strict)
        labels, confidence, record = segment_array(
            self.load_segmenter(), self.model, volume.channels, volume.ijk_to_ras, self.watch, misfits
        )
        if confidence_target is not None:
            write_volume(confidence_target, confidence, volume.ijk_to_ras)

        def note() -> None:
            self.summary.records.append(
                {"input": str(source.path), **_channel_files(source), "output": str(target.path), **record}
            )
            self.write_report()
            self._into_table(target, record)
            self._onto_page(target, record, volume, Masks.of_labels(labels, self.model.card.labels))

        write_delivered(target.path, labels, volume, self.model.card.labels, provenance=provenance, when_whole=note)
        logger.info("%s -> %s in %.1f s", source.path, target.path, record["seconds"])

    def complete_measurements(self, targets: Sequence[Target]) -> None:
        """Measure the masks that are not in the table or on the page: those that were there before it was asked for."""
        cases, labels = [target.source.case for target in targets], self.model.card.labels
        no_rows = self.table.without_rows(cases) if self.table is not None else set()
        no_picture = set()
        if self.page is not None:
            self.page.restore(self.watch.check)
            no_picture = self.page.without_picture(cases)
        for target in targets:
            self.watch.check()
            source = target.source
            if str(source.path) in self.summary.failed or source.case not in no_rows | no_picture:
                continue
            try:
                volume = source.read(None)
                masks = read_result(target.path, volume, labels)
                record = measure_result(masks, volume, labels)
            except Exception as error:
                self._note_failure(source, error)
                continue
            if source.case in no_rows:
                self._into_table(target, record)
            if source.case in no_picture:
                self._onto_page(target, record, volume, masks)

    def _into_table(self, target: Target, record: dict[str, Any]) -> None:
        if self.table is not None:
            self.table.add(rows_of_record(target.source.case, record), self.watch.check)

    def _onto_page(self, target: Target, record: dict[str, Any], volume: Volume, masks: Masks) -> None:
        if self.page is not None:
            picture = draw_planes(volume.array_kji, volume.ijk_to_ras, masks, self.model.card.intensities[0])
            self.page.add(target.source.case, record, masks, picture, target.path, self.watch.check)

    def tell_done(self, done: int, total: int) -> None:
        self.watch.event("volumes", done=done, total=total, failed=len(self.summary.failed))

    def write_report(self) -> None:
        self.report.write(self.summary, self.watch.check)


def _share(todo: Sequence[Target], run: _Run) -> None:
    """All of them, one by one, each while no other process has it. How many are done is told as the event `volumes`."""
    waiting, in_a_row = deque(todo), 0  # so many were claimed by others
    run.tell_done(0, len(todo))
    while waiting:
        target = waiting.popleft()
        run.watch.check()
        target.path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(target.path) as is_ours:
            if is_ours and not run.skips(target):
                run.segment_one_of_many(target)
        in_a_row = 0 if is_ours else in_a_row + 1
        if is_ours:
            run.tell_done(len(todo) - len(waiting), len(todo))
        else:
            waiting.append(target)
        if in_a_row >= len(waiting) > 0:
            if in_a_row == len(waiting):
                who = owner_of(target.path) or "another process"
                logger.info("waiting for %s, which %s has in hand.", target.source.path, who)
            time.sleep(WAIT_S)


def _channel_files(source: Source) -> dict[str, dict[str, str]]:
    """For the report, of a volume of several channels."""
    return {"channels": {channel.name: str(channel.path) for channel in source.channels}} if source.channels else {}


def _judge(model: Sam3dModel, facts: Sequence[VolumeFacts], source: Source, strict: bool) -> list[str]:
    """The volume's misfits, told in a warning. Raises InputError if there are any and they are not accepted."""
    if not strict:
        return find_and_warn(model.card, facts, repr(str(source.path)))
    if misfits := find_channel_misfits(model.card, facts):
        raise InputError(
            f"{str(source.path)!r} does not suit the model {model.card.name!r}: {' '.join(misfits)} To segment it all "
            "the same, leave out --strict."
        )
    return []
