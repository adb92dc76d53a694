"""qMRMLNodeComboBox on the real scene: which nodes it lists, which one is current, and what it emits."""

from __future__ import annotations

import slicer
import vtk
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal

from mrml_scene import SceneFollower, observe
from pythonqt import standIn
from stored_property import storedProperty


def _refresh(self, _value=None) -> None:
    self._onSceneChanged()


@standIn
class qMRMLNodeComboBox(SceneFollower, QtWidgets.QComboBox):
    """qMRMLNodeComboBox.

    As in Slicer, the first node is chosen where `noneEnabled` is off, a node that is not acceptable cannot be chosen,
    and a node that is set to None from code leaves nothing chosen. The entries "Create new ...", "Rename ..." and
    "Delete ..." are not shown; call addNode(), renameCurrentNode() and removeCurrentNode() as they do.
    """

    mrmlSceneChanged = Signal(object)
    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged = Signal(str)
    currentNodeRenamed = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)
    nodeAboutToBeEdited = Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._nodeID = ""
        self._attributes: list[tuple[str, str, str | None]] = []
        self._observed: dict[str, tuple[slicer.vtkMRMLNode, int]] = {}
        self._filling = False
        self.setMinimumContentsLength(10)
        self.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        self.currentIndexChanged.connect(self._onIndexChanged)
        self.activated.connect(lambda _index: self.nodeActivated.emit(self.currentNode()))

    # Which nodes

    def nodes(self) -> list[slicer.vtkMRMLNode]:
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
        self._onSceneChanged()

    def removeAttribute(self, nodeType: str, name: str) -> None:
        self._attributes = [item for item in self._attributes if item[:2] != (nodeType, name)]
        self._onSceneChanged()

    def nodeCount(self) -> int:
        return len(self.nodes())

    def nodeFromIndex(self, index: int) -> slicer.vtkMRMLNode:
        return self.nodes()[index]

    # Which one is current

    def currentNode(self) -> slicer.vtkMRMLNode | None:
        return self.mrmlScene().GetNodeByID(self._nodeID) if self.mrmlScene() is not None and self._nodeID else None

    def setCurrentNode(self, node: slicer.vtkMRMLNode | str | None) -> None:
        self.setCurrentNodeID(node if isinstance(node, str) else "" if node is None else node.GetID())

    def setCurrentNodeID(self, nodeID: str | None) -> None:
        nodeID = nodeID or ""
        if nodeID == self._nodeID or (nodeID and self.findData(nodeID) < 0):
            return
        self._nodeID = nodeID
        self._showCurrent()
        self._emitCurrent()

    def setCurrentNodeIndex(self, index: int) -> None:
        self.setCurrentNode(self.nodes()[index])

    def _onIndexChanged(self, index: int) -> None:
        if not self._filling:
            self.setCurrentNodeID(self.itemData(index))

    def _showCurrent(self) -> None:
        self._filling = True
        self.setCurrentIndex(self.findData(self._nodeID))
        self._filling = False

    def _emitCurrent(self) -> None:
        node = self.currentNode()
        self.currentNodeChanged[object].emit(node)
        self.currentNodeChanged[bool].emit(node is not None)
        self.currentNodeIDChanged.emit(self._nodeID)

    # What the user can do

    def addNode(self, nodeType: str | None = None) -> slicer.vtkMRMLNode:
        nodeType = nodeType or self.nodeTypes[0]
        baseName = self.baseName or nodeType.removeprefix("vtkMRML").removesuffix("Node")
        node = self.mrmlScene().AddNewNodeByClass(nodeType, self.mrmlScene().GenerateUniqueName(baseName))
        for kind, name, value in self._attributes:
            if node.IsA(kind):
                node.SetAttribute(name, value or "")
        self._onSceneChanged()
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAdded.emit(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        node = self.currentNode()
        if node is not None:
            self.nodeAboutToBeRemoved.emit(node)
            self.mrmlScene().RemoveNode(node)

    def renameCurrentNode(self) -> None:
        name = QtWidgets.QInputDialog.getText(self, "Rename", "New name:")
        if name and self.currentNode() is not None:
            self.currentNode().SetName(name)
            self.currentNodeRenamed.emit(name)

    def editCurrentNode(self) -> None:
        self.nodeAboutToBeEdited.emit(self.currentNode())

    # Following the scene

    def _onSceneChanged(self) -> None:
        if self.mrmlScene() is not None and self.mrmlScene().IsBatchProcessing():
            return  # one update at the end, as Slicer's model does
        nodes = self.nodes()
        ids = [node.GetID() for node in nodes]
        before = self._nodeID
        if before not in ids:
            self._nodeID = "" if self.noneEnabled or not ids else ids[0]
        self._filling = True
        self.clear()
        if self.noneEnabled:
            self.addItem(self.noneDisplay, "")
        for node in nodes:
            self.addItem(node.GetName() or node.GetID(), node.GetID())
        self._filling = False
        self._showCurrent()
        self._observe(nodes)
        if before != self._nodeID:
            self._emitCurrent()

    def _observe(self, nodes: list[slicer.vtkMRMLNode]) -> None:
        """Names are shown, so nodes are watched for new ones."""
        wanted = {node.GetID(): node for node in nodes}
        for nodeID in [known for known in self._observed if known not in wanted]:
            node, tag = self._observed.pop(nodeID)
            node.RemoveObserver(tag)
        for nodeID, node in wanted.items():
            if nodeID not in self._observed:
                tag = observe(node, vtk.vtkCommand.ModifiedEvent, self._onNodeModified)
                self._observed[nodeID] = (node, tag)

    def _onNodeModified(self, node: slicer.vtkMRMLNode, _event: str) -> None:
        index = self.findData(node.GetID())
        if index >= 0:
            self.setItemText(index, node.GetName() or node.GetID())

    def stopFollowing(self) -> None:
        super().stopFollowing()
        self._observe([])

    currentNodeID = Property(str, lambda self: self._nodeID, setCurrentNodeID)
    nodeTypes, setNodeTypes = storedProperty("nodeTypes", "QStringList", ["vtkMRMLNode"], onChange=_refresh)
    hideChildNodeTypes, setHideChildNodeTypes = storedProperty(
        "hideChildNodeTypes", "QStringList", [], onChange=_refresh
    )
    showHidden, setShowHidden = storedProperty("showHidden", bool, False, onChange=_refresh)
    showChildNodeTypes, setShowChildNodeTypes = storedProperty("showChildNodeTypes", bool, True, onChange=_refresh)
    noneEnabled, setNoneEnabled = storedProperty("noneEnabled", bool, False, onChange=_refresh)
    noneDisplay, setNoneDisplay = storedProperty("noneDisplay", str, "None", onChange=_refresh)
    addEnabled, setAddEnabled = storedProperty("addEnabled", bool, True)
    removeEnabled, setRemoveEnabled = storedProperty("removeEnabled", bool, True)
    editEnabled, setEditEnabled = storedProperty("editEnabled", bool, False)
    renameEnabled, setRenameEnabled = storedProperty("renameEnabled", bool, False)
    baseName, setBaseName = storedProperty("baseName", str, "")
    selectNodeUponCreation, setSelectNodeUponCreation = storedProperty("selectNodeUponCreation", bool, True)
    interactionNodeSingletonTag, setInteractionNodeSingletonTag = storedProperty("interactionNodeSingletonTag", str, "")
