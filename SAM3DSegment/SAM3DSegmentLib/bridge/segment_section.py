"""The section "Segment" of the panel: choose, check, segment, cancel."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from ..card import ModelCard
from ..errors import Sam3dError
from ..model_store import SUFFIX, find_model, list_models, read_card
from . import dependencies
from .logic import SegmentationJob
from .parameters import SegmentParameters
from .settings import samCheckpoint
from .suitability import findMisfits

DEVICES = ("auto", "cpu", "cuda", "mps")


class SegmentSection:
    """`logic` has `startSegment`; onResult(segmentation node) is called when there is a new result."""

    def __init__(self, ui: Any, logic: Any, onResult: Callable[[slicer.vtkMRMLSegmentationNode], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._onResult = onResult
        self._parameters: Any = None  # a SegmentParameters; Slicer's wrapper adds methods at run time
        self._job: SegmentationJob | None = None
        self._card: ModelCard | None = None
        self._cardOf = ""
        ui.progressBar.visible = False
        self.listModels()
        self.listDevices(DEVICES)
        ui.modelBox.connect("currentIndexChanged(int)", self._modelChosen)
        ui.deviceBox.connect("currentIndexChanged(int)", self._deviceChosen)
        ui.segmentButton.connect("clicked(bool)", self._segmentOrCancel)

    def setParameters(self, parameters: SegmentParameters | None) -> None:
        self._parameters = parameters
        self.update()

    def cleanup(self) -> None:
        if self._job is not None:
            self._job.abandon()
            self._cancelled()

    def listModels(self) -> None:
        """Fill the list anew: bundled models, those of the user's folder, then "Load model file..."."""
        box = self._ui.modelBox
        wasBlocked = box.blockSignals(True)
        box.clear()
        for path in list_models():
            box.addItem(path.stem, path.stem)
        box.insertSeparator(box.count)
        box.addItem(_("Load model file..."), "")
        box.blockSignals(wasBlocked)
        self.update()

    def listDevices(self, names: tuple[str, ...]) -> None:
        """Fill the list of devices; names are those of the command line."""
        titles = {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("CUDA"), "mps": _("Apple GPU (MPS)")}
        box = self._ui.deviceBox
        wasBlocked = box.blockSignals(True)
        box.clear()
        for name in names:
            box.addItem(titles.get(name, name), name)
        box.blockSignals(wasBlocked)
        self.update()

    def update(self) -> None:
        """Show what the parameters say."""
        if self._parameters is None:
            self._ui.segmentButton.enabled = False
            return
        _select(self._ui.modelBox, self._parameters.model, self._ui.modelBox.count - 2)
        _select(self._ui.deviceBox, self._parameters.device, self._ui.deviceBox.count)
        self._showCard()
        self._showWarnings()
        self._showButton()

    def _showCard(self) -> None:
        model = self._parameters.model
        if model == self._cardOf:
            return
        try:
            self._card = read_card(find_model(model))
            self._ui.modelCardLabel.text = describeCard(self._card)
        except Sam3dError as error:
            self._card = None
            self._ui.modelCardLabel.text = html.escape(str(error))
        self._cardOf = model

    def _showWarnings(self) -> None:
        volumeNode, warnings = self._parameters.inputVolume, []
        if volumeNode is not None and self._card is not None:
            warnings = findMisfits(volumeNode, self._card, self._parameters.roi)
        self._ui.warningLabel.text = "<br>".join(f"\u26a0 {html.escape(warning)}" for warning in warnings)
        self._ui.warningLabel.visible = bool(warnings)

    def _showButton(self) -> None:
        button, isRunning = self._ui.segmentButton, self._job is not None
        missing = []
        if self._parameters.inputVolume is None:
            missing.append(_("a volume"))
        if self._card is None:
            missing.append(_("a model"))
        button.text = _("Cancel") if isRunning else _("Segment")
        button.enabled = isRunning or not missing
        if isRunning:
            button.toolTip = _("Stop; the scene stays as it is.")
        elif missing:
            button.toolTip = _("Choose {what} first.").format(what=_(" and ").join(missing))
        else:
            button.toolTip = _("Segment the whole volume, or the chosen region.")
        for name in ("inputSelector", "modelBox", "outputSelector", "advancedBox"):
            getattr(self._ui, name).enabled = not isRunning

    def _modelChosen(self, index: int) -> None:
        model = self._ui.modelBox.itemData(index)
        if not model:
            model = self._askForModel() or self._parameters.model
        self._parameters.model = model
        self.update()

    def _askForModel(self) -> str:
        pattern = _("Models") + f" (*{SUFFIX})"
        return qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Load model file"), "", pattern)

    def _deviceChosen(self, index: int) -> None:
        self._parameters.device = self._ui.deviceBox.itemData(index)

    def _segmentOrCancel(self) -> None:
        if self._job is not None:
            self._ui.statusLabel.text = _("Cancelling...")
            self._job.cancel()
            return
        parameters = self._parameters
        try:
            dependencies.installMissingPackages()
            self._job = self._logic.startSegment(
                parameters.inputVolume,
                parameters.outputSegmentation,
                parameters.model,
                parameters.device,
                parameters.roi,
                samCheckpoint(),
                parameters.confidenceMap,
                self._progressed,
                self._finished,
                self._failed,
                self._cancelled,
            )
        except Sam3dError as error:
            self._failed(str(error))
            return
        self._ui.statusLabel.text = _("Starting...")
        self._ui.progressBar.setRange(0, 0)  # busy, until the first slices are done
        self._ui.progressBar.visible = True
        self._showButton()

    def _progressed(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        self._ui.progressBar.setRange(0, total)
        self._ui.progressBar.value = done
        text = _("Slice {done} of {total}").format(done=done, total=total)
        if secondsToGo is not None and done < total:
            text += ", " + _("about {seconds} s to go").format(seconds=math.ceil(secondsToGo))
        self._ui.statusLabel.text = text

    def _finished(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._end(_("Done."))
        if self._parameters is not None:
            self._parameters.outputSegmentation = segmentationNode
        self._onResult(segmentationNode)

    def _failed(self, message: str) -> None:
        self._end(_("Failed: {reason}").format(reason=message))
        slicer.util.errorDisplay(message, _("SAM3DSegment could not segment"))

    def _cancelled(self) -> None:
        self._end(_("Cancelled; nothing was changed."))

    def _end(self, status: str) -> None:
        self._job = None
        self._ui.progressBar.visible = False
        self._ui.statusLabel.text = status
        if self._parameters is not None:
            self._showButton()


def describeCard(card: ModelCard) -> str:
    """A model's card as rich text: labels with colours, modality, training, Dice, licence."""
    swatches = " &nbsp; ".join(
        f'<span style="color: rgb{label.color}">\u25a0</span> {html.escape(label.name)}' for label in card.labels
    )
    lines = [html.escape(card.description), swatches]
    training = card.training
    facts = [card.modality, _("trained on {count} cases").format(count=training.cases)]
    if training.dice:
        mean = sum(training.dice.values()) / len(training.dice)
        facts.append(_("Dice {dice:.3f} on {count} others").format(dice=mean, count=training.dice_cases))
    facts.append(card.licence or _("licence not stated"))
    lines.append(html.escape(" \u00b7 ".join(fact for fact in facts if fact)))
    return "<br>".join(line for line in lines if line)


def _select(box: qt.QComboBox, value: str, position: int) -> None:
    """Select the item with this data; one that is not listed yet is put at `position`."""
    index = box.findData(value)
    wasBlocked = box.blockSignals(True)
    if index < 0:
        box.insertItem(position, Path(value).stem if value.endswith(SUFFIX) else value, value)
        index = position
    box.currentIndex = index
    box.blockSignals(wasBlocked)
