"""A command on another computer, `--remote HOST`: what its options name is found and checked here, computed there."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import InputError, require
from ..base.watch import Watch
from ..formats.channels import ChannelFile
from ..formats.content import check_exists, image_suffix, visible_files
from ..formats.images import read_header
from ..formats.label_maps import check_dicom_output, check_label_output
from ..model_store import ModelOnDisk, find_model
from ..remote.client import Connection, FailedThereError, describe
from ..remote.parcel import Parcel
from .inputs import Source
from .report import read_report
from .shared import DONE, FAILED, say, watched
from .sources import Outputs, Target
from .where import Note

logger = logging.getLogger(__name__)

_NOT_PASSED_ON = ("help", "remote", "detach")
_WRITTEN = ("output", "confidence", "report")  # options that name files to be written; all other paths are read
_KEPT = ("model", "sam_checkpoint", "encoder")  # there, by their hash, for the next time
_OF_A_FOLDER = ("recursive", "pattern", "part", "table", "page", "format", "overwrite")  # done here, volume by volume
_HEADERS = (".nhdr", ".mhd")  # whose voxels are in another file
_REPORT = Path("report.json")


def command_line(
    options: argparse.Namespace, changes: Mapping[str, Any], carry: Callable[[str, Path], str]
) -> list[str]:
    """The words of a command with all of its options, but for `changes`; None leaves one out.

    carry: gives each path the name that it has there, from the option's name and the path.
    """
    words, positional = [options.parser.prog.split()[-1]], []
    for action in options.parser._actions:
        value = changes.get(action.dest, getattr(options, action.dest, None))
        if action.dest in _NOT_PASSED_ON or value is None or value is False:
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        texts = [carry(action.dest, one) if isinstance(one, Path) else str(one) for one in values]
        if not action.option_strings:
            positional += texts
        elif value is True:
            words.append(action.option_strings[-1])
        else:
            words += [f"{action.option_strings[-1]}={text}" for text in texts]
    return [*words, *(["--", *positional] if positional else [])]


def carry_in(parcel: Parcel) -> Callable[[str, Path], str]:
    """Sends what is read: a file, one in two parts, or the files of a DICOM folder; receives what is written."""

    def carry(option: str, path: Path) -> str:
        if option in _WRITTEN:
            return parcel.receive(path)
        if path.is_dir():
            return parcel.send_folder(path, files_of(path), option in _KEPT)
        first, *others = files_of(path)
        return parcel.send(first, others, option in _KEPT)

    return carry


def files_of(path: Path) -> list[Path]:
    """The files that an input consists of. Raises InputError if it is not there."""
    if path.is_dir():
        return [file for file in visible_files(path) if file.is_file()]
    check_exists(path)
    return [path, read_header(path).data] if image_suffix(path) in _HEADERS else [path]


class SegmentingElsewhere:
    """The `batch.Elsewhere` of the command `segment`: each volume on its own, over one connection.

    One that was lost is opened anew for the next volume of a folder.
    """

    def __init__(self, options: argparse.Namespace, model: ModelOnDisk, watch: Watch) -> None:
        self._options = options
        self._model = model
        self._watch = watch
        self._connection: Connection | None = None

    def open(self) -> Connection:
        if self._connection is None or not self._connection.is_open:
            self.close()
            self._connection = connect(self._options.remote, self._watch)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def segment(self, target: Target, outputs: Outputs, note: Note) -> None:
        parcel = Parcel()
        carry = carry_in(parcel)
        first, others = _inputs_of(target.source)
        changes = dict.fromkeys(_OF_A_FOLDER) | {
            "input": [_send_channel(first, parcel)],
            "output": target.path,
            "report": _REPORT,
            "model": self._model.path,
            "channel": [f"{channel.name}={_send_channel(channel, parcel)}" for channel in others],
            "series": None if others else self._options.series,
            "frames": _frames_of(target),
            "progress": "json",
        }
        words = command_line(self._options, changes, carry)
        try:
            self._segment(words, parcel, target, outputs, note)
        except FailedThereError:
            raise
        except BaseException:
            self.close()  # of which nobody knows what would come next
            raise

    def _segment(self, words: list[str], parcel: Parcel, target: Target, outputs: Outputs, note: Note) -> None:
        with self.open().results(words, parcel, shown_on(self._watch), target.path) as folder:
            report = read_report(folder / parcel.results[_REPORT])
            if report is None or len(report.records) != len(target.sources):
                raise InputError(f"{self._options.remote!r} sent no report; update SAM3DSegment there.")
            if outputs.confidence is not None:
                os.replace(folder / parcel.results[outputs.confidence], outputs.confidence)
            note(report.records, folder / parcel.results[target.path])
            os.replace(folder / parcel.results[target.path], target.path)


def _inputs_of(source: Source) -> tuple[ChannelFile, Sequence[ChannelFile]]:
    """The input of the command there, and what it gets by --channel."""
    own = ChannelFile("", source.path)
    places = [channel.place for channel in source.channels if channel.place is not None]
    require(
        places in ([], list(range((source.header or read_header(source.path)).frames if places else 0))),
        f"{str(source.path)!r} has channels in another order than the model, or more, which --remote does not take; "
        "save those of the model as files of their own.",
    )
    first, *others = (own,) if places else source.channels or (own,)
    return first, others


def _send_channel(channel: ChannelFile, parcel: Parcel) -> str:
    """Its name there; of a DICOM folder with several series only the one."""
    if channel.series_uid is None:
        return carry_in(parcel)("channel", channel.path)
    from ..formats.dicom_studies import series_of  # pydicom is loaded where there is DICOM

    files = [path for series in series_of(channel.path) if series.uid == channel.series_uid for path in series.files]
    return parcel.send_folder(channel.path, files)


def _frames_of(target: Target) -> str | None:
    """As the option takes them; they follow each other."""
    if target.frames:
        return f"{target.frames[0]}:{target.frames[-1] + 1}"
    return None if target.source.frame is None else str(target.source.frame)


def complete_elsewhere(options: argparse.Namespace) -> int:
    """The command `complete`."""
    model = find_model(options.model) if options.model else None
    read = [options.image, options.segmentation, *(path for path in (model, options.sam_checkpoint) if path)]
    check_label_output(options.output, options.overwrite, read)
    check_dicom_output(options.output, is_series=False)
    parcel = Parcel()
    changes = {"model": model, "overwrite": None, "progress": "json"}
    words = command_line(options, changes, carry_in(parcel))
    with (
        watched(options.progress) as watch,
        connect(options.remote, watch) as connection,
        connection.results(words, parcel, shown_on(watch), options.output) as folder,
    ):
        os.replace(folder / parcel.results[options.output], options.output)
    return DONE


def doctor_elsewhere(options: argparse.Namespace) -> int:
    """The command `doctor`, of the connection and of the other computer."""
    parcel, lines = Parcel(), list[str]()
    model = find_model(options.model) if options.model else None
    words = command_line(options, {"model": model, "json": True}, carry_in(parcel))
    with watched("none") as watch, connect(options.remote, watch) as connection:
        connection.run(words, parcel, lines.append)
    examination = json.loads(lines[-1])
    examination["findings"].insert(0, [options.remote, describe(connection.hello)])
    if options.json:
        say(json.dumps(examination))
        return DONE
    for name, finding in examination["findings"]:
        say(f"{name:<18} {finding}")
    for problem in examination["problems"]:
        logger.error("on %r: %s", options.remote, problem)
    return FAILED if examination["problems"] else DONE


def connect(host: str, watch: Watch) -> Connection:
    connection = Connection(host, watch)
    logger.info("%s: %s.", host, describe(connection.hello))
    return connection


def shown_on(watch: Watch) -> Callable[[str], None]:
    """Takes the lines of `--progress json`."""

    def show(line: str) -> None:
        try:
            value = json.loads(line)
            if "event" in value:
                watch.event(value.pop("event"), **value)
            else:
                watch.progress(value["stage"], value["done"], value["total"])
        except (ValueError, KeyError, TypeError):
            logger.info("%s", line)  # printed by a library

    return show
