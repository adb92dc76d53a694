"""Selectors for the channels of a model besides the first, which is the volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer

import qt

from ..scene.channels import nodeOfChannel
from ..scene.volumes import shownImages


class ChannelsBox:
    """`widget` is empty, and shown only where there are such channels; onChanged() is called when a node is chosen."""

    def __init__(self, widget: qt.QWidget, onChanged: Callable[[], None]) -> None:
        self._widget = widget
        self._onChanged = onChanged
        self._names: tuple[str, ...] = ()
        self._rows: list[tuple[qt.QLabel, slicer.qMRMLNodeComboBox]] = []
        layout = qt.QGridLayout(widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setColumnStretch(1, 1)
        self._layout = layout
        widget.visible = False

    def show(self, names: Sequence[str]) -> bool:
        """A selector for each name, with the node that is called so where none is chosen. Whether the names are new."""
        isNew = tuple(names) != self._names
        self._names = tuple(names)
        while len(self._rows) < len(names):
            self._rows.append(self._addRow())
        for number, (label, selector) in enumerate(self._rows):
            isUsed = number < len(names)
            label.visible = selector.visible = isUsed
            if isUsed and (isNew or selector.currentNode() is None):
                label.text = f"{names[number]}:"
                selector.setCurrentNode(nodeOfChannel(names[number], shownImages()))
        self._widget.visible = bool(names)
        return isNew

    def nodes(self) -> dict[str, slicer.vtkMRMLScalarVolumeNode | None]:
        """What is chosen for each name."""
        return {name: selector.currentNode() for name, (_label, selector) in zip(self._names, self._rows)}

    def setEnabled(self, isEnabled: bool) -> None:
        self._widget.enabled = isEnabled

    def _addRow(self) -> tuple[qt.QLabel, slicer.qMRMLNodeComboBox]:
        label, selector = qt.QLabel(), slicer.qMRMLNodeComboBox()
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.addEnabled = selector.removeEnabled = selector.renameEnabled = False
        selector.noneEnabled = True
        selector.setMRMLScene(slicer.mrmlScene)
        selector.connect("currentNodeChanged(vtkMRMLNode*)", self._chosen)
        row = len(self._rows)
        self._layout.addWidget(label, row, 0)
        self._layout.addWidget(selector, row, 1)
        return label, selector

    def _chosen(self, _node: Any = None) -> None:
        self._onChanged()
