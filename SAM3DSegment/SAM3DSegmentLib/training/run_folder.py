"""The folder MODEL.training beside MODEL.sam3d: what a training keeps to go on, and what is worth reading afterwards.

It has `run.json` (settings, split, fingerprint of the data, history), `report.html`, the best and the last weights as
models, logs for TensorBoard, and, until the training has ended, its checkpoint and prepared cases.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.files import check_new_file, write_json
from ..model_store import SUFFIX
from .callbacks import read_checkpoint
from .record import require_same


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
        self.record = path / "run.json"
        self.report = path / "report.html"
        self.prepared = path / "prepared"
        self.views = path / "views"
        self.logs = path / "logs"

    def of_fold(self, number: int) -> Path:
        return self.path / f"fold-{number + 1}"

    def checkpoint(self, number: int) -> Path:
        return self.of_fold(number) / "checkpoint.pt"

    def check(self, options: Options) -> None:
        """Raises InputError unless the model may be written, and there is a stopped training just where one goes on."""
        stopped = self.record.is_file() and "result" not in self._read_record()
        if options.resume and not stopped:
            raise InputError(f"there is no stopped training in {str(self.path)!r}; start without --resume.")
        if stopped and not options.resume and not options.overwrite:
            raise InputError(
                f"{str(self.path)!r} holds a stopped training; go on with --resume, or start anew with --overwrite."
            )
        if self.path.exists() and not self.record.is_file() and any(self.path.iterdir()):
            raise InputError(
                f"folder {str(self.path)!r} does not belong to a training; move it, or give another output."
            )
        check_new_file(self.model, options.overwrite or options.resume)  # a training that goes on was allowed to before

    def check_record(self, record: dict[str, Any], folds: int) -> None:
        """Raises InputError unless what is there is of a training with this record."""
        require_same(self._read_record(), record, self.path)
        for path in filter(Path.is_file, map(self.checkpoint, range(folds))):
            require_same(json.loads(read_checkpoint(path)["run"]), record, path)

    def begin(self, record: dict[str, Any], folds: int, resume: bool) -> None:
        """Make the folder, without what a training before has left there unless this one goes on from it."""
        if not resume:
            self._clear()
        for folder in (self.path, self.prepared, self.views, *map(self.of_fold, range(folds))):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(self.record, record)

    def remove_work(self) -> None:
        """Remove what only a training that goes on needs."""
        for folder in (self.prepared, self.views):
            shutil.rmtree(folder, ignore_errors=True)
        for checkpoint in self.path.glob("fold-*/checkpoint.pt"):
            checkpoint.unlink(missing_ok=True)

    def _clear(self) -> None:
        """Remove what a training writes, and nothing else."""
        self.remove_work()
        for folder in (self.logs, *self.path.glob("fold-*")):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.report, self.record):
            file.unlink(missing_ok=True)

    def _read_record(self) -> dict[str, Any]:
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{str(self.record)!r} is damaged ({error}); start anew with --overwrite.") from error
