"""What the user wants to train, and what to do with a model or a stopped training of the same name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ...base.folders import models_folder
from ...model_store import SUFFIX, bundled_folder
from .. import preferences
from .dialogs import ask


@dataclass(frozen=True)
class TrainingRequest:
    """A training to be run. encoder, device: as the command line takes them."""

    name: str
    cases: Path
    encoder: str
    minutes: float
    device: str

    @property
    def model(self) -> Path:
        return _modelPath(self.name)

    def checkArguments(self) -> list[str]:
        """Of the command line, to report what the training will do."""
        return [*self._settings(), "--check", "--progress", "json"]

    def trainingArguments(self, whatAboutFormer: str) -> list[str]:
        """Of the command line; whatAboutFormer as `askAboutFormer` returns it."""
        former = [whatAboutFormer] if whatAboutFormer else []
        arguments = [*self._settings(), "-o", str(self.model), "--progress", "json", *former]
        if whatAboutFormer == "--resume":  # where it was begun
            return arguments + preferences.remoteOption(_begunOn(self.model))
        host = preferences.remote()
        return [*arguments, *preferences.remoteOption(host), *(["--detach"] if host else [])]

    def _settings(self) -> list[str]:
        checkpoint = preferences.samCheckpoint(self.encoder)
        arguments = ["train", "--data", str(self.cases), "--encoder", self.encoder, "--minutes", str(self.minutes)]
        return [*arguments, "--device", self.device, *(["--sam-checkpoint", checkpoint] if checkpoint else [])]


def whyUnusableName(name: str) -> str:
    """Why this cannot be the name of a model; empty if it can."""
    if not name:
        return _("Give the model a name first.")
    if not re.fullmatch(r"\w[\w .-]*", name) or name.endswith("."):
        return _("A model's name can have only letters, digits, blanks, - and _; change it.")
    if (bundled_folder() / f"{name}{SUFFIX}").exists():
        return _("{name} is a bundled model; choose another name.").format(name=name)
    return ""


def askAboutFormer(name: str) -> str | None:
    """The option for a model or a stopped training of this name: "--resume", "--overwrite", or "" if there is none.

    None if the user wants nothing to be done.
    """
    path = _modelPath(name)
    if host := _begunOn(path):
        question = _("A training of {name} was begun on {host}. Fetch it?").format(name=name, host=host)
        if slicer.util.confirmYesNoDisplay(question, _("Go on")):
            return "--resume"
        question = _("Start {name} anew? The training on {host} is lost.").format(name=name, host=host)
    elif hasStoppedTraining(path):
        question = _("A training of {name} was stopped before its end. Go on with it?").format(name=name)
        if slicer.util.confirmYesNoDisplay(question, _("Go on")):
            return "--resume"
        question = _("Start {name} anew? What the stopped training has reached is lost.").format(name=name)
    elif path.exists():
        question = _("There is a model {name} already. Replace it?").format(name=name)
    elif _recordOf(path).exists():  # its model was moved elsewhere
        question = _("There is a finished training of {name} already. Replace its report and weights?").format(
            name=name
        )
    else:
        return ""
    return "--overwrite" if ask(question, _("Replace")) else None


def hasStoppedTraining(model: Path) -> bool:
    """Whether there is a training beside the model's file that can be resumed.

    The training's own code knows this too, but imports torch, which the panel must not.
    """
    try:
        record = json.loads(_recordOf(model).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "result" not in record


def _begunOn(model: Path) -> str:
    """The other computer on which the model's training was begun, and whose connection was lost; empty if none."""
    try:
        return str(json.loads(model.with_suffix(".remote.json").read_text(encoding="utf-8"))["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _recordOf(model: Path) -> Path:
    """Of the training that makes the model."""
    return model.with_suffix(".training") / "run.json"


def _modelPath(name: str) -> Path:
    return models_folder() / f"{name}{SUFFIX}"
