"""The folder MODEL.training beside MODEL.sam3d: what a training keeps to go on, and what is worth reading afterwards.

It has `run.json` (settings, split, fingerprint of the data, history), `report.html`, the best and the last weights as
models, logs for TensorBoard, and, until the training has ended, its checkpoint and prepared cases. What a training
before has left there is in MODEL.training.old until the one that replaces it has made its model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import InputError
from ..base.files import check_new_file, write_json
from ..base.jsonable import to_json
from ..model_store import SUFFIX

if TYPE_CHECKING:  # torch is not needed where another computer trains
    from .plan import Plan

logger = logging.getLogger(__name__)

_MAY_CHANGE = ("minutes", "epochs", "augmented_copies")  # when a training goes on; the last with the space for them


@dataclass(frozen=True)
class Options:
    """How a training is run, beside its settings."""

    cases: int | None = None  # use at most so many training cases
    sam_checkpoint: Path | None = None
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False


class RunFolder:
    """Paths, and what may be done with what is there."""

    def __init__(self, model: Path) -> None:
        """Raises InputError unless `model` can name a model's file."""
        if model.suffix != SUFFIX:
            raise InputError(f"model {str(model)!r} has an unknown ending; use {SUFFIX}.")
        self.model = model
        self.path = path = model.with_suffix(".training")
        self.old = model.with_suffix(".training.old")
        self.record = path / "run.json"
        self.report = path / "report.html"
        self.prepared = path / "prepared"
        self.views = path / "views"
        self.logs = path / "logs"
        self.coarse = path / "coarse"  # of a training that looks for places first: their own, and what it is trained on

    def of_fold(self, number: int) -> Path:
        return self.path / f"fold-{number + 1}"

    def checkpoint(self, number: int) -> Path:
        return self.of_fold(number) / "checkpoint.pt"

    def check(self, options: Options) -> None:
        """Raises InputError unless the model may be written, and there is a stopped training just where one goes on."""
        there = self.record.is_file()
        stopped = there and "result" not in self._read_record()
        if options.resume and not stopped:
            raise InputError(f"there is no stopped training in {str(self.path)!r}; start without --resume.")
        if stopped and not options.resume and not options.overwrite:
            raise InputError(
                f"{str(self.path)!r} holds a stopped training; continue it with --resume, or start again with "
                "--overwrite."
            )
        if there and not stopped and not options.overwrite:
            raise InputError(
                f"{str(self.path)!r} holds a finished training; move it along with its model, give another output, or "
                "replace it with --overwrite."
            )
        if self.path.exists() and not there and any(self.path.iterdir()):
            raise InputError(
                f"folder {str(self.path)!r} does not belong to a training; move it, or give another output."
            )
        check_new_file(self.model, options.overwrite or options.resume)  # a training that goes on was allowed to before

    def begin(self, plan: Plan, encoder_sha256: str, resume: bool, first: bool) -> dict[str, Any]:
        """Make the folder and return the training's record; first: whether of several processes this one writes.

        What a training before has left there is set aside unless this one resumes it. Raises InputError if it is
        another one.
        """
        from .checkpoint import read_run

        record = make_record(plan, encoder_sha256)
        folds = range(len(plan.splits))
        if resume:
            _require_same(self._read_record(), record, self.path)
            for path in filter(Path.is_file, map(self.checkpoint, folds)):
                _require_same(read_run(path), record, path)
        if first:
            if not resume:
                self.set_aside()
            for folder in (self.path, self.prepared, self.views, *map(self.of_fold, folds)):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(self.record, record)
        return record

    def adopt(self, other: RunFolder) -> None:
        """Take over a finished training from elsewhere on this disk, in place of one before."""
        self.set_aside()
        self.path.mkdir(exist_ok=True)
        for part in _parts(other.path):
            part.rename(self.path / part.name)
        os.replace(other.model, self.model)
        self.end()

    def end(self) -> None:
        """Remove what only a training that goes on needs, and what was set aside for this one."""
        for folder in (self.prepared, self.views, self.coarse):
            _remove(folder)
        for checkpoint in self.path.glob("fold-*/checkpoint.pt"):
            _remove(checkpoint)
        _remove_training(self.old)

    def set_aside(self) -> None:
        """What a training before has left here.

        Of two trainings that were replaced in turn, the second without a model, the first is kept.
        """
        if self.old.exists():
            _remove_training(self.path)
        elif self.record.exists():
            self.old.mkdir()
            for part in _parts(self.path):
                part.rename(self.old / part.name)

    def _read_record(self) -> dict[str, Any]:
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{str(self.record)!r} is damaged ({error}); start again with --overwrite.") from error


def _parts(folder: Path) -> list[Path]:
    """What a training has written, and nothing else; its record last, without which it is none."""
    named = (folder / name for name in ("prepared", "views", "coarse", "logs", "report.html", "run.json"))
    return [*folder.glob("fold-*"), *filter(Path.exists, named)]


def _remove_training(folder: Path) -> None:
    """The folder stays if there is more in it."""
    for part in _parts(folder):
        _remove(part)
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    if path.exists():
        logger.warning("%r could not be removed, perhaps because a program has it open; remove it yourself.", str(path))


def make_record(plan: Plan, encoder_sha256: str) -> dict[str, Any]:
    """What decides the result of a training, as JSON: settings, labels, encoder, decoder, split, fingerprint."""
    record = {
        "settings": to_json(plan.config),
        "labels": [to_json(label) for label in plan.labels],
        "encoder": {"name": plan.config.encoder, "sha256": encoder_sha256, "image_size": plan.image_size},
        "decoder": to_json(plan.card.decoder),
        "splits": [to_json(split) for split in plan.splits],
        "fingerprint": plan.fingerprint,
        "painted": {
            case.files.name: case.painted.describe(case.ijk_to_ras) for case in plan.facts if case.painted is not None
        },
    }
    return json.loads(json.dumps(record))  # as it will be read again


def _require_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raises InputError unless both records, the first of which is of `path`, are of one training."""
    settings = [
        key
        for key in sorted(set(before["settings"]) | set(now["settings"]))
        if before["settings"].get(key) != now["settings"].get(key) and key not in _MAY_CHANGE
    ]
    parts = []
    if settings:
        parts.append(f"other values of {', '.join(settings)}")
    if changes := describe_difference(before["fingerprint"], now["fingerprint"]):
        parts.append(f"other data ({changes})")
    for key, name in (("labels", "labels"), ("encoder", "encoder"), ("decoder", "decoder"), ("splits", "cases")):
        if before[key] != now[key]:
            parts.append(f"other {name}")
    if parts:
        raise InputError(
            f"{str(path)!r} was made with {', '.join(parts)}; use the same, or start again with --overwrite."
        )


def describe_difference(before: dict[str, str], now: dict[str, str]) -> str:
    """ "" if two fingerprints are alike, else which cases were added, removed or changed."""
    parts = [
        ("added", sorted(set(now) - set(before))),
        ("removed", sorted(set(before) - set(now))),
        ("changed", sorted(name for name in set(before) & set(now) if before[name] != now[name])),
    ]
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)
