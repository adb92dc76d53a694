"""The section "Results" of the panel: the segments in figures, and where to go on with them."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from .nodes import readProvenance, readSegments
from .parameters import SegmentParameters


class ResultsSection:
    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._parameters: Any = None  # a SegmentParameters; Slicer's wrapper adds methods at run time
        header = ui.resultsTable.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(1, qt.QHeaderView.Stretch)
        ui.editButton.connect("clicked(bool)", self._edit)

    def setParameters(self, parameters: SegmentParameters | None) -> None:
        self._parameters = parameters
        self.update()

    def update(self) -> None:
        """Show the chosen segmentation as it is now."""
        node = self._parameters.outputSegmentation if self._parameters is not None else None
        self._ui.show3DButton.setSegmentationNode(node)
        self._ui.editButton.enabled = node is not None
        self._ui.editButton.toolTip = (
            _("Correct the segments by hand.") if node is not None else _("Choose or make a segmentation first.")
        )
        self._fillTable(node)
        self._ui.provenanceLabel.text = _describeProvenance(readProvenance(node)) if node is not None else ""

    def _fillTable(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        table, rows = self._ui.resultsTable, readSegments(node) if node is not None else []
        table.setRowCount(len(rows))
        for row, figures in enumerate(rows):
            swatch = qt.QTableWidgetItem()
            swatch.setBackground(qt.QBrush(qt.QColor.fromRgbF(*figures.color)))
            volume = qt.QTableWidgetItem(f"{figures.volumeMl:.2f}")
            volume.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            confidence = qt.QTableWidgetItem(figures.confidence)
            confidence.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            for column, item in enumerate((swatch, qt.QTableWidgetItem(figures.name), volume, confidence)):
                table.setItem(row, column, item)

    def _edit(self) -> None:
        """Hand the segmentation and its volume on to the Segment Editor."""
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(self._parameters.outputSegmentation)
        editor.setSourceVolumeNode(self._parameters.inputVolume)


def _describeProvenance(provenance: dict[str, str]) -> str:
    if not provenance:
        return ""
    return _("Made by {model} from {volume} on {device} in {seconds} s.").format(
        model=provenance["Model"],
        volume=provenance["Volume"],
        device=provenance["Device"],
        seconds=provenance["Seconds"],
    )
