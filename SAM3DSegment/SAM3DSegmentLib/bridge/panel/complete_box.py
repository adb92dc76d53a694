"""The button "Complete", of which there are two: it fills the slices of a segmentation that are not painted."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

import qt

from ..completion import CompletionRequest
from ..dependencies import Installer
from ..job import Callbacks, SceneJob
from .command_box import CommandBox, describeProgress
from .controls import enableUnless
from .dialogs import ask, tell
from .protocols import Parameters

Nodes = tuple[slicer.vtkMRMLScalarVolumeNode | None, slicer.vtkMRMLSegmentationNode | None]


class CompleteBox:
    """nodes() returns the volume and the segmentation that are chosen beside the button.

    onResult(segmentation) is called when its slices are filled; onRunningChanged and whyBusy as for
    `SegmentSection`.
    """

    def __init__(
        self,
        button: qt.QPushButton,
        statusLabel: qt.QLabel,
        progressBar: qt.QProgressBar,
        installer: Installer,
        nodes: Callable[[], Nodes],
        onResult: Callable[[slicer.vtkMRMLSegmentationNode], None],
        onRunningChanged: Callable[[], None],
        whyBusy: Callable[[], str],
    ) -> None:
        self._button, self._title = button, button.text
        self._installer = installer
        self._nodes = nodes
        self._onResult = onResult
        self._onRunningChanged = onRunningChanged
        self._whyBusy = whyBusy
        self._parameters: Parameters | None = None
        self._box = CommandBox(statusLabel, self._runningChanged, progressBar)
        button.connect("clicked(bool)", self._completeOrCancel)

    @property
    def isRunning(self) -> bool:
        return self._box.isRunning

    def setParameters(self, parameters: Parameters | None) -> None:
        self._parameters = parameters
        self.update()

    def update(self) -> None:
        """Show what can be done now."""
        isRunning = self.isRunning
        self._button.text = _("Cancel") if isRunning else self._title
        if isRunning:
            enableUnless(self._button, "", _("Stop; the scene stays as it is."))
        else:
            toolTip = _(
                "Fill the slices between those that are painted, or correct a result by the slices that were "
                "repainted; these stay as they are."
            )
            enableUnless(self._button, self._hindrance(), toolTip)

    def abandon(self) -> None:
        """The scene or the module is being closed."""
        if self.isRunning:
            self._box.abandon()
            self._cancelled()

    def _hindrance(self) -> str:
        """Why nothing can be completed now; empty if it can."""
        if self._parameters is None:
            return _("The scene is being closed or loaded.")
        if None in self._nodes():
            return _("Choose a volume and its segmentation first.")
        return self._whyBusy()

    def _completeOrCancel(self, _checked: bool = False) -> None:
        self._box.cancelOr(self._start, self._failed)

    def _start(self) -> None:
        self._installer.install()
        parameters, (volumeNode, segmentationNode) = self._parameters, self._nodes()
        if parameters is None or volumeNode is None or segmentationNode is None:  # closed while packages were installed
            return
        with slicer.util.WaitCursor():  # a large volume takes a second or two
            request = CompletionRequest.make(volumeNode, segmentationNode, parameters.model, parameters.device)
        if not ask(_question(request, segmentationNode.GetName()), _("Complete")):
            return
        segmentationId = request.segmentationId
        callbacks = Callbacks(
            onProgress=self._progressed,
            onFinished=lambda node: self._finished(node, node.GetID() != segmentationId),
            onFailed=self._failed,
            onCancelled=self._cancelled,
        )
        self._box.begin(SceneJob(request, callbacks), _("Starting..."))

    def _progressed(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        self._box.showProgress(done, total, describeProgress(stage, done, total, secondsToGo))

    def _finished(self, segmentationNode: slicer.vtkMRMLSegmentationNode, isNew: bool) -> None:
        self._box.end(
            _("Done. The segmentation was edited meanwhile, so the result is in a new one.")
            if isNew
            else _("Done: look through the filled slices, and correct them.")
        )
        self._onResult(segmentationNode)

    def _failed(self, message: str) -> None:
        self._box.end(_("Failed: {reason}").format(reason=message))
        tell(message, _("SAM3DSegment could not complete"))

    def _cancelled(self) -> None:
        self._box.end(_("Cancelled; nothing was changed."))

    def _runningChanged(self) -> None:
        self.update()
        self._onRunningChanged()


def _question(request: CompletionRequest, name: str) -> str:
    if request.repainted is None:
        what = _("The slices of {name} that are not painted will be filled; the painted ones stay as they are.")
        found = ""
    else:
        what = _(
            "In {name}, {found} since it was delivered. The slices nearby will be corrected; what was repainted stays "
            "as it is."
        )
        found = request.repainted.describe(request.ijkToWorld)
    undo = _("Go on? Undo, in Results, brings the segmentation back.")
    return what.format(name=repr(name), found=found) + "\n\n" + undo
