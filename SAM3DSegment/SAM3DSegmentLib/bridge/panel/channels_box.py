"""Selectors for the channels of a model besides the first, which is the volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import slicer

import qt

from ..scene.channels import nodesOfChannels
from ..scene.volumes import shownImages


class ChannelsBox:
    """`widget` is empty, and shown only where there are such channels.

    onChanged() is called when the user chooses a node.
    """

    def __init__(self, widget: qt.QWidget, onChanged: Callable[[], None]) -> None:
        self._widget = widget
        self._onChanged = onChanged
        self._names: tuple[str, ...] = ()
        self._volumeId = ""
        self._isShowing = False
        self._rows: list[tuple[qt.QLabel, slicer.qMRMLNodeComboBox]] = []
        layout = qt.QGridLayout(widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setColumnStretch(1, 1)
        self._layout = layout
        widget.visible = False

    def show(
        self,
        names: Sequence[str],
        volumeNode: slicer.vtkMRMLScalarVolumeNode | None,
        kept: Mapping[str, slicer.vtkMRMLScalarVolumeNode | None] | None = None,
    ) -> None:
        """A selector for each name but the first, which is the volume's.

        For another volume, or where none is chosen, the node that was `kept` is chosen, else the one that is called so.
        """
        volumeId = volumeNode.GetID() if volumeNode is not None else ""
        isNew = (tuple(names[1:]), volumeId) != (self._names, self._volumeId)
        self._names, self._volumeId = tuple(names[1:]), volumeId
        while len(self._rows) < len(self._names):
            self._rows.append(self._addRow())
        found = nodesOfChannels(names, volumeNode, shownImages()) | {
            n: node for n, node in (kept or {}).items() if node
        }
        self._isShowing = True
        for (label, selector), name in zip_longest(self._rows, self._names):
            label.visible = selector.visible = name is not None
            if name is not None and (isNew or selector.currentNode() is None):
                label.text = f"{name}:"
                selector.setCurrentNode(found[name])
        self._isShowing = False
        self._widget.visible = bool(self._names)

    def forget(self) -> None:
        """What was chosen does not count for the scene that comes."""
        self._names, self._volumeId = (), ""

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
        selector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", self._aboutToBeRemoved)
        row = len(self._rows)
        self._layout.addWidget(label, row, 0)
        self._layout.addWidget(selector, row, 1)
        return label, selector

    def _chosen(self, _node: Any = None) -> None:
        if not self._isShowing:
            self._onChanged()

    def _aboutToBeRemoved(self, node: Any) -> None:
        """Choose none: Qt would choose the volume beside it."""
        self._isShowing = True
        for _label, selector in self._rows:
            if selector.currentNode() in (node, None):  # the scene may not have it any more
                selector.setCurrentNode(None)
        self._isShowing = False
        self._onChanged()
