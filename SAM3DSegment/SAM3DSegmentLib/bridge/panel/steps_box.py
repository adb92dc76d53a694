"""The row "Paint", "Complete", "Add and train" of the section "Train": from a volume to a model that has learned it."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from ..dependencies import Installer
from ..problems import explain
from ..scene.painting import preparePainting
from ..scene.segmentations import referenceVolume
from .cases_box import CasesBox
from .complete_box import CompleteBox
from .controls import enableUnless, openSegmentEditor
from .dialogs import tell
from .protocols import Parameters, Ui


class StepsBox:
    """Works on the volume and the segmentation that are chosen for a new case.

    onAddAndTrain() does the last step, and whyNotTrain() says why it cannot be done now; onCompleted(segmentation) is
    called when its slices are filled; onRunningChanged and whyBusy as for `SegmentSection`, of a completion.
    """

    def __init__(
        self,
        ui: Ui,
        installer: Installer,
        cases: CasesBox,
        onAddAndTrain: Callable[[], None],
        whyNotTrain: Callable[[], str],
        onCompleted: Callable[[slicer.vtkMRMLSegmentationNode], None],
        onRunningChanged: Callable[[], None],
        whyBusy: Callable[[], str],
    ) -> None:
        self._ui = ui
        self._cases = cases
        self._onAddAndTrain = onAddAndTrain
        self._whyNotTrain = whyNotTrain
        self._onCompleted = onCompleted
        self._completion = CompleteBox(
            ui.completeCaseButton,
            ui.caseStatusLabel,
            ui.completeCaseProgressBar,
            installer,
            lambda: (cases.volume(), cases.segmentation()),
            self._completed,
            onRunningChanged,
            whyBusy,
        )
        ui.paintButton.connect("clicked(bool)", self._paint)
        ui.addAndTrainButton.connect("clicked(bool)", self._addAndTrain)

    @property
    def isRunning(self) -> bool:
        """Whether a segmentation is being completed."""
        return self._completion.isRunning

    def setParameters(self, parameters: Parameters | None) -> None:
        self._completion.setParameters(parameters)

    def abandon(self) -> None:
        """The scene or the module is being closed."""
        self._completion.abandon()

    def update(self) -> None:
        """Show what can be done now."""
        hasVolume, hasBoth = self._cases.volume() is not None, self._cases.segmentation() is not None
        hindrance = "" if hasVolume else _("Choose a volume first.")
        if hasVolume and self._cases.isReading:  # whose labels become segments
            hindrance = _("The cases are being read.")
        toolTip = _(
            "Open the Segment Editor with the segments of your cases. Paint every third to fifth slice, all of them in "
            "the same slice view."
        )
        enableUnless(self._ui.paintButton, hindrance, toolTip)
        hindrance = self._whyNotTrain() if hasVolume and hasBoth else _("Choose a volume and its segmentation first.")
        enableUnless(self._ui.addAndTrainButton, hindrance, _("Add the case, and train on all cases in the folder."))
        self._completion.update()

    def _paint(self, _checked: bool = False) -> None:
        volumeNode = self._cases.volume()
        if volumeNode is None:
            return
        try:
            segmentationNode = preparePainting(volumeNode, self._cases.segmentation(), self._cases.survey.labels)
        except Exception as error:  # Slicer would only print it
            tell(explain(error), _("Nothing can be painted"))
            return
        self._ui.caseSegmentationSelector.setCurrentNode(segmentationNode)
        self._ui.caseStatusLabel.text = _("Paint every third to fifth slice in one slice view; then click Complete.")
        openSegmentEditor(segmentationNode, volumeNode)

    def _addAndTrain(self, _checked: bool = False) -> None:
        self._onAddAndTrain()

    def _completed(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Choose the result, unless another patient was chosen meanwhile."""
        volumeNode = referenceVolume(segmentationNode)
        if volumeNode is not None and self._cases.volume() is volumeNode:
            self._ui.caseSegmentationSelector.setCurrentNode(segmentationNode)
            self._onCompleted(segmentationNode)
