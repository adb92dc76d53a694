"""The section "Segment" of the panel: choose, check, segment, cancel."""

from __future__ import annotations

import html
import math
from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

import qt

from ...base.errors import Sam3dError
from ...card import ModelCard
from ...channel import channels_called
from ...model_store import SUFFIX, find_model, list_models, read_card
from ...quality import AUTO, QUALITIES
from ..dependencies import Installer
from ..scene.channels import keepChoice, keptChoice, nodesOfChannels, whyNotDifferent
from ..scene.edits import whyNotReplace
from ..scene.observing import REGION_CHANGES, Observer
from ..scene.segmentations import referenceVolume, segmentationFor
from ..scene.suitability import findMisfits
from ..scene.volumes import shownImages
from .channels_box import ChannelsBox
from .command_box import CommandBox, describeProgress
from .controls import enableUnless, fillList, selectData
from .dialogs import ask, tell
from .frames_box import FramesBox
from .model_card import describeCard
from .protocols import Logic, Observe, Parameters, Ui

DEVICES = ("auto", "cpu", "cuda", "mps")
SETTLING_MS = 100  # after the last change of the region, before warnings are shown


class SegmentSection:
    """onResult(segmentation node) is called when there is a new result.

    onRunningChanged() is called when a segmentation begins and has ended; whyBusy() returns why there can be none
    now, because of other work of the panel; empty if there can.
    """

    def __init__(
        self,
        ui: Ui,
        logic: Logic,
        installer: Installer,
        onResult: Callable[[slicer.vtkMRMLSegmentationNode], None],
        onRunningChanged: Callable[[], None],
        whyBusy: Callable[[], str],
        addObserver: Observe,
        removeObserver: Observe,
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._installer = installer
        self._onResult = onResult
        self._onRunningChanged = onRunningChanged
        self._whyBusy = whyBusy
        self._parameters: Parameters | None = None
        self._volumeId = ""  # of the volume whose segmentation is chosen
        self._card: ModelCard | None = None
        self._channelNames: list[str] = []  # of the card
        self._cardOf = ""
        self._choice = ""  # which quality was chosen automatically, for the user
        self._regionObserver = Observer(addObserver, removeObserver, REGION_CHANGES, lambda: self._timer.start())
        self._frames = FramesBox(ui)
        self._channels = ChannelsBox(ui.channelsWidget, self._channelChosen)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLING_MS)
        self._timer.connect("timeout()", self.update)
        self._box = CommandBox(ui.statusLabel, self._runningChanged, ui.progressBar)
        self.listModels()
        self._listQualities()
        self.listDevices(DEVICES)
        ui.modelBox.connect("currentIndexChanged(int)", self._modelChosen)
        ui.modelFileButton.connect("clicked(bool)", self._askForModel)
        ui.qualityBox.connect("currentIndexChanged(int)", self._qualityChosen)
        ui.deviceBox.connect("currentIndexChanged(int)", self._deviceChosen)
        ui.segmentButton.connect("clicked(bool)", self._segmentOrCancel)

    @property
    def isRunning(self) -> bool:
        return self._box.isRunning

    def setParameters(self, parameters: Parameters | None) -> None:
        self._parameters = parameters
        self._channels.forget()
        self._volumeId = _idOf(parameters.inputVolume) if parameters is not None else ""
        if parameters is None:
            self._regionObserver.observe(None)
        self.update()

    def followVolume(self) -> None:
        """Another volume gets another segmentation, so that no result is written over that of the volume before."""
        parameters = self._parameters
        if parameters is None or self._volumeId == _idOf(parameters.inputVolume):
            return
        self._volumeId = _idOf(parameters.inputVolume)
        if parameters.inputVolume is not None:
            parameters.outputSegmentation = segmentationFor(parameters.inputVolume, parameters.outputSegmentation)

    def abandon(self) -> None:
        """The scene is being closed."""
        if self.isRunning:
            self._box.abandon()
            self._cancelled()

    def cleanup(self) -> None:
        """In Slicer the connected timer would keep this object alive."""
        self.abandon()
        self._timer.stop()
        self._timer.deleteLater()

    def listModels(self) -> None:
        """Fill the list anew: bundled models, then those of the user's folder."""
        fillList(self._ui.modelBox, {path.stem: path.stem for path in list_models()})
        self._cardOf = ""  # a model may be another one now
        self.update()

    def listDevices(self, names: tuple[str, ...]) -> None:
        """Fill the list of devices; names are those of the command line."""
        titles = {"auto": _("Automatic"), "cpu": _("CPU"), "cuda": _("CUDA"), "mps": _("Apple GPU (MPS)")}
        fillList(self._ui.deviceBox, {name: titles.get(name, name) for name in names})
        self.update()

    def _listQualities(self) -> None:
        fillList(self._ui.qualityBox, {name: _qualityTitle(name) for name in (*QUALITIES, AUTO)})

    def update(self) -> None:
        """Show what the parameters say."""
        if self._parameters is not None:
            selectData(self._ui.modelBox, self._parameters.model)
            selectData(self._ui.qualityBox, self._parameters.quality)
            selectData(self._ui.deviceBox, self._parameters.device)
            self._showCard(self._parameters.model)
            self._showChannels(self._parameters)
            self._showWarnings(self._parameters)
        self._showButton()

    def _showCard(self, model: str) -> None:
        if model == self._cardOf:
            return
        try:
            self._card = read_card(find_model(model))
            self._ui.modelCardLabel.text = describeCard(self._card)
        except Sam3dError as error:
            self._card = None
            self._ui.modelCardLabel.text = html.escape(str(error))
        self._cardOf = model

    def _showChannels(self, parameters: Parameters) -> None:
        """A selector for each channel of the model; of its first it is that of the volume."""
        names = [channel.name for channel in self._card.channels] if self._card is not None else []
        isNew, self._channelNames = names != self._channelNames, names
        self._ui.inputLabel.text = f"{names[0]}:" if names[1:] else _("Volume:")
        if not names[1:]:
            self._channels.show([], None)
            return
        kept = keptChoice(parameters.parameterNode, parameters.inputVolume)
        if isNew and not kept:
            self._chooseFirst(parameters, names)
        self._channels.show(names, parameters.inputVolume, kept)
        self._keepChannels(parameters)

    def _chooseFirst(self, parameters: Parameters, names: list[str]) -> None:
        """The volume that is called as the first channel, unless the chosen one is."""
        chosen = parameters.inputVolume
        if chosen is None or names[0] not in channels_called([chosen.GetName()], names):
            node = nodesOfChannels(names, chosen, shownImages())[names[0]]
            if node is not None:
                parameters.inputVolume = node

    def _channelChosen(self) -> None:
        if self._parameters is not None:
            self._keepChannels(self._parameters)
            self._showWarnings(self._parameters)
        self._showButton()

    def _keepChannels(self, parameters: Parameters) -> None:
        """With the scene, once all are chosen: while a scene is loaded, selectors are empty for a moment."""
        nodes = self._channels.nodes()
        if nodes and None not in (parameters.inputVolume, *nodes.values()):
            keepChoice(parameters.parameterNode, parameters.inputVolume, nodes)

    def _showWarnings(self, parameters: Parameters) -> None:
        self._regionObserver.observe(parameters.roi)
        warnings = []
        if parameters.inputVolume is not None and self._card is not None:
            others = tuple(self._channels.nodes().values())
            warnings = findMisfits(parameters.inputVolume, self._card, parameters.roi, parameters.allFrames, others)
        self._ui.warningLabel.text = "<br>".join(f"\u26a0 {html.escape(warning)}" for warning in warnings)
        self._ui.warningLabel.visible = bool(warnings)

    def _showButton(self) -> None:
        button, isRunning = self._ui.segmentButton, self.isRunning
        button.text = _("Cancel") if isRunning else _("Segment")
        if isRunning:
            enableUnless(button, "", _("Stop; the scene stays as it is."))
        else:
            enableUnless(button, self._hindrance(), _("Segment the whole volume, or the chosen region."))
        for widget in (
            self._ui.inputSelector,
            self._ui.modelBox,
            self._ui.modelFileButton,
            self._ui.outputSelector,
            self._ui.advancedBox,
        ):
            widget.enabled = not isRunning
        self._frames.update(self._parameters, isRunning)
        self._channels.setEnabled(not isRunning)

    def _hindrance(self) -> str:
        """Why there can be no segmentation now; empty if there can."""
        if self._parameters is None:
            return _("The scene is being closed or loaded.")
        nodes = self._channels.nodes()
        missing = [name for name, node in nodes.items() if node is None]
        whyMissing = _("Choose a volume for the channel {name}.").format(name=missing[0]) if missing else ""
        whyTwice = whyNotDifferent(self._parameters.inputVolume, nodes)
        return self._whyBusy() or self._parameters.whyInvalid() or whyMissing or whyTwice

    def _modelChosen(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.model = self._ui.modelBox.itemData(index)

    def _askForModel(self, _checked: bool = False) -> None:
        pattern = _("Models") + f" (*{SUFFIX})"
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Load model file"), "", pattern)
        if path and self._parameters is not None:
            self._parameters.model = path

    def _qualityChosen(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.quality = self._ui.qualityBox.itemData(index)

    def _deviceChosen(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.device = self._ui.deviceBox.itemData(index)

    def _segmentOrCancel(self, _checked: bool = False) -> None:
        self._box.cancelOr(self._start, self._failed)

    def _start(self) -> None:
        self._installer.install()
        parameters = self._parameters
        if parameters is None:  # the scene was closed while packages were installed
            return
        overwrite, allFrames = False, self._frames.areAll
        if not allFrames and (reason := self._whyNotReplace(parameters)):
            question = _("{reason}.\n\nReplace it? Undo, in Results, brings it back.").format(
                reason=reason[0].upper() + reason[1:]
            )
            if not ask(question, _("Replace segments")):
                return
            overwrite = True
        self._choice = ""
        job = self._logic.startSegment(
            parameters.inputVolume,
            parameters.outputSegmentation,
            model=parameters.model,
            quality=parameters.quality,
            device=parameters.device,
            roiNode=parameters.roi,
            confidenceMap=parameters.confidenceMap and not allFrames,
            overwrite=overwrite,
            allFrames=allFrames,
            channels=self._channels.nodes(),
            onProgress=self._progressed,
            onChoice=self._showChoice,
            onFinished=self._finished,
            onFailed=self._failed,
            onCancelled=self._cancelled,
        )
        self._box.begin(job, _("Starting..."))

    def _whyNotReplace(self, parameters: Parameters) -> str:
        volumeNode, segmentationNode = parameters.inputVolume, parameters.outputSegmentation
        if volumeNode is None or segmentationNode is None:
            return ""
        labels = read_card(find_model(parameters.model)).labels
        return whyNotReplace(segmentationNode, volumeNode, [label.name for label in labels])

    def _showChoice(self, quality: str, seconds: float) -> None:
        self._choice = _("{quality} quality was chosen, for about {seconds} s in all. ").format(
            quality=_qualityTitle(quality), seconds=math.ceil(seconds)
        )
        self._box.say(self._choice)

    def _progressed(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        self._box.showProgress(done, total, self._choice + describeProgress(stage, done, total, secondsToGo))

    def _finished(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._box.end(_("Done."))
        parameters = self._parameters
        if parameters is not None and parameters.inputVolume is referenceVolume(segmentationNode):
            isNew = parameters.outputSegmentation not in (None, segmentationNode)
            if isNew and not parameters.allFrames:
                self._box.say(_("Done. The segmentation was edited meanwhile, so the result is in a new one."))
            parameters.outputSegmentation = segmentationNode
        self._onResult(segmentationNode)

    def _failed(self, message: str) -> None:
        self._box.end(_("Failed: {reason}").format(reason=message))
        tell(message, _("SAM3DSegment could not segment"))

    def _cancelled(self) -> None:
        self._box.end(_("Cancelled; nothing was changed."))

    def _runningChanged(self) -> None:
        self._showButton()
        self._onRunningChanged()


def _idOf(node: slicer.vtkMRMLNode | None) -> str:
    return node.GetID() if node is not None else ""


def _qualityTitle(name: str) -> str:
    return {"best": _("Best"), "balanced": _("Balanced"), "fast": _("Fast"), AUTO: _("Automatic")}.get(name, name)
