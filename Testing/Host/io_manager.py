"""`slicer.app.ioManager()`: what slicer.util's load and save functions call, on the real storage nodes and logics."""

from __future__ import annotations

import os

import slicer
import vtk

_FILE_TYPES = {
    ".seg.nrrd": "SegmentationFile",
    ".seg.nhdr": "SegmentationFile",
    ".mrb": "SceneFile",
    ".mrml": "SceneFile",
    ".mrk.json": "MarkupsFile",
    ".stl": "ModelFile",
    ".vtk": "ModelFile",
    ".vtp": "ModelFile",
    ".obj": "ModelFile",
    ".h5": "TransformFile",
    ".tfm": "TransformFile",
    ".ctbl": "ColorTableFile",
}
_NODE_CLASSES = {
    "ModelFile": "vtkMRMLModelNode",
    "TransformFile": "vtkMRMLLinearTransformNode",
    "ColorTableFile": "vtkMRMLColorTableNode",
}
_LABEL_MAP, _SINGLE_FILE = 1, 4  # options of vtkSlicerVolumesLogic.AddArchetypeVolume


class qSlicerIOManager:
    """qSlicerCoreIOManager: loading and saving by file name or node. Readers of other modules are not known."""

    def __init__(self, scene: slicer.vtkMRMLScene, logics: dict):
        self._scene, self._logics = scene, logics

    def fileType(self, path: str) -> str:
        lowered = str(path).lower()
        return next((kind for ending, kind in _FILE_TYPES.items() if lowered.endswith(ending)), "VolumeFile")

    def loadNodes(self, fileType: str, properties: dict, loadedNodes=None, userMessages=None) -> bool:
        path = str(properties["fileName"])
        if not os.path.exists(path):
            return False
        if fileType == "SceneFile":
            return self._loadScene(path, properties.get("clear", False))
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        if fileType == "VolumeFile":
            options = _LABEL_MAP * bool(properties.get("labelmap")) + _SINGLE_FILE * bool(properties.get("singleFile"))
            node = self._logics["volumes"].AddArchetypeVolume(path, name, options)
        elif fileType == "SegmentationFile":
            node = self._logics["segmentations"].LoadSegmentationFromFile(path, True, name)
        elif fileType == "MarkupsFile":  # the file says whether it is a point list, a ROI, ...
            node = self._scene.GetNodeByID(self._logics["markups"].LoadMarkups(path, name) or "")
        else:
            node = self._loadWithStorage(path, name, _NODE_CLASSES[fileType])
        if node is not None and loadedNodes is not None:
            loadedNodes.AddItem(node)
        return node is not None

    def loadScene(self, path: str, clear: bool = True) -> bool:
        return self._loadScene(str(path), clear)

    def _loadScene(self, path: str, clear: bool) -> bool:
        if path.endswith(".mrb"):
            return bool(self._scene.ReadFromMRB(path, clear))
        self._scene.SetURL(path)
        return bool(self._scene.Connect() if clear else self._scene.Import())

    def _loadWithStorage(self, path: str, name: str, className: str) -> slicer.vtkMRMLNode | None:
        node = self._scene.AddNewNodeByClass(className, name)
        node.AddDefaultStorageNode(path)
        if node.GetStorageNode().ReadData(node):
            return node
        self._scene.RemoveNode(node)
        return None

    def saveNodes(self, fileType: str, properties: dict, userMessages=None) -> bool:
        path = str(properties["fileName"])
        if fileType == "SceneFile":
            return self.saveScene(path)
        node = self._scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        storage.SetFileName(path)
        storage.SetUseCompression(int(properties.get("useCompression", 1)))
        return bool(storage.WriteData(node))

    def saveScene(self, path: str, screenShot=None) -> bool:
        self._scene.SetURL(path)
        self._scene.SetRootDirectory(os.path.dirname(os.path.abspath(path)))
        return bool(self._scene.WriteToMRB(path) if path.endswith(".mrb") else self._scene.Commit(path))

    def exportNodes(self, nodeIDs, paths, properties=None, hardenTransforms=False, userMessages=None) -> bool:
        """Write copies: the nodes keep the files that they were loaded from."""
        done = []
        for nodeID, path in zip(nodeIDs, paths):
            node = self._scene.GetNodeByID(nodeID)
            storage = self._newStorage(node)
            storage.SetFileName(str(path))
            done.append(bool(storage.WriteData(node)))
        return all(done)

    def fileWriterFileType(self, node: vtk.vtkObject, *_format) -> str:
        return node.GetClassName()

    def fileWriterExtensions(self, node: slicer.vtkMRMLStorableNode) -> list[str]:
        formats = self._newStorage(node).GetSupportedWriteFileTypes()
        return [formats.GetValue(index) for index in range(formats.GetNumberOfValues())]

    def extractKnownExtension(self, path: str, node: slicer.vtkMRMLStorableNode) -> str:
        helper = slicer.vtkDataFileFormatHelper
        known = [helper.GetFileExtensionFromFormatString(item) for item in self.fileWriterExtensions(node)]
        return max((ending for ending in known if str(path).lower().endswith(ending)), key=len, default="")

    def _newStorage(self, node: slicer.vtkMRMLStorableNode) -> slicer.vtkMRMLStorageNode:
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)  # Python owns it now
        storage.SetScene(self._scene)
        return storage
