"""The section "Train" of the panel: cases, a few settings, a training in a child process, its model."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from ...base.errors import Sam3dError
from ...base.folders import models_folder
from ...model_store import SUFFIX, bundled_folder, list_models, read_card
from .. import preferences as settings
from ..dependencies import Installer
from ..problems import explain
from ..scene.segmentations import referenceVolume
from ..worker import CommandProcess, progressReader
from .cases_box import CasesBox, caseName
from .protocols import Observe, Parameters, Ui
from .training_plot import History, TrainingPlot

logger = logging.getLogger(__name__)

SAM = "sam_vit_b"


@dataclass(frozen=True)
class TrainingRequest:
    """What is to be trained, and how; `again` is "", "--resume" or "--overwrite"."""

    name: str
    cases: Path
    encoder: str
    minutes: float
    device: str
    again: str

    @property
    def model(self) -> Path:
        return modelPath(self.name)

    def checkArguments(self) -> list[str]:
        """Of the command line, to say what the training will do."""
        checkpoint = settings.samCheckpoint()
        arguments = ["train", "--data", str(self.cases), "--encoder", self.encoder, "--minutes", str(self.minutes)]
        arguments += ["--device", self.device, *(["--sam-checkpoint", checkpoint] if checkpoint else [])]
        return [*arguments, "--check"]

    def arguments(self) -> list[str]:
        """Of the command line, to train."""
        again = [self.again] if self.again else []
        return [*self.checkArguments()[:-1], "-o", str(self.model), "--progress", "json", *again]


class TrainSection:
    """onModel(name) is called when there is a new model, onRunningChanged() when a training begins and has ended.

    whyBusy() says why there can be no training now, because of other work of the panel; empty if there can.
    """

    def __init__(
        self,
        ui: Ui,
        installer: Installer,
        addObserver: Observe,
        removeObserver: Observe,
        onModel: Callable[[str], None],
        onRunningChanged: Callable[[], None],
        whyBusy: Callable[[], str],
    ) -> None:
        self._ui = ui
        self._installer = installer
        self._onModel = onModel
        self._onRunningChanged = onRunningChanged
        self._whyBusy = whyBusy
        self._parameters: Parameters | None = None
        self._process: CommandProcess | None = None
        self._check: CommandProcess | None = None
        self._request: TrainingRequest | None = None
        self._stage = ""
        self._isFinishing = False
        self._report = ""
        self._history = History()
        self._plot = TrainingPlot()
        self._cases = CasesBox(ui, addObserver, removeObserver, self.update)
        ui.trainingProgressBar.visible = False
        ui.trainingReportButton.visible = False
        self.listEncoders()
        ui.encoderBox.connect("currentIndexChanged(int)", self._describeEncoder)
        ui.modelNameEdit.connect("textChanged(QString)", lambda _text: self.update())
        ui.checkCasesButton.connect("clicked(bool)", self._startCheck)
        ui.trainButton.connect("clicked(bool)", self._trainOrStop)
        ui.trainingReportButton.connect("clicked(bool)", self._openReport)
        ui.trainSection.connect("contentsCollapsed(bool)", lambda collapsed: None if collapsed else self.enter())

    @property
    def isRunning(self) -> bool:
        return self._process is not None

    def setParameters(self, parameters: Parameters | None) -> None:
        """A training goes on whatever happens to the scene."""
        self._parameters = parameters
        self.update()

    def enter(self) -> None:
        """Folders, models and segments may have changed; they are looked at while the section is open."""
        if not self._ui.trainSection.collapsed:
            self.listEncoders()
            self._cases.update()

    def cleanup(self) -> None:
        self._cases.cleanup()
        for process in (self._process, self._check):
            if process is not None:
                process.abandon()
        self._process = self._check = None

    def addResult(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode | None, segmentationNode: slicer.vtkMRMLSegmentationNode
    ) -> None:
        """Take a segmentation, which the user has corrected, among the cases, with the volume that it was drawn on."""
        volumeNode = referenceVolume(segmentationNode) or volumeNode
        if volumeNode is None or self.isRunning:  # a training reads its cases again and again
            problem = (
                _("Choose the volume of this segmentation first.")
                if volumeNode is None
                else _("A model is being trained; wait for it, or stop it.")
            )
            slicer.util.errorDisplay(problem, _("The case was not added"))
            return
        self._ui.trainSection.collapsed = False
        segmentIds = list(segmentationNode.GetSegmentation().GetSegmentIDs())
        self._cases.add(volumeNode, segmentationNode, segmentIds, caseName(volumeNode))

    def listEncoders(self) -> None:
        """SAM's encoder if its weights are here, then one model for each encoder that is carried in a model."""
        box, chosen, seen = self._ui.encoderBox, self._encoder(), set[str]()
        wasBlocked = box.blockSignals(True)
        box.clear()
        if settings.samWeights().is_file():
            box.addItem(_("SAM ViT-B"), SAM)
        for path in list_models():
            try:
                card = read_card(path)
            except Sam3dError:  # it is told where the model is chosen
                continue
            if card.encoder.in_model_file and card.encoder.sha256 not in seen:
                seen.add(card.encoder.sha256)
                box.addItem(_("Encoder of {name}").format(name=path.stem), str(path))
        box.currentIndex = max(0, box.findData(chosen))
        box.blockSignals(wasBlocked)
        self._describeEncoder()

    def update(self) -> None:
        """Show what can be done now."""
        button, isRunning = self._ui.trainButton, self.isRunning
        hindrance = "" if isRunning else self._hindrance()
        if not isRunning:
            button.text, toolTip = _("Train"), _("Train a model on these cases; Slicer can be used meanwhile.")
        elif self._isFinishing:
            button.text, toolTip = _("Cancel"), _("End at once, without a model.")
        else:
            button.text, toolTip = _("Stop"), _("End the training early; the best model so far is kept.")
        button.enabled = not hindrance
        button.toolTip = hindrance or toolTip
        self._ui.checkCasesButton.enabled = not isRunning and not hindrance
        for widget in (self._ui.casesBox, self._ui.modelNameEdit, self._ui.minutesBox, self._ui.encoderBox):
            widget.enabled = not isRunning

    def _hindrance(self) -> str:
        """Why there can be no training now; empty if there can."""
        if self._parameters is None:
            return _("The scene is being closed or loaded.")
        if self._installer.isBusy:
            return _("Packages are being installed.")
        if self._check is not None:
            return _("The cases are being checked.")
        return self._whyBusy() or self._cases.whyNotReady() or _whyNoName(self._ui.modelNameEdit.text.strip())

    def _encoder(self) -> str:
        """As the command line takes it."""
        return self._ui.encoderBox.itemData(self._ui.encoderBox.currentIndex) or ""

    def _describeEncoder(self, _index: int = 0) -> None:
        encoder = self._encoder()
        if encoder == SAM:
            text = _("Learnt from photographs of all kinds, and stays as it is. Slow without a GPU.")
        elif encoder:
            card = read_card(Path(encoder))
            text = _(
                "Has learnt from {modality} of {labels} only, and stays as it is: fast on any computer, but expect "
                "less of images that look different. For SAM's encoder get its weights in Setup."
            ).format(modality=card.modality or _("images"), labels=", ".join(label.name for label in card.labels))
        else:
            text = _("There is no encoder; get SAM's weights in Setup.")
        self._ui.encoderLabel.text = text

    def _trainOrStop(self, _checked: bool = False) -> None:
        if self._process is not None:
            self._stop(self._process)
            return
        self._request = None
        try:
            request = self._ask()
            if request is not None:
                self._installer.install(training=True)
                self._start(request)
        except Exception as error:  # Slicer would only print it, and the panel would look as if it had begun
            self._failed(explain(error))

    def _ask(self) -> TrainingRequest | None:
        """The request, after asking what to do with what is there under its name; None if the user wants nothing."""
        again = _askAboutFormer(self._ui.modelNameEdit.text.strip())
        return None if again is None else self._chosen(again)

    def _chosen(self, again: str) -> TrainingRequest | None:
        """What the form says; None while the scene is being closed."""
        if self._parameters is None or self._cases.folder is None:
            return None
        name, minutes = self._ui.modelNameEdit.text.strip(), round(self._ui.minutesBox.value, 1)
        return TrainingRequest(name, self._cases.folder, self._encoder(), minutes, self._parameters.device, again)

    def _startCheck(self, _checked: bool = False) -> None:
        """Ask the command what is odd, how the cases will be split, and how long and how much disk it will take."""
        request = self._chosen("")
        if request is None:
            return
        try:
            self._installer.install(training=True)
        except Exception as error:  # Slicer would only print it
            self._failed(explain(error))
            return
        lines: list[str] = []
        cases = len(self._cases.survey.rows)
        self._check = CommandProcess(
            request.checkArguments(),
            lines.append,
            lambda: self._checkEnded("\n".join(lines[cases + 1 :])),  # after the table of the cases
            lambda message: self._checkEnded(_("Failed: {reason}").format(reason=message)),
            lambda: self._checkEnded(""),
        )
        self._check.start()
        self._ui.trainingStatusLabel.text = _("Checking; this takes some seconds...")
        self.update()

    def _checkEnded(self, text: str) -> None:
        self._check = None
        self._ui.trainingStatusLabel.text = text
        self.update()

    def _start(self, request: TrainingRequest) -> None:
        request.model.parent.mkdir(parents=True, exist_ok=True)
        self._request, self._stage, self._isFinishing, self._report = request, "", False, ""
        self._history = History()
        self._draw(lambda: self._plot.begin(request.name))
        self._process = CommandProcess(
            request.arguments(),
            progressReader(self._progressed, self._told),
            self._finished,
            self._failed,
            self._cancelled,
        )
        self._process.start()
        self._ui.trainingReportButton.visible = False
        self._ui.trainingProgressBar.setRange(0, 0)  # busy, until there is progress
        self._ui.trainingProgressBar.visible = True
        self._ui.trainingStatusLabel.text = _("Starting...")
        self._changed()

    def _stop(self, process: CommandProcess) -> None:
        """Early, with the best model so far; at once where there is none yet, or where the user asks again."""
        if self._stage == "train" and not self._isFinishing:
            self._isFinishing = True
            process.finish()
            self._ui.trainingStatusLabel.text = _("Finishing: the last weights are measured...")
            self._ui.trainingProgressBar.setRange(0, 0)
            self.update()
        else:
            self._ui.trainingStatusLabel.text = _("Cancelling...")
            process.cancel()

    def _progressed(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        self._stage = stage
        if self._isFinishing:
            return
        self._ui.trainingProgressBar.setRange(0, total)
        self._ui.trainingProgressBar.value = done
        if stage == "prepare":
            text = _("Preparing case {done} of {total}").format(done=done, total=total)
        elif stage == "encode":
            text = _("Encoding slice {done} of {total}").format(done=done, total=total)
        else:
            text = _("Training: {done:.1f} of {total:.1f} min").format(done=done / 60, total=total / 60)
        if secondsToGo is not None and done < total:
            text += ", " + _describeSeconds(secondsToGo)
        self._ui.trainingStatusLabel.text = "\n".join([text, *self._figures()])

    def _figures(self) -> list[str]:
        if not self._history.dices:
            return []
        dice = ", ".join(f"{name} {value:.3f}" for name, value in self._history.dices[-1][1].items())
        return [_("Held-out Dice: {dice}").format(dice=dice)]

    def _told(self, event: dict[str, Any]) -> None:
        if event["event"] == "report":
            self._report = event["file"]
            return
        self._history.add(event)
        name = self._request.name if self._request is not None else ""
        colors = {label.name: label.color for label in self._cases.survey.labels}
        self._draw(lambda: self._plot.show(name, self._history, colors))

    def _draw(self, action: Callable[[], object]) -> None:
        """A chart that cannot be drawn is no reason to lose a training."""
        try:
            action()
        except Exception:
            logger.exception("the chart of the training could not be drawn")

    def _finished(self) -> None:
        request = self._request
        if request is None:
            return
        self._end(_("Done."))
        self._ui.trainingReportButton.visible = bool(self._report)
        try:
            training = read_card(request.model).training
        except Sam3dError as error:
            self._failed(str(error))
            return
        dice = ", ".join(f"{name} {value:.3f}" for name, value in training.dice.items())
        self._ui.trainingStatusLabel.text = _(
            "Done: {name} is chosen in Segment. Dice on {count} held-out cases: {dice}."
        ).format(name=request.name, count=training.dice_cases, dice=dice)
        self._onModel(request.name)

    def _failed(self, message: str) -> None:
        self._end(_("Failed: {reason}").format(reason=message) + self._whatIsKept())
        slicer.util.errorDisplay(message, _("SAM3DSegment could not train"))

    def _cancelled(self) -> None:
        self._end(_("Cancelled.") + self._whatIsKept())

    def _whatIsKept(self) -> str:
        """After a training that has made no model."""
        if self._request is None or not _hasStoppedTraining(self._request.model):
            return ""
        return " " + _("What it has reached is kept: Train goes on from there.")

    def _end(self, status: str) -> None:
        self._process = None
        self._isFinishing = False
        self._ui.trainingProgressBar.visible = False
        self._ui.trainingStatusLabel.text = status
        self._changed()

    def _changed(self) -> None:
        self.update()
        self._onRunningChanged()

    def _openReport(self, _checked: bool = False) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._report))


