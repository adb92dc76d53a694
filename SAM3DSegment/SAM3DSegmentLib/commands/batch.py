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

import numpy as np

from ..base.claims import claimed, owner_of, remove_dead_claims
from ..base.errors import Cancelled, InputError
from ..base.files import one_line
from ..base.watch import UNWATCHED, Watch
from ..formats.frames_writing import write_frames
from ..formats.label_maps import check_fits, write_delivered
from ..formats.segments import Provenance
from ..formats.volumes import Volume, check_axes, write_volume
from ..geometry import AUTO_REGION
from ..inference import Segmenter
from ..model_store import Described
from ..results import segment_array
from ..suitability import VolumeFacts, find_and_warn, find_channel_misfits
from .channels import check_channels, join_channels
from .frames import FrameChoice, Stack, share_of
from .measuring import Masks, measure_result, read_result
from .page import Page
from .parts import Which
from .planes import draw_planes
from .report import Report, Summary
from .sources import EVERY, Outputs, Source, Target, find_targets
from .table import Table, rows_of_record
from .tree import describe_derivatives, is_bids
from .where import Elsewhere

logger = logging.getLogger(__name__)

WAIT_S = 0.5  # between two looks at what others have in hand


@dataclass(frozen=True)
class Request:
    """What is segmented, and where the results go.

    series_uid chooses a series of the one DICOM folder given; also_read: other files that are read, such as the model,
    which no output may replace. strict: a volume that does not suit the model fails. which: of a folder's volumes.
    frames: of a 4-D volume.
    channels: by name, of the one volume given, the channels besides it; resample: these to the grid of the first.
    region: of each volume, as for `inference.segment_volume`.
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
    region: str = AUTO_REGION


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
        lambda sources: join_channels(sources, model.card, request.channels, request.series_uid),
        request.frames,
        len(model.card.inputs) > 1,
    )
    if targets.is_folder:
        outputs.masks.mkdir(parents=True, exist_ok=True)
    if request.which.recursive and any(is_bids(target.source.relative) for target in targets.each):
        describe_derivatives(outputs.masks, model.card, model.sha256)
    run = _Run(
        request,
        model,
        where if isinstance(where, Elsewhere) else lru_cache(where),
        watch,
        Report(outputs.report, targets.is_folder, model.card.labels),
        Table(outputs.table) if outputs.table else None,
        Page(outputs.page) if outputs.page else None,
    )
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
    model: Described
    where: Callable[[], Segmenter] | Elsewhere
    watch: Watch
    report: Report
    table: Table | None
    page: Page | None
    summary: Summary = field(default_factory=Summary)

    def skips(self, target: Target) -> bool:
        """Whether the mask is there and stays; that is noted."""
        if self.request.outputs.overwrite or not target.is_done:
            return False
        self.summary.skipped.append(target.source.title)
        return True

    def segment_one_of_many(self, target: Target) -> None:
        """As `segment`, but what fails is noted."""
        (self.where.open if isinstance(self.where, Elsewhere) else self.where)()  # if that fails, all would
        try:
            self.segment(target)
        except Cancelled:
            raise
        except Exception as error:
            self.summary.records = [r for r in self.summary.records if r["output"] != str(target.path)]
            self._note_failure(target.source, error)

    def _note_failure(self, source: Source, error: Exception) -> None:
        name = source.title
        self.summary.failed[name] = one_line(error, name)
        logger.error("%s", self.summary.failed[name])
        logger.debug("%s failed here:", name, exc_info=error)
        self.write_report()
        if self.page is not None:
            self.page.add_failure(source.name, self.summary.failed[name], source.path, self.watch.check)

    def segment(self, target: Target) -> None:
        """One volume, or the frames of one, into one file, its confidence into another if asked.

        It is noted before the mask appears: a process that is killed between the two leaves a record that the next run
        replaces, and never a mask of which nothing is known.
        """
        target.check()
        check_channels(target.source, self.model.card)
        if isinstance(self.where, Elsewhere):
            self.where.segment(target, self.request.outputs, lambda records, mask: self._receive(target, records, mask))
            return
        confidence_target, card = self.request.outputs.confidence, self.model.card
        labels, confidence = Stack(len(target.sources)), Stack(len(target.sources))
        records: list[dict[str, Any]] = []
        pictures: list[np.ndarray] = []
        for number, source in enumerate(target.sources):
            self.watch.check()
            volume = None  # released before the next is read
            volume = source.read(self.request.series_uid, self.request.resample)
            watch = share_of(self.watch, number, len(target.sources))
            found = self._compute(volume, source, target, watch, self.where)
            if not labels.put(number, found[0]):
                raise InputError(f"{str(source.path)!r} was changed while it was read; segment it again.")
            if confidence_target is not None:
                confidence.put(number, found[1])
            records.append(found[2])
            if self.page is not None:
                pictures.append(self._draw(volume, Masks.of_labels(found[0], card.labels)))
        assert volume is not None

        def note() -> None:
            self._note(target, records, pictures)

        if target.frames:
            times = tuple(volume.times[number] for number in target.frames if volume.times)
            if confidence_target is not None:
                write_frames(confidence_target, confidence.arrays, volume.ijk_to_ras, times, is_label_map=False)
            write_frames(target.path, labels.arrays, volume.ijk_to_ras, times, when_whole=note)
        else:
            if confidence_target is not None:
                write_volume(confidence_target, confidence.arrays[0], volume.ijk_to_ras)
            provenance = Provenance(card.name, self.model.sha256)
            write_delivered(target.path, labels.arrays[0], volume, card.labels, provenance=provenance, when_whole=note)
        seconds = sum(record["seconds"] for record in records)
        logger.info("%s -> %s in %.1f s", target.source.title, target.path, seconds)

    def _receive(self, target: Target, records: list[dict[str, Any]], mask: Path) -> None:
        """A result of another computer."""
        pictures = []
        for number, source in enumerate(target.sources if self.page is not None else ()):
            volume = source.read(self.request.series_uid, self.request.resample)
            masks = read_result(mask, volume, self.model.card.labels, number if target.frames else None)
            pictures.append(self._draw(volume, masks))
        self._note(target, records, pictures)

    def _note(self, target: Target, records: list[dict[str, Any]], pictures: list[np.ndarray]) -> None:
        """Into report, table and page; each is of one source of the target."""
        noted = []
        for source, record in zip(target.sources, records):
            of_frame = {} if source.frame is None else {"frame": source.frame}
            named = {"input": str(source.path), **_channel_files(source), "output": str(target.path), **of_frame}
            noted.append(named | {key: value for key, value in record.items() if key not in named})
        self.summary.records += noted
        self.write_report()
        if self.table is not None:
            rows = [row for record in noted for row in rows_of_record(target.source.case, record)]
            self.table.add(rows, self.watch.check)
        if self.page is not None:
            colors = {label.name: label.color for label in self.model.card.labels}
            for source, record, picture in zip(target.sources, noted, pictures):
                self.page.add(source.name, record, colors, picture, target.path, self.watch.check)

    def _compute(
        self, volume: Volume, source: Source, target: Target, watch: Watch, load_segmenter: Callable[[], Segmenter]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Labels, confidence and record of one volume; what its mask's file cannot hold is told before the work."""
        check_fits(target.path, volume, self.model.card.labels, Provenance(self.model.card.name, self.model.sha256))
        if self.request.outputs.confidence is not None:
            check_axes(self.request.outputs.confidence, volume.ijk_to_ras)
        region = self.request.region
        modalities = (volume.modality, *volume.more_modalities)
        titles = [channel.title for channel in source.channels] or [""]
        facts = [
            VolumeFacts.of_array(channel, volume.ijk_to_ras, modality, region, title)
            for channel, modality, title in zip(volume.channels, modalities, titles)
        ]
        is_told = source == target.sources[0]  # frames are much alike
        misfits = _judge(self.model, facts, source, self.request.strict, is_told)
        return segment_array(load_segmenter(), self.model, volume.channels, volume.ijk_to_ras, watch, misfits, region)

    def complete_measurements(self, targets: Sequence[Target]) -> None:
        """Measure the masks that are not in the table or on the page: those that were there before it was asked for."""
        sources, labels = [target.source for target in targets], self.model.card.labels
        no_rows = self.table.without_rows((s.case, s.frame) for s in sources) if self.table is not None else set()
        no_picture = set()
        if self.page is not None:
            self.page.restore(self.watch.check)
            no_picture = self.page.without_picture(source.name for source in sources)
        for target in targets:
            self.watch.check()
            source = target.source
            needs_rows, needs_picture = (source.case, source.frame) in no_rows, source.name in no_picture
            if source.title in self.summary.failed or not (needs_rows or needs_picture):
                continue
            try:
                volume = source.read(self.request.series_uid, self.request.resample)
                masks = read_result(target.path, volume, labels)
                record = {**measure_result(masks, volume, labels), "frame": source.frame}
                picture = self._draw(volume, masks) if needs_picture else None
            except Exception as error:
                self._note_failure(source, error)
                continue
            if needs_rows and self.table is not None:
                self.table.add(rows_of_record(source.case, record), self.watch.check)
            if picture is not None and self.page is not None:
                self.page.add(source.name, record, masks.colors, picture, target.path, self.watch.check)

    def _draw(self, volume: Volume, masks: Masks) -> np.ndarray:
        return draw_planes(volume.array_kji, volume.ijk_to_ras, masks, self.model.card.intensities[0])

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
                logger.info("waiting for %s, on which %s is at work.", target.source.path, who)
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
