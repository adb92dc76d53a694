"""qMRMLNodeComboBox on the real scene: which nodes it lists, which one is current, and what it emits."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from mrml_scene import SceneFollower, observe
from pythonqt import standIn
from stored_property import storedProperty

_ACTION_ROLE = QtCore.Qt.UserRole + 1  # of an entry that does something: what to do, and with which node type
_SEPARATOR = "separator"


def _refresh(self, _value=None) -> None:
    self._listNodes()
    self._listActions()


@standIn
class qMRMLNodeComboBox(SceneFollower, QtWidgets.QWidget):
    """qMRMLNodeComboBox: a widget with a real combo box in it, which decides what becomes current when rows go.

    As in Slicer it is disabled until it has a scene; no node is chosen until somebody chooses one, with `noneEnabled`
    or without; setting what is not listed chooses None; currentNodeChanged comes again with the same node when that is
    renamed, or moves to another row because an earlier one goes; importing a scene leaves None chosen, as all rows are
    made anew. Python sees no `nodes()`, `count`, `itemText`, `currentText` of it.
    """

    mrmlSceneChanged = Signal(object)
    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAddedByUserAction = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAboutToBeEdited = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._attributes: list[tuple[str, str, str | None]] = []
        self._labels: dict[str, str] = {}
        self._observed: dict[str, tuple[slicer.vtkMRMLNode, int]] = {}
        self._requestedID = ""
        self._box = QtWidgets.QComboBox()
        self._box.setMinimumContentsLength(10)
        self._box.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self._box.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._told = (-1, "", "")  # the current row, its ID and its text, as far as they were told
        self._box.currentIndexChanged.connect(lambda _row: self._onBoxChanged())
        self._box.currentTextChanged.connect(lambda _text: self._onBoxChanged())
        self._box.activated.connect(self._onActivated)
        self.setFocusProxy(self._box)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self.setEnabled(False)

    # Which nodes

    def _accepted(self) -> list[slicer.vtkMRMLNode]:
        scene = self.mrmlScene()
        if scene is None:
            return []
        every = (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes()))
        return [node for node in every if self._accepts(node)]

    def _accepts(self, node: slicer.vtkMRMLNode) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        kinds = self.nodeTypes
        if not any(node.IsA(kind) if self.showChildNodeTypes else node.GetClassName() == kind for kind in kinds):
            return False
        if any(node.IsA(kind) for kind in self.hideChildNodeTypes):
            return False
        wanted = [(name, value) for kind, name, value in self._attributes if node.IsA(kind)]
        return all(node.GetAttribute(name) == value if value else node.GetAttribute(name) for name, value in wanted)

    def addAttribute(self, nodeType: str, name: str, value: str | None = None) -> None:
        self._attributes.append((nodeType, name, None if value is None else str(value)))
        self._listNodes()

    def removeAttribute(self, nodeType: str, name: str) -> None:
        self._attributes = [item for item in self._attributes if item[:2] != (nodeType, name)]
        self._listNodes()

    def _rows(self) -> range:
        """Rows of nodes: after None, before the separator and the actions."""
        first = int(self.noneEnabled)
        last = first
        while last < self._box.count and self._box.itemData(last, _ACTION_ROLE) is None:
            last += 1
        return range(first, last)

    def nodeCount(self) -> int:
        return len(self._rows())

    def nodeFromIndex(self, index: int) -> slicer.vtkMRMLNode | None:
        return self._nodeOf(self._rows()[index]) if 0 <= index < self.nodeCount() else None

    def nodeTypeLabel(self, nodeType: str) -> str:
        scene = self.mrmlScene()
        known = scene.GetTypeDisplayNameByClassName(nodeType) if scene is not None else ""
        return self._labels.get(nodeType) or known or "node"

    def setNodeTypeLabel(self, label: str, nodeType: str) -> None:
        self._labels[nodeType] = label
        self._listActions()

    # Which one is current

    def _nodeOf(self, row: int) -> slicer.vtkMRMLNode | None:
        nodeID = self._box.itemData(row) if row >= 0 else None
        return self.mrmlScene().GetNodeByID(nodeID) if nodeID and self.mrmlScene() is not None else None

    def currentNode(self) -> slicer.vtkMRMLNode | None:
        return self._nodeOf(self._box.currentIndex)

    def setCurrentNode(self, node: slicer.vtkMRMLNode | str | None) -> None:
        self.setCurrentNodeID(node if isinstance(node, str) else "" if node is None else node.GetID())

    def setCurrentNodeID(self, nodeID: str | None) -> None:
        if self.mrmlScene() is None:
            self._requestedID = nodeID or ""
            return
        row = self._box.findData(nodeID) if nodeID else -1
        self._box.setCurrentIndex(row if row >= 0 else self._noneRow())

    def setCurrentNodeIndex(self, index: int) -> None:
        rows = self._rows()
        self._box.setCurrentIndex(rows[index] if 0 <= index < len(rows) else self._noneRow())

    def _noneRow(self) -> int:
        return 0 if self.noneEnabled else -1

    def _onBoxChanged(self) -> None:
        """Another row, or another name in it."""
        now = self._now()
        if now != self._told:
            self._told = now
            self._onCurrentChanged()

    def _now(self) -> tuple[int, str, str]:
        row = self._box.currentIndex
        return row, self._box.itemData(row) or "", self._box.currentText

    def _onCurrentChanged(self) -> None:
        """An entry that is no node and not None, such as an action, cannot be current: the last node is instead."""
        row, node = self._box.currentIndex, self.currentNode()
        if node is None and row != self._noneRow() and self.nodeCount():
            self.setCurrentNodeIndex(self.nodeCount() - 1)
        else:
            self._emitCurrent()

    def _emitCurrent(self) -> None:
        node = self.currentNode()
        self._told = self._now()
        self.currentNodeChanged[object].emit(node)
        self.currentNodeChanged[bool].emit(node is not None)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    # What the user can do

    def _onActivated(self, row: int) -> None:
        if self._nodeOf(row) is not None or row == self._noneRow():
            self.nodeActivated.emit(self._nodeOf(row))

    def chooseRow(self, row: int) -> None:
        """For the host: a click on an entry of the opened list."""
        if self._box.itemData(row, _ACTION_ROLE) is None:
            self._box.setCurrentIndex(row)
            self._box.activated.emit(row)
            return
        action, nodeType = self._box.itemData(row, _ACTION_ROLE)
        if action == "create":
            node = self.addNode(nodeType)
            self.setCurrentNode(node)
            self.nodeAddedByUserAction.emit(node)
        else:
            {"delete": self.removeCurrentNode, "rename": self.renameCurrentNode, "edit": self.editCurrentNode}[action]()

    def addNode(self, nodeType: str | None = None) -> slicer.vtkMRMLNode | None:
        nodeType = nodeType or self.nodeTypes[0]
        if nodeType not in self.nodeTypes:
            return None
        baseName = self.baseName or self.nodeTypeLabel(nodeType)
        node = self.mrmlScene().CreateNodeByClass(nodeType)
        node.UnRegister(None)  # Python owns it now
        node.SetName(self.mrmlScene().GenerateUniqueName(baseName))
        for kind, name, value in self._attributes:
            if node.IsA(kind):
                node.SetAttribute(name, value or "")
        self.mrmlScene().AddNode(node)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        self.mrmlScene().RemoveNode(self.currentNode())

    def renameCurrentNode(self) -> None:
        node = self.currentNode()
        if node is None:
            return
        name = QtWidgets.QInputDialog.getText(self, f"Rename {self.nodeTypeLabel(node.GetClassName())}", "New name:")
        if name:
            node.SetName(name)
            self.currentNodeRenamed.emit(name)

    def editCurrentNode(self) -> None:
        self.nodeAboutToBeEdited.emit(self.currentNode())

    # Following the scene

    def _onNodesChanged(self, scene: slicer.vtkMRMLScene, _event: str) -> None:
        if not scene.IsImporting() and not scene.IsClosing():
            self._listNodes()

    def _onSceneChanged(self) -> None:
        """There is another scene, or none."""
        self.setEnabled(self.mrmlScene() is not None)
        wanted, self._requestedID = self._requestedID, ""
        wasBlocked = self._box.blockSignals(True)
        self._box.clear()
        _refresh(self)
        self._box.setCurrentIndex(self._noneRow())
        self._box.blockSignals(wasBlocked)
        if wanted:
            self.setCurrentNodeID(wanted)

    def _onSceneReplaced(self, _caller, _event) -> None:
        """Every row is new, and the current one is None."""
        before = self.currentNode()
        wasBlocked = self._box.blockSignals(True)
        self._box.clear()
        _refresh(self)
        self._box.setCurrentIndex(self._noneRow())
        self._box.blockSignals(wasBlocked)
        if before is not None:
            self._emitCurrent()

    def _listNodes(self) -> None:
        """Insert and remove what has changed, so that the other rows stay what they are."""
        if self.noneEnabled and self._box.findData("") < 0:
            self._box.insertItem(0, self.noneDisplay, "")
        nodes = self._accepted()
        ids = [node.GetID() for node in nodes]
        for row in reversed(self._rows()):
            if self._box.itemData(row) not in ids:
                self._aboutToRemove(row)
                self._box.removeItem(row)
        first = int(self.noneEnabled)
        for position, node in enumerate(nodes):
            if self._box.findData(node.GetID()) < 0:
                self._insert(first + position, node)

    def _insert(self, row: int, node: slicer.vtkMRMLNode) -> None:
        isFirst = self._box.currentIndex < 0  # which Qt's box would choose
        wasBlocked = self._box.blockSignals(isFirst)
        self._box.insertItem(row, node.GetName() or node.GetID(), node.GetID())
        if isFirst:
            self._box.setCurrentIndex(-1)
        self._box.blockSignals(wasBlocked)
        self._observeNode(node)
        self.nodeAdded.emit(node)

    def _listActions(self) -> None:
        for row in reversed(range(self._rows().stop, self._box.count)):
            self._box.removeItem(row)
        if self.mrmlScene() is None:
            return
        kinds = self.nodeTypes
        label = self.nodeTypeLabel(kinds[0] if len(kinds) == 1 else "")
        entries = [("rename", f"Rename current {label}", "")] if self.renameEnabled else []
        entries += [("edit", f"Edit current {label}", "")] if self.editEnabled else []
        if self.addEnabled:
            entries += [("create", f"Create new {self.nodeTypeLabel(kind)}", kind) for kind in kinds]
        entries += [("delete", f"Delete current {label}", "")] if self.removeEnabled else []
        if entries:
            self._box.insertSeparator(self._box.count)
            self._box.setItemData(self._box.count - 1, (_SEPARATOR, ""), _ACTION_ROLE)
        for action, text, kind in entries:
            self._box.addItem(text)
            self._box.setItemData(self._box.count - 1, (action, kind), _ACTION_ROLE)

    def _observeNode(self, node: slicer.vtkMRMLNode) -> None:
        """Names are shown and attributes filtered, so nodes are watched."""
        if node.GetID() not in self._observed:
            self._observed[node.GetID()] = (node, observe(node, vtk.vtkCommand.ModifiedEvent, self._onNodeModified))

    def _aboutToRemove(self, row: int) -> None:
        node, tag = self._observed.pop(self._box.itemData(row), (None, 0))
        if node is not None:
            self.nodeAboutToBeRemoved.emit(node)
            node.RemoveObserver(tag)

    def _onNodeModified(self, node: slicer.vtkMRMLNode, _event: str) -> None:
        row = self._box.findData(node.GetID() or "-")
        if row >= 0 and not self._accepts(node):
            self._listNodes()
        elif row >= 0 and self._box.itemText(row) != node.GetName():
            self._box.setItemText(row, node.GetName() or node.GetID())

    def stopFollowing(self) -> None:
        super().stopFollowing()
        for node, tag in self._observed.values():
            node.RemoveObserver(tag)
        self._observed.clear()

    currentNodeID = Property(
        str, lambda self: self.currentNode().GetID() if self.currentNode() is not None else "", setCurrentNodeID
    )
    nodeTypes, setNodeTypes = storedProperty("nodeTypes", "QStringList", ["vtkMRMLNode"], onChange=_refresh)
    hideChildNodeTypes, setHideChildNodeTypes = storedProperty(
        "hideChildNodeTypes", "QStringList", [], onChange=_refresh
    )
    showHidden, setShowHidden = storedProperty("showHidden", bool, False, onChange=_refresh)
    showChildNodeTypes, setShowChildNodeTypes = storedProperty("showChildNodeTypes", bool, True, onChange=_refresh)
    noneEnabled, setNoneEnabled = storedProperty("noneEnabled", bool, False, onChange=_refresh)
    noneDisplay, setNoneDisplay = storedProperty("noneDisplay", str, "None", onChange=_refresh)
    addEnabled, setAddEnabled = storedProperty("addEnabled", bool, True, onChange=_refresh)
    removeEnabled, setRemoveEnabled = storedProperty("removeEnabled", bool, True, onChange=_refresh)
    editEnabled, setEditEnabled = storedProperty("editEnabled", bool, False, onChange=_refresh)
    renameEnabled, setRenameEnabled = storedProperty("renameEnabled", bool, False, onChange=_refresh)
    baseName, setBaseName = storedProperty("baseName", str, "")
    selectNodeUponCreation, setSelectNodeUponCreation = storedProperty("selectNodeUponCreation", bool, True)
    interactionNodeSingletonTag, setInteractionNodeSingletonTag = storedProperty("interactionNodeSingletonTag", str, "")