def modelPath(name: str) -> Path:
    return models_folder() / f"{name}{SUFFIX}"


def _whyNoName(name: str) -> str:
    """Why a model cannot be named so; empty if it can."""
    if not name:
        return _("Give the model a name first.")
    if not re.fullmatch(r"\w[\w .-]*", name) or name.endswith("."):
        return _("A model's name has letters, digits, blanks, - and _ only; change it.")
    if (bundled_folder() / f"{name}{SUFFIX}").exists():
        return _("{name} is a bundled model; give another name.").format(name=name)
    return ""


def _askAboutFormer(name: str) -> str | None:
    """What the command is told to do with a model or a stopped training of this name; None if nothing is to be done."""
    path = modelPath(name)
    if _hasStoppedTraining(path):
        question = _("A training of {name} was stopped before its end. Go on with it?").format(name=name)
        if slicer.util.confirmYesNoDisplay(question, _("Go on")):
            return "--resume"
        question = _("Start {name} anew? What the stopped training has reached is lost.").format(name=name)
    elif path.exists():
        question = _("There is a model {name} already. Replace it?").format(name=name)
    else:
        return ""
    return "--overwrite" if slicer.util.confirmOkCancelDisplay(question, _("Replace")) else None


def _hasStoppedTraining(model: Path) -> bool:
    """Whether beside the model's file there is a training that can go on."""
    try:
        record = json.loads(model.with_suffix(".training").joinpath("run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "result" not in record


def _describeSeconds(seconds: float) -> str:
    if seconds < 100:
        return _("about {seconds} s to go").format(seconds=math.ceil(seconds))
    return _("about {minutes} min to go").format(minutes=math.ceil(seconds / 60))
