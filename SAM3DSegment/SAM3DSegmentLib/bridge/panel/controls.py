"""What several sections do with a single button, list or module."""

from __future__ import annotations

from pathlib import Path

import slicer

import qt

from ...model_store import SUFFIX
from .dialogs import plain


def enableUnless(button: qt.QPushButton, hindrance: str, toolTip: str) -> None:
    """Let the button explain itself: what it does, or why it cannot be clicked now."""
    button.enabled = not hindrance
    button.toolTip = plain(hindrance or toolTip)


def fillList(box: qt.QComboBox, titles: dict[str, str]) -> None:
    """List these data with their titles, instead of what was listed; no signal is emitted."""
    wasBlocked = box.blockSignals(True)
    box.clear()
    for value, title in titles.items():
        box.addItem(title, value)
    box.blockSignals(wasBlocked)


def selectData(box: qt.QComboBox, value: str) -> None:
    """Select the item with this data, which is appended if it is not listed yet; no signal is emitted."""
    index = box.findData(value)
    wasBlocked = box.blockSignals(True)
    if index < 0:
        box.addItem(Path(value).stem if value.endswith(SUFFIX) else value, value)
        index = box.count - 1
    box.currentIndex = index
    box.blockSignals(wasBlocked)


def openSegmentEditor(
    segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLScalarVolumeNode | None
) -> None:
    """Hand a segmentation and its volume on to the Segment Editor."""
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
    editor.setSegmentationNode(segmentationNode)
    editor.setSourceVolumeNode(volumeNode)
