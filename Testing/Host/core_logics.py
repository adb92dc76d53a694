"""The scene and the module logics that Slicer creates when it starts; all of it is real, from slicer-core."""

from __future__ import annotations

import slicer
import vtk

_LOGIC_CLASSES = {
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Plots": "vtkSlicerPlotsLogic",
}


def createCore(cacheFolder: str) -> tuple[slicer.vtkMRMLScene, slicer.vtkSlicerApplicationLogic, dict]:
    """Return the scene, the application logic, and the module logics by name in lower case."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    application.SetModuleLogic("Colors", colors)
    logics = {"colors": colors, "remoteio": _createRemoteIO(scene, application, cacheFolder)}
    for name, className in _LOGIC_CLASSES.items():
        logic = getattr(slicer, className)()
        vtk.vtkObject.GlobalWarningDisplayOff()  # its files of terms are not in slicer-core
        logic.SetMRMLScene(scene)
        vtk.vtkObject.GlobalWarningDisplayOn()
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        logics[name.lower()] = logic
    _followWithSubjectHierarchy(scene)
    return scene, application, logics


def _createRemoteIO(scene, application, cacheFolder: str) -> slicer.vtkMRMLRemoteIOLogic:
    """Scene bundles cannot be read without a cache folder."""
    logic = slicer.vtkMRMLRemoteIOLogic()
    logic.SetMRMLScene(scene)
    logic.SetMRMLApplicationLogic(application)
    logic.GetCacheManager().SetRemoteCacheDirectory(cacheFolder)
    logic.AddDataIOToScene()
    return logic


def _followWithSubjectHierarchy(scene: slicer.vtkMRMLScene) -> None:
    """Items for displayable nodes, which Slicer's subject hierarchy plugins (Qt, C++) create."""

    def hierarchy():
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    def belongs(node) -> bool:
        shown = node.IsA("vtkMRMLDisplayableNode") or node.IsA("vtkMRMLTransformNode")
        return shown and not node.GetHideFromEditors() and not node.IsA("vtkMRMLCameraNode")

    # hierarchy() merges a second hierarchy into the first and removes it, which comes back here: so it is asked for
    # only where a node needs an item, and never while a scene is being imported.
    def addItem(node) -> None:
        tree = hierarchy() if belongs(node) else None
        if tree is not None and not tree.GetItemByDataNode(node):
            tree.CreateItem(tree.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(_caller, _event, node):
        if node is not None and not scene.IsImporting() and not scene.IsRestoring():
            addItem(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(_caller, _event, node):
        if node is None or not belongs(node) or scene.IsClosing() or scene.IsImporting():
            return
        tree = hierarchy()
        item = tree.GetItemByDataNode(node) if tree is not None else 0
        if item:
            tree.RemoveItem(item, False, False)

    def onImported(_caller, _event):
        for index in range(scene.GetNumberOfNodes()):
            addItem(scene.GetNthNode(index))

    scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, onNodeAdded)
    scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, onNodeAboutToBeRemoved)
    scene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, onImported)
