"""`sam3dsegment train --remote HOST`: cases go there, each file once, and the model and its report come back."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..base.errors import Cancelled, InputError
from ..base.files import write_json
from ..base.stop import should_finish
from ..base.watch import Watch
from ..model_store import find_model
from ..remote.client import Connection, FailedThereError
from ..remote.parcel import Parcel
from ..sam.encoders import COMPACT_ENCODER, ENCODERS
from ..training.dataset import find_dataset
from ..training.description import DESCRIPTION
from ..training.run_folder import Options, RunFolder
from .elsewhere import carry_in, command_line, connect, files_of, shown_on
from .shared import DONE, read_json, say, watched

logger = logging.getLogger(__name__)

_MODELS = ("encoder", "start_from")  # settings that may name a model


def train_elsewhere(options: argparse.Namespace) -> int:
    """The command `train`. Detached, it is noted beside the model where the training is."""
    if options.check:
        return _check(options)
    if options.output is None:
        raise InputError("no output file is given; add -o MODEL.sam3d, or --check to only check the data.")
    folder, note = RunFolder(options.output), Note(options.output.with_suffix(".remote.json"))
    if options.resume:
        return _fetch(options, folder, note)
    if note.path.exists() and not options.overwrite:
        raise InputError(
            f"a training of {str(options.output)!r} was begun on {note.read().host!r}; fetch it with --resume, or "
            "start again with --overwrite."
        )
    folder.check(Options(overwrite=options.overwrite))
    with _packed(options) as (words, parcel), _connected(options) as (connection, watch):
        shown = shown_on(watch)
        if not options.detach:
            with connection.results(words, parcel, shown, options.output) as made:
                folder.adopt(_in(made, parcel))
            return DONE
        if note.path.exists():
            note.forget(connection)
        name = connection.begin_training(words, parcel)
        note.write(options.remote, name, parcel)
        return _adopt(connection, name, parcel, folder, note, shown, is_new=True)


def _fetch(options: argparse.Namespace, folder: RunFolder, note: Note) -> int:
    if not note.path.exists():
        raise InputError(
            f"no training of {str(options.output)!r} was begun on {options.remote!r} with --detach; start it without "
            "--resume."
        )
    begun = note.read()
    if begun.host != options.remote:
        raise InputError(
            f"the training of {str(options.output)!r} was begun on {begun.host!r}, not on {options.remote!r}; give "
            "that one."
        )
    with _connected(options) as (connection, watch):
        return _adopt(connection, begun.name, begun.parcel, folder, note, shown_on(watch), is_new=False)


def _adopt(
    connection: Connection,
    name: str,
    parcel: Parcel,
    folder: RunFolder,
    note: Note,
    shown: Callable[[str], None],
    is_new: bool,
) -> int:
    try:
        with connection.training(name, parcel, shown, folder.model, is_new) as made:
            folder.adopt(_in(made, parcel))
    except (Cancelled, FailedThereError):  # and so it is not there any more
        note.path.unlink(missing_ok=True)
        raise
    note.path.unlink(missing_ok=True)
    return DONE


def _in(made: Path, parcel: Parcel) -> RunFolder:
    """The training in what has come back, of which the model is the one result."""
    (name,) = parcel.results.values()
    return RunFolder(made / name)


@dataclass(frozen=True)
class Begun:
    """A detached training: where, and by which names it is found."""

    host: str
    name: str
    parcel: Parcel


@dataclass(frozen=True)
class Note:
    """The file beside a model that says where it is being trained."""

    path: Path

    def write(self, host: str, name: str, parcel: Parcel) -> None:
        write_json(self.path, {"host": host, "training": name, "parcel": parcel.to_json()})

    def read(self) -> Begun:
        try:
            noted = read_json(self.path)
            return Begun(str(noted["host"]), str(noted["training"]), Parcel.from_json(noted["parcel"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{str(self.path)!r} is damaged; remove it, and start again with --overwrite.") from error

    def forget(self, connection: Connection) -> None:
        """End the training, which another one replaces."""
        begun = self.read()
        if begun.host != connection.host:
            raise InputError(
                f"a training of this model was begun on {begun.host!r}; fetch or cancel it there, or remove "
                f"{str(self.path)!r}."
            )
        try:
            connection.forget(begun.name)
        except InputError as error:
            logger.warning("%s", error)
        self.path.unlink(missing_ok=True)


def _check(options: argparse.Namespace) -> int:
    lines: list[str] = []
    with _packed(options) as (words, parcel), _connected(options) as (connection, watch):
        try:
            connection.run(words, parcel, shown_on(watch) if options.progress == "json" else lines.append)
        finally:
            if lines:
                say("\n".join(lines))
    return DONE


@contextmanager
def _connected(options: argparse.Namespace) -> Iterator[tuple[Connection, Watch]]:
    with watched(options.progress) as watch:
        watch = replace(watch, finishing=should_finish)
        with connect(options.remote, watch) as connection:
            yield connection, watch


@contextmanager
def _packed(options: argparse.Namespace) -> Iterator[tuple[list[str], Parcel]]:
    """The command's words there, and what goes with them."""
    parcel = Parcel()
    carry = carry_in(parcel)
    with ExitStack() as stack:
        changes: dict[str, Any] = {"data": [_pack_cases(options.data, parcel)], "overwrite": None}
        changes["progress"] = "none" if options.check and options.progress != "json" else "json"
        changes["encoder"] = _model_or_name(options.encoder)
        if options.config is not None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            changes["config"] = _pack_settings(options.config, folder, carry)
        yield command_line(options, changes, carry), parcel


def _pack_cases(data: Path, parcel: Parcel) -> str:
    """The cases of a folder, without what lies beside them; each file is kept there by its hash."""
    dataset = find_dataset(data)
    for notice in dataset.notices:
        logger.info("%s", notice)
    described = [path for path in (data / DESCRIPTION,) if path.is_file()]
    of_cases = [file for case in dataset.cases for path in case.files for file in files_of(path)]
    return parcel.send_folder(data, dict.fromkeys([*described, *of_cases]), keep=True)


def _pack_settings(config: Path, folder: Path, carry: Callable[[str, Path], str]) -> Path:
    """A copy of the settings in which models have their names there."""
    settings = read_json(config)
    if not isinstance(settings, dict):
        return config  # which is told there
    for key in _MODELS:
        model = _model_or_name(settings.get(key))
        if isinstance(model, Path):
            settings[key] = carry("model", model)
    copy = folder / config.name
    copy.write_text(json.dumps(settings), encoding="utf-8")
    return copy


def _model_or_name(value: Any) -> Any:
    """The file of a model; the names of encoders mean the same everywhere."""
    if not isinstance(value, str) or value in ("", "auto", COMPACT_ENCODER, *ENCODERS):
        return value
    return find_model(value)
