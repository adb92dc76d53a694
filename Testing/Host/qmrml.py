"""Slicer's own widgets (`slicer.qMRML...`, `slicer.qSlicerWidget`) on the real MRML scene."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Signal

from ctk import ctkCheckableComboBox, ctkCollapsibleButton, ctkMenuButton
from ctk_numbers import ctkDoubleSpinBox, ctkRangeWidget, ctkSliderWidget
from mrml_node_combo_box import qMRMLNodeComboBox  # noqa: F401 - part of this module's names
from mrml_scene import SceneFollower, observe
from pythonqt import standIn
from stored_property import storedProperty


@standIn
class qMRMLWidget(SceneFollower, QtWidgets.QWidget):
    """qMRMLWidget: hands its scene on to the widgets that are connected to mrmlSceneChanged."""

    mrmlSceneChanged = Signal(object)


@standIn
class qSlicerWidget(qMRMLWidget):
    """qSlicerWidget: the usual root of a form."""


@standIn
class qMRMLCollapsibleButton(SceneFollower, ctkCollapsibleButton):
    """qMRMLCollapsibleButton: a section that knows the scene."""

    mrmlSceneChanged = Signal(object)


@standIn
class qMRMLSliderWidget(SceneFollower, ctkSliderWidget):
    """qMRMLSliderWidget: a slider in the scene's units; units are not emulated."""

    mrmlSceneChanged = Signal(object)
    quantity, setQuantity = storedProperty("quantity", str, "")


@standIn
class qMRMLSpinBox(SceneFollower, ctkDoubleSpinBox):
    """qMRMLSpinBox: a spin box in the scene's units; units are not emulated."""

    mrmlSceneChanged = Signal(object)
    quantity, setQuantity = storedProperty("quantity", str, "")


@standIn
class qMRMLRangeWidget(SceneFollower, ctkRangeWidget):
    """qMRMLRangeWidget: a range in the scene's units; units are not emulated."""

    mrmlSceneChanged = Signal(object)
    quantity, setQuantity = storedProperty("quantity", str, "")


