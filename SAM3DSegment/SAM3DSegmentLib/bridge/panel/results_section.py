"""The section "Results" of the panel: the figures of the segments, and what to do with them next."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

import qt

from ...quality import BEST
from ..dependencies import Installer
from ..problems import explain
from ..scene.figures import SegmentMeter, readFigures
from ..scene.observing import SEGMENT_CHANGES, VOXEL_CHANGES, Observer
from ..scene.segmentations import readProvenance, referenceVolume
from ..scene.undo import canUndo, isChangedSince, undo
from .complete_box import CompleteBox, Nodes
from .controls import enableUnless, openSegmentEditor
from .dialogs import ask, plain, tell
from .protocols import Observe, Parameters, Ui

SETTLING_MS = 300  # after the last change of a segmentation, before it is measured again


class ResultsSection:
    """Follows the chosen segmentation while the panel is shown; at other times measuring would slow down painting.

    onUseAsCase(volume, segmentation) is called when the user wants to train on it; onRunningChanged and whyBusy as for
    `SegmentSection`, of a completion.
    """

    def __init__(
        self,
        ui: Ui,
        installer: Installer,
        addObserver: Observe,
        removeObserver: Observe,
        onUseAsCase: Callable[[slicer.vtkMRMLScalarVolumeNode | None, slicer.vtkMRMLSegmentationNode], None],
        onRunningChanged: Callable[[], None],
        whyBusy: Callable[[], str],
    ) -> None:
        self._ui = ui
        self._onUseAsCase = onUseAsCase
        self._parameters: Parameters | None = None
        changes = SEGMENT_CHANGES + VOXEL_CHANGES
        self._observer = Observer(addObserver, removeObserver, changes, self._segmentationChanged)
        self._meter = SegmentMeter()
        self._isShown = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLING_MS)
        self._timer.connect("timeout()", self.update)
        header = ui.resultsTable.horizontalHeader()
        for column in (0, 2, 3):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(1, qt.QHeaderView.Stretch)
        ui.editButton.connect("clicked(bool)", self._edit)
        ui.undoButton.connect("clicked(bool)", self._undo)
        ui.useAsCaseButton.connect("clicked(bool)", self._useAsCase)
        ui.completeStatusLabel.visible = False
        self._completion = CompleteBox(
            ui.completeButton,
            ui.completeStatusLabel,
            ui.completeProgressBar,
            installer,
            self._nodes,
            self._completed,
            onRunningChanged,
            whyBusy,
        )

    @property
    def isRunning(self) -> bool:
        """Whether a segmentation is being completed."""
        return self._completion.isRunning

    def setParameters(self, parameters: Parameters | None) -> None:
        self._parameters = parameters
        self._completion.setParameters(parameters)
        self.update()

    def setShown(self, isShown: bool) -> None:
        self._isShown = isShown
        if isShown:
            self.update()

    def abandon(self) -> None:
        """The scene is being closed."""
        self._completion.abandon()

    def cleanup(self) -> None:
        """In Slicer the connected timer would keep this object alive."""
        self.abandon()
        self._timer.stop()
        self._timer.deleteLater()

    def update(self) -> None:
        """Show the chosen segmentation as it is now."""
        node = self._parameters.outputSegmentation if self._parameters is not None else None
        self._observer.observeSegments(node)
        self._ui.show3DButton.setSegmentationNode(node)
        hindrance = _("Choose or make a segmentation first.") if node is None else ""
        enableUnless(self._ui.editButton, hindrance, _("Correct the segments by hand."))
        self._ui.undoButton.enabled = canUndo(node)
        self._ui.useAsCaseButton.enabled = node is not None
        self.showComplete()
        self._fillTable(node)
        self._ui.provenanceLabel.text = _describeProvenance(readProvenance(node)) if node is not None else ""

    def showComplete(self) -> None:
        """Whether there can be a completion now may have changed."""
        self._completion.update()

    def _segmentationChanged(self) -> None:
        if self._isShown:
            self._timer.start()

    def _fillTable(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        table, rows = self._ui.resultsTable, readFigures(node, self._meter) if node is not None else []
        table.setRowCount(len(rows))
        for row, figures in enumerate(rows):
            swatch = qt.QTableWidgetItem()
            swatch.setBackground(qt.QBrush(qt.QColor.fromRgbF(*figures.color)))
            name = qt.QTableWidgetItem(figures.name)
            name.setToolTip(plain(figures.name))  # which may be too long for its column
            volume = qt.QTableWidgetItem(f"{figures.volumeMl:.2f}")
            volume.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            confidence = qt.QTableWidgetItem(figures.confidence)
            confidence.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            for column, item in enumerate((swatch, name, volume, confidence)):
                table.setItem(row, column, item)

    def _undo(self, _checked: bool = False) -> None:
        node = self._parameters.outputSegmentation if self._parameters is not None else None
        if node is None:
            return
        question = _("The segments were edited since. Undo these edits, too?")
        if isChangedSince(node) and not ask(question, _("Undo")):
            return
        try:
            undo(node)
        except Exception as error:  # Slicer would only print it
            tell(explain(error), _("Nothing was undone"))
        self.update()

    def _useAsCase(self, _checked: bool = False) -> None:
        if self._parameters is not None and self._parameters.outputSegmentation is not None:
            self._onUseAsCase(self._parameters.inputVolume, self._parameters.outputSegmentation)

    def _nodes(self) -> Nodes:
        """The chosen segmentation, and the volume that it was drawn on."""
        node = self._parameters.outputSegmentation if self._parameters is not None else None
        if self._parameters is None or node is None:
            return None, None
        return referenceVolume(node) or self._parameters.inputVolume, node

    def _completed(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Choose the result, unless another patient was chosen meanwhile."""
        parameters = self._parameters
        if parameters is not None and parameters.inputVolume is referenceVolume(segmentationNode):
            parameters.outputSegmentation = segmentationNode
        self.update()

    def _edit(self, _checked: bool = False) -> None:
        if self._parameters is not None:
            openSegmentEditor(self._parameters.outputSegmentation, self._parameters.inputVolume)


def _describeProvenance(provenance: dict[str, str]) -> str:
    if not provenance:
        return ""
    return _("Made by {model} from {volume} with {quality} quality on {device} in {seconds} s.").format(
        model=provenance["Model"],
        volume=provenance["Volume"],
        quality=provenance.get("Quality", BEST),  # older scenes do not have it
        device=provenance["Device"],
        seconds=provenance["Seconds"],
    )
