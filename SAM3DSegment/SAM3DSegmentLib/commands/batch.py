"""Segment files: one volume to one file, or many to a folder; with a record of how each result was made."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..base.claims import claimed, owner_of, remove_dead_claims
from ..base.errors import Cancelled, InputError
from ..base.files import one_line
from ..base.watch import UNWATCHED, Watch
from ..formats.frames_writing import write_frames
from ..formats.label_maps import Provenance, check_fits, write_delivered
from ..formats.volumes import Volume, check_axes, write_volume
from ..model_store import Described
from ..suitability import VolumeFacts, find_and_warn, find_channel_misfits
from .channels import check_channels, join_channels
from .frames import FrameChoice, share_of
from .parts import Which
from .report import Report, Summary
from .sources import EVERY, Outputs, Source, Target, find_targets
from .table import Table, rows_of_record
from .tree import describe_derivatives, is_bids

if TYPE_CHECKING:  # torch takes seconds to load, and is not needed where another computer computes
    from ..inference import Segmenter

logger = logging.getLogger(__name__)

WAIT_S = 0.5  # between two looks at what others have in hand


@dataclass(frozen=True)
class Request:
    """What is segmented, and where the results go.

    series_uid chooses a series of the one DICOM folder given; also_read: other files that are read, such as the model,
    which no output may replace. strict: a volume that does not suit the model fails. which: of a folder's volumes.
    frames: of a 4-D volume.
    channels: by name, of the one volume given, the channels besides it; resample: these to the grid of the first.
    """

    inputs: tuple[Path, ...]
    outputs: Outputs
    series_uid: str | None = None
    also_read: tuple[Path, ...] = ()
    strict: bool = False
    which: Which = EVERY
    frames: FrameChoice | None = None
    channels: Mapping[str, Path] = field(default_factory=dict)
    resample: bool = False


Note = Callable[[list[dict[str, Any]]], None]  # takes the records of a mask just before it appears


@runtime_checkable
class Elsewhere(Protocol):
    """Another computer, on which the volumes are segmented."""

    def open(self) -> object:
        """Once or more, before the first volume. Raises InputError if no volume can be segmented there."""
        ...

    def segment(self, target: Target, outputs: Outputs, note: Note) -> None:
        """One volume, or the frames of one, into its files."""
        ...


def segment_files(
    request: Request,
    model: Described,
    where: Callable[[], Segmenter] | Elsewhere,
    watch: Watch = UNWATCHED,
) -> Summary:
    """Segment all inputs. One volume that fails raises; among many it is noted and the next one is taken.

    where: loads what segments on this computer, or is another one; used only if there is something to do.

    An existing output is an error for one volume and skipped among many, unless `outputs.overwrite`. The report is
    written after each volume. Of several processes on one folder, each volume is done by one: one that another process
    has in hand is taken last, and waited for, so that at the end every volume is done or has failed.
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
        request.frames,
    )
    if targets.is_folder:
        outputs.masks.mkdir(parents=True, exist_ok=True)
    if request.which.recursive and any(is_bids(target.source.relative) for target in targets.each):
        describe_derivatives(outputs.masks, model.card, model.sha256)
    table = Table(outputs.table) if outputs.table else None
    run = _Run(
        request,
        model,
        where if isinstance(where, Elsewhere) else lru_cache(where),
        watch,
        Report(outputs.report, targets.is_folder, model.card.labels),
        table,
    )
    run.summary.left_out.update({str(path): why for path, why in targets.left_out.items()})
    todo = [target for target in targets.each if not run.skips(target)]
    if not todo:
        run.write_report()
    try:
        if targets.is_folder:
            _share(todo, run)
            run.complete_table(targets.each)
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
    model: Described
    where: Callable[[], Segmenter] | Elsewhere
    watch: Watch
    report: Report
    table: Table | None
    summary: Summary = field(default_factory=Summary)

    def skips(self, target: Target) -> bool:
        """Whether the mask is there and stays; that is noted."""
        if self.request.outputs.overwrite or not target.is_done:
            return False
        self.summary.skipped.append(target.source.title)
        return True

    def segment_one_of_many(self, target: Target) -> None:
        """As `segment`, but what fails is noted."""
        name = target.source.title
        (self.where.open if isinstance(self.where, Elsewhere) else self.where)()  # if that fails, all would
        try:
            self.segment(target)
        except Cancelled:
            raise
        except Exception as error:
            self.summary.records = [r for r in self.summary.records if r["output"] != str(target.path)]
            self._note_failure(name, error)

    def _note_failure(self, name: str, error: Exception) -> None:
        self.summary.failed[name] = one_line(error, name)
        logger.error("%s", self.summary.failed[name])
        logger.debug("%s failed here:", name, exc_info=error)
        self.write_report()

    def segment(self, target: Target) -> None:
        """One volume, or the frames of one, into one file, its confidence into another if asked.

        It is noted before the mask appears: a process that is killed between the two leaves a record that the next run
        replaces, and never a mask of which nothing is known.
        """
        target.check()
        check_channels(target.source, self.model.card)
        if isinstance(self.where, Elsewhere):
            self.where.segment(target, self.request.outputs, lambda records: self._note(target, records))
            return
        confidence_target, card = self.request.outputs.confidence, self.model.card
        labels: list[np.ndarray] = []
        confidence: list[np.ndarray] = []
        records: list[dict[str, Any]] = []
        for number, source in enumerate(target.sources):
            self.watch.check()
            volume = None  # released before the next is read
            volume = source.read(self.request.series_uid, self.request.resample)
            watch = share_of(self.watch, number, len(target.sources))
            found = self._compute(volume, source, target, watch, self.where)
            if labels and labels[0].shape != found[0].shape:
                raise InputError(f"{str(source.path)!r} was changed while it was read; segment it again.")
            labels.append(found[0])
            confidence += [found[1]] if confidence_target is not None else []
            records.append(found[2])
        assert volume is not None

        def note() -> None:
            self._note(target, records)

        if target.frames:
            times = tuple(volume.times[number] for number in target.frames if volume.times)
            if confidence_target is not None:
                write_frames(confidence_target, np.stack(confidence), volume.ijk_to_ras, times, is_label_map=False)
            write_frames(target.path, np.stack(labels), volume.ijk_to_ras, times, when_whole=note)
        else:
            if confidence_target is not None:
                write_volume(confidence_target, confidence[0], volume.ijk_to_ras)
            provenance = Provenance(card.name, self.model.sha256)
            write_delivered(target.path, labels[0], volume, card.labels, provenance=provenance, when_whole=note)
        seconds = sum(record["seconds"] for record in records)
        logger.info("%s -> %s in %.1f s", target.source.title, target.path, seconds)

    def _note(self, target: Target, records: Sequence[dict[str, Any]]) -> None:
        """Into report and table: one record, or one of each frame."""
        noted = []
        for source, record in zip(target.sources, records, strict=True):
            of_frame = {} if source.frame is None else {"frame": source.frame}
            named = {"input": str(source.path), **_channel_files(source), "output": str(target.path), **of_frame}
            noted.append(named | {key: value for key, value in record.items() if key not in named})
        self.summary.records += noted
        self.write_report()
        if self.table is not None:
            rows = [row for record in noted for row in rows_of_record(target.source.case, record)]
            self.table.add(rows, self.watch.check)

    def _compute(
        self, volume: Volume, source: Source, target: Target, watch: Watch, load_segmenter: Callable[[], Segmenter]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Labels, confidence and record of one volume; what its mask's file cannot hold is told before the work."""
        from ..results import segment_array

        check_fits(target.path, volume, self.model.card.labels, Provenance(self.model.card.name, self.model.sha256))
        if self.request.outputs.confidence is not None:
            check_axes(self.request.outputs.confidence, volume.ijk_to_ras)
        modalities = (volume.modality, *[""] * len(volume.more))
        facts = [
            VolumeFacts.of_array(channel, volume.ijk_to_ras, modality)
            for channel, modality in zip(volume.channels, modalities)
        ]
        is_told = source == target.sources[0]  # frames are much alike
        misfits = _judge(self.model, facts, source, self.request.strict, is_told)
        return segment_array(load_segmenter(), self.model, volume.channels, volume.ijk_to_ras, watch, misfits)

    def complete_table(self, targets: Sequence[Target]) -> None:
        """Measure the masks that are in no row: those that were there before the table was asked for."""
        if self.table is None:
            return
        from .measuring import measure_result

        missing = self.table.without_rows((target.source.case, target.source.frame) for target in targets)
        for target in targets:
            self.watch.check()
            name = target.source.title
            if name in self.summary.failed or (target.source.case, target.source.frame) not in missing:
                continue
            try:
                volume = target.source.read(self.request.series_uid, self.request.resample)
                record = measure_result(target.path, volume, self.model.card.labels)
            except Exception as error:
                self._note_failure(name, error)
            else:
                record["frame"] = target.source.frame
                self.table.add(rows_of_record(target.source.case, record), self.watch.check)

    def write_report(self) -> None:
        self.report.write(self.summary, self.watch.check)


def _share(todo: Sequence[Target], run: _Run) -> None:
    """All of them, one by one, each while no other process has it."""
    waiting, in_a_row = deque(todo), 0  # so many were claimed by others
    while waiting:
        target = waiting.popleft()
        run.watch.check()
        target.path.parent.mkdir(parents=True, exist_ok=True)
        with claimed(target.path) as is_ours:
            if is_ours and not run.skips(target):
                run.segment_one_of_many(target)
        in_a_row = 0 if is_ours else in_a_row + 1
        if not is_ours:
            waiting.append(target)
        if in_a_row >= len(waiting) > 0:
            if in_a_row == len(waiting):
                who = owner_of(target.path) or "another process"
                logger.info("waiting for %s, which %s has in hand.", target.source.path, who)
            time.sleep(WAIT_S)


def _channel_files(source: Source) -> dict[str, dict[str, str]]:
    """For the report, of a volume of several channels."""
    return {"channels": {channel.name: str(channel.path) for channel in source.channels}} if source.channels else {}


def _judge(model: Described, facts: Sequence[VolumeFacts], source: Source, strict: bool, is_told: bool) -> list[str]:
    """The volume's misfits, if `is_told` in a warning. Raises InputError if there are any and they are not accepted."""
    if is_told and not strict:
        return find_and_warn(model.card, facts, repr(source.title))
    misfits = find_channel_misfits(model.card, facts)
    if misfits and strict:
        raise InputError(
            f"{source.title!r} does not suit the model {model.card.name!r}: {' '.join(misfits)} To segment it all "
            "the same, leave out --strict."
        )
    return misfits