@standIn
class qMRMLCheckableNodeComboBox(SceneFollower, ctkCheckableComboBox):
    """qMRMLCheckableNodeComboBox: several nodes of the scene can be checked."""

    mrmlSceneChanged = Signal(object)
    checkedNodesChanged = Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self.checkedIndexesChanged.connect(self.checkedNodesChanged)

    def _onSceneChanged(self) -> None:
        checked = {node.GetID() for node in self.checkedNodes()}
        self.clear()
        scene = self.mrmlScene()
        every = [] if scene is None else [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        for node in every:
            if any(node.IsA(kind) for kind in self.nodeTypes) and (self.showHidden or not node.GetHideFromEditors()):
                item = QtGui.QStandardItem(node.GetName())
                item.setData(node.GetID(), QtCore.Qt.UserRole)
                item.setCheckable(True)
                item.setCheckState(QtCore.Qt.Checked if node.GetID() in checked else QtCore.Qt.Unchecked)
                self.model().appendRow(item)

    def checkedNodes(self) -> list[slicer.vtkMRMLNode]:
        if self.mrmlScene() is None:
            return []
        found = [self.mrmlScene().GetNodeByID(self.itemData(index.row())) for index in self.checkedIndexes()]
        return [node for node in found if node is not None]

    def setUserCheckState(self, node: slicer.vtkMRMLNode, state: QtCore.Qt.CheckState) -> None:
        self.setCheckState(self.model().index(self.findData(node.GetID()), 0), state)

    nodeTypes, setNodeTypes = storedProperty(
        "nodeTypes", "QStringList", [], onChange=lambda self, _kinds: self._onSceneChanged()
    )
    showHidden, setShowHidden = storedProperty("showHidden", bool, False)
    showChildNodeTypes, setShowChildNodeTypes = storedProperty("showChildNodeTypes", bool, True)
    noneEnabled, setNoneEnabled = storedProperty("noneEnabled", bool, False)


class SegmentationFollower:
    """segmentationNode() and setSegmentationNode() of the widgets that show one segmentation."""

    def segmentationNode(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self.__dict__.get("_segmentationNode")

    def setSegmentationNode(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        if self.segmentationNode() is not None:
            self._segmentationNode.RemoveObserver(self._segmentationTag)
        self._segmentationNode = node
        if node is not None:
            self._segmentationTag = observe(node, vtk.vtkCommand.AnyEvent, self._onSegmentationEvent)
        self._showSegmentation()

    def _onSegmentationEvent(self, _caller, event: str) -> None:
        if event != "DeleteEvent":
            self._showSegmentation()

    def _showSegmentation(self) -> None:
        """For widgets that show the segments."""


@standIn
class qMRMLSegmentsTableView(SegmentationFollower, qMRMLWidget):
    """qMRMLSegmentsTableView: colour and name of every segment, and which are selected. Nothing can be edited here."""

    selectionChanged = Signal(QtCore.QItemSelection, QtCore.QItemSelection)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._table = QtWidgets.QTableWidget(0, 2)
        self._table.setHorizontalHeaderLabels(["Color", "Name"])
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectRows)
        self._table.selectionModel().selectionChanged.connect(self.selectionChanged)
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._table)

    def _showSegmentation(self) -> None:
        selected = self.selectedSegmentIDs()
        self._table.setRowCount(0)
        node = self.segmentationNode()
        segmentation = node.GetSegmentation() if node is not None else None
        for row in range(segmentation.GetNumberOfSegments() if segmentation is not None else 0):
            segment = segmentation.GetNthSegment(row)
            color = QtWidgets.QTableWidgetItem()
            color.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            name = QtWidgets.QTableWidgetItem(segment.GetName())
            name.setData(QtCore.Qt.UserRole, segmentation.GetNthSegmentID(row))
            self._table.insertRow(row)
            self._table.setItem(row, 0, color)
            self._table.setItem(row, 1, name)
        self.setSelectedSegmentIDs(selected)

    def _segmentID(self, row: int) -> str:
        return self._table.item(row, 1).data(QtCore.Qt.UserRole)

    def segmentCount(self) -> int:
        return self._table.rowCount

    def displayedSegmentIDs(self) -> list[str]:
        return [self._segmentID(row) for row in range(self._table.rowCount)]

    def selectedSegmentIDs(self) -> list[str]:
        return [self._segmentID(index.row()) for index in self._table.selectionModel().selectedRows()]

    def setSelectedSegmentIDs(self, segmentIDs: list[str]) -> None:
        self._table.clearSelection()
        flags = QtCore.QItemSelectionModel.Select | QtCore.QItemSelectionModel.Rows
        for row, segmentID in enumerate(self.displayedSegmentIDs()):
            if segmentID in segmentIDs:
                self._table.selectionModel().select(self._table.model().index(row, 0), flags)

    def clearSelection(self) -> None:
        self._table.clearSelection()

    selectionMode, setSelectionMode = storedProperty("selectionMode", int, 3)
    headerVisible, setHeaderVisible = storedProperty("headerVisible", bool, True)
    visibilityColumnVisible, setVisibilityColumnVisible = storedProperty("visibilityColumnVisible", bool, True)
    colorColumnVisible, setColorColumnVisible = storedProperty("colorColumnVisible", bool, True)
    opacityColumnVisible, setOpacityColumnVisible = storedProperty("opacityColumnVisible", bool, True)
    statusColumnVisible, setStatusColumnVisible = storedProperty("statusColumnVisible", bool, False)
    layerColumnVisible, setLayerColumnVisible = storedProperty("layerColumnVisible", bool, False)
    filterBarVisible, setFilterBarVisible = storedProperty("filterBarVisible", bool, False)
    readOnly, setReadOnly = storedProperty("readOnly", bool, False)


@standIn
class qMRMLSegmentationShow3DButton(SegmentationFollower, ctkMenuButton):
    """qMRMLSegmentationShow3DButton: checked while the segmentation has surfaces; a click makes or removes them."""

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self.setText("Show 3D")
        self.setCheckable(True)
        self.setMenu(QtWidgets.QMenu(self))  # of smoothing options, which are not emulated
        self.toggled.connect(self._onToggled)

    def _onToggled(self, show: bool) -> None:
        node = self.segmentationNode()
        if node is None or show == self._hasSurfaces():
            return
        if show:
            node.CreateClosedSurfaceRepresentation()
        else:
            node.RemoveClosedSurfaceRepresentation()

    def _hasSurfaces(self) -> bool:
        node = self.segmentationNode()
        segmentation = node.GetSegmentation() if node is not None else None
        return segmentation is not None and segmentation.ContainsRepresentation("Closed surface")

    def _showSegmentation(self) -> None:
        self.setEnabled(self.segmentationNode() is not None)
        self.setChecked(self._hasSurfaces())


@standIn
class qMRMLSegmentEditorWidget(SegmentationFollower, qMRMLWidget):
    """qMRMLSegmentEditorWidget: remembers what it is told to edit. No effects, no drawing."""

    segmentationNodeChanged = Signal(object)
    sourceVolumeNodeChanged = Signal(object)
    currentSegmentIDChanged = Signal(str)

    def setSegmentationNode(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        super().setSegmentationNode(node)
        self.segmentationNodeChanged.emit(node)

    def sourceVolumeNode(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        return self.__dict__.get("_sourceVolumeNode")

    def setSourceVolumeNode(self, node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        self._sourceVolumeNode = node
        self.sourceVolumeNodeChanged.emit(node)

    def mrmlSegmentEditorNode(self) -> slicer.vtkMRMLSegmentEditorNode | None:
        return self.__dict__.get("_editorNode")

    def setMRMLSegmentEditorNode(self, node: slicer.vtkMRMLSegmentEditorNode | None) -> None:
        self._editorNode = node

    def currentSegmentID(self) -> str:
        return self.__dict__.get("_segmentID", "")

    def setCurrentSegmentID(self, segmentID: str) -> None:
        self._segmentID = segmentID
        self.currentSegmentIDChanged.emit(segmentID)
