"""The section "Train" of the panel: cases, a few settings, a training in a child process, its model."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

import qt

from ...base.errors import Sam3dError
from ...model_store import read_card
from ..dependencies import Installer
from ..problems import explain
from ..scene.segmentations import referenceVolume
from ..worker import progressReader
from .cases_box import CasesBox, caseName
from .command_box import CommandBox
from .controls import enableUnless
from .dialogs import tell
from .encoder_box import EncoderBox
from .next_box import NextBox
from .protocols import Observe, Parameters, Ui
from .steps_box import StepsBox
from .training_progress import TrainingProgress, describeDice, describeStage
from .training_request import TrainingRequest, askAboutFormer, hasStoppedTraining, whyUnusableName


class TrainSection:
    """onModel(name) is called when there is a new model, onCompleted(segmentation) when its slices are filled.

    onRunningChanged() is called when a training or a completion begins and has ended; whyBusy() returns why there can
    be none now, because of work of the panel; empty if there can.
    """

    def __init__(
        self,
        ui: Ui,
        installer: Installer,
        addObserver: Observe,
        removeObserver: Observe,
        onModel: Callable[[str], None],
        onCompleted: Callable[[slicer.vtkMRMLSegmentationNode], None],
        onRunningChanged: Callable[[], None],
        whyBusy: Callable[[], str],
    ) -> None:
        self._ui = ui
        self._installer = installer
        self._onModel = onModel
        self._onRunningChanged = onRunningChanged
        self._whyBusy = whyBusy
        self._parameters: Parameters | None = None
        self._training = CommandBox(ui.trainingStatusLabel, self._trainingChanged, ui.trainingProgressBar)
        self._check = CommandBox(ui.trainingStatusLabel, self.update)
        self._progress = TrainingProgress()
        self._cases = CasesBox(ui, addObserver, removeObserver, self._casesChanged)
        self._steps = StepsBox(
            ui,
            installer,
            self._cases,
            self._addAndTrain,
            self._whyNotAddAndTrain,
            onCompleted,
            onRunningChanged,
            whyBusy,
        )
        self._next = NextBox(ui, self._cases)
        self._begin: Callable[[], None] | None = None  # the training that begins when the added case is read
        self._encoders = EncoderBox(ui)
        ui.trainingReportButton.visible = False
        ui.modelNameEdit.connect("textChanged(QString)", lambda _text: self.update())
        ui.checkCasesButton.connect("clicked(bool)", self._startCheck)
        ui.trainButton.connect("clicked(bool)", self._trainOrStop)
        ui.trainingReportButton.connect("clicked(bool)", self._openReport)
        ui.trainSection.connect("contentsCollapsed(bool)", lambda collapsed: None if collapsed else self.enter())

    @property
    def isRunning(self) -> bool:
        return self._training.isRunning

    @property
    def isCompleting(self) -> bool:
        return self._steps.isRunning

    def setParameters(self, parameters: Parameters | None) -> None:
        """A training goes on whatever happens to the scene."""
        self._parameters = parameters
        self._steps.setParameters(parameters)
        self.update()

    def abandonScene(self) -> None:
        """The scene is being closed."""
        self._steps.abandon()

    def enter(self) -> None:
        """Folders, models and segments may have changed; they are looked at while the section is open."""
        if not self._ui.trainSection.collapsed:
            self.listEncoders()
            self._cases.update()

    def cleanup(self) -> None:
        self._steps.abandon()
        self._cases.cleanup()
        self._training.abandon()
        self._check.abandon()
        self._progress.end()

    def addResult(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode | None, segmentationNode: slicer.vtkMRMLSegmentationNode
    ) -> None:
        """Add a segmentation, which the user has corrected, to the cases, with the volume that it was drawn on."""
        volumeNode = referenceVolume(segmentationNode) or volumeNode
        if volumeNode is None or self.isRunning:  # a training reads its cases again and again
            problem = (
                _("Choose the volume of this segmentation first.")
                if volumeNode is None
                else _("A model is being trained; wait for it, or stop it.")
            )
            tell(problem, _("The case was not added"))
            return
        self._ui.trainSection.collapsed = False
        segmentIds = list(segmentationNode.GetSegmentation().GetSegmentIDs())
        self._cases.add(volumeNode, segmentationNode, segmentIds, caseName(volumeNode))

    def listEncoders(self) -> None:
        """Models or SAM's weights may have changed."""
        self._encoders.update()

    def update(self) -> None:
        """Show what can be done now."""
        isRunning, button = self.isRunning, self._ui.trainButton
        hindrance = "" if isRunning else self._hindrance()
        if not isRunning:
            button.text, toolTip = _("Train"), _("Train a model on these cases; Slicer can be used meanwhile.")
        elif self._training.isFinishing:
            button.text, toolTip = _("Cancel"), _("End at once, without a model.")
        else:
            button.text, toolTip = _("Stop"), _("End the training early; the best model so far is kept.")
        enableUnless(button, hindrance, toolTip)
        isChecking = self._check.isRunning
        self._ui.checkCasesButton.text = _("Stop check") if isChecking else _("Check")
        self._ui.checkCasesButton.enabled = isChecking or (not isRunning and not hindrance)
        for widget in (self._ui.casesBox, self._ui.modelNameEdit, self._ui.minutesBox, self._ui.encoderBox):
            widget.enabled = not isRunning
        self._steps.update()
        self._next.update(self._parameters is not None)

    def _hindrance(self) -> str:
        """Why there can be no training now; empty if there can."""
        return self._whyOccupied() or self._cases.whyNotReady() or whyUnusableName(self._chosenName())

    def _whyNotAddAndTrain(self) -> str:
        """The same, whatever cases there are by now."""
        return self._whyOccupied() or whyUnusableName(self._chosenName())

    def _whyOccupied(self) -> str:
        if self._parameters is None:
            return _("The scene is being closed or loaded.")
        return _("The cases are being checked.") if self._check.isRunning else self._whyBusy()

    def _chosenName(self) -> str:
        return self._ui.modelNameEdit.text.strip()

    def _chosenRequest(self) -> TrainingRequest | None:
        """The choices in the form; None while the scene is being closed."""
        if self._parameters is None or self._cases.folder is None:
            return None
        minutes = round(self._ui.minutesBox.value, 1)
        return TrainingRequest(
            self._chosenName(), self._cases.folder, self._encoders.chosen(), minutes, self._parameters.device
        )

    def _startCheck(self, _checked: bool = False) -> None:
        """Let the command report what is unusual, the split of the cases, and the time and disk space it will take."""
        if self._check.isRunning:
            self._check.cancel(_("Stopping..."))
            return
        request = self._chosenRequest()
        if request is None:
            return
        try:
            self._installer.install(training=True)
        except Exception as error:  # Slicer would only print it
            self._failed(explain(error))
            return
        findings: list[str] = []
        self._check.run(
            request.checkArguments(),
            _("Checking; this takes a few seconds..."),
            progressReader(self._checked, lambda event: findings.extend(event["findings"])),
            lambda: self._check.end("\n".join(findings)),
            lambda message: self._check.end(_("Failed: {reason}").format(reason=message)),
            lambda: self._check.end(""),
        )

    def _checked(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        self._check.say(describeStage(stage, done, total))

    def _trainOrStop(self, _checked: bool = False) -> None:
        if self.isRunning:
            self._stop()
            return
        try:
            whatAboutFormer = askAboutFormer(self._chosenName())
            request = self._chosenRequest()
            if request is not None and whatAboutFormer is not None:
                self._installer.install(training=True)
                self._start(request, whatAboutFormer)
        except Exception as error:  # Slicer would only print it, and the panel would look as if it had begun
            self._failed(explain(error))

    def _addAndTrain(self) -> None:
        """All questions come first: who declines one has added nothing."""
        try:
            whatAboutFormer = askAboutFormer(self._chosenName())
            if whatAboutFormer is None:
                return
            self._installer.install(training=True)
            if self._cases.addChosen() and (request := self._chosenRequest()) is not None:
                self._begin = lambda: self._trainOnAdded(request, whatAboutFormer)
                self._casesChanged()
        except Exception as error:  # Slicer would only print it
            self._failed(explain(error))

    def _casesChanged(self) -> None:
        self.update()
        if self._begin is not None and not self._cases.isReading:
            begin, self._begin = self._begin, None
            begin()

    def _trainOnAdded(self, request: TrainingRequest, whatAboutFormer: str) -> None:
        """If the cases allow it; if they do not, they say so. Another folder may have been chosen meanwhile."""
        if self._hindrance() or request.cases != self._cases.folder:
            return
        try:
            self._start(request, whatAboutFormer)
        except Exception as error:  # Slicer would only print it
            self._failed(explain(error), request)

    def _start(self, request: TrainingRequest, whatAboutFormer: str) -> None:
        request.model.parent.mkdir(parents=True, exist_ok=True)
        self._progress.begin(request.name, self._cases.survey.labels)
        self._ui.trainingReportButton.visible = False
        self._training.run(
            request.trainingArguments(whatAboutFormer),
            _("Starting..."),
            progressReader(self._progressed, self._progress.addEvent),
            lambda: self._finished(request),
            lambda message: self._failed(message, request),
            lambda: self._training.end(_("Cancelled.") + _whatIsKept(request)),
        )

    def _stop(self) -> None:
        """Early, with the best model so far; at once where there is none yet, or where the user asks again."""
        if self._progress.stage == "train" and not self._training.isFinishing:
            self._training.finish(_("Finishing: the last weights are measured..."))
        else:
            self._training.cancel(_("Cancelling..."))

    def _progressed(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        self._training.showProgress(done, total, self._progress.describe(stage, done, total, secondsToGo))

    def _finished(self, request: TrainingRequest) -> None:
        self._training.end(_("Done."))
        self._ui.trainingReportButton.visible = bool(self._progress.report)
        try:
            training = read_card(request.model).training
        except Sam3dError as error:
            self._failed(str(error), request)
            return
        self._training.say(
            _("Done: {name} is chosen in Segment. Dice on {count} held-out cases: {dice}.").format(
                name=request.name, count=training.dice_cases, dice=describeDice(training.dice)
            )
        )
        self._onModel(request.name)

    def _failed(self, message: str, request: TrainingRequest | None = None) -> None:
        """request: that of a training which had begun."""
        kept = _whatIsKept(request) if request is not None else ""
        self._training.end(_("Failed: {reason}").format(reason=message) + kept)
        tell(message, _("SAM3DSegment could not train"))

    def _trainingChanged(self) -> None:
        if not self.isRunning:
            self._progress.end()
        self.update()
        self._onRunningChanged()

    def _openReport(self, _checked: bool = False) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._progress.report))


def _whatIsKept(request: TrainingRequest) -> str:
    """After a training that has made no model."""
    if not hasStoppedTraining(request.model):
        return ""
    return " " + _("What it has reached is kept, but for its last minutes (5 at most): Train goes on from there.")
