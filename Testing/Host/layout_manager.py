"""`slicer.app.layoutManager()`: real slice logics, nodes (geometry, layers, XYToRAS) and layouts, without Qt views."""

from __future__ import annotations

import slicer

_VIEWS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
_VIEW_SIZE = 400


class qMRMLSliceWidget:
    """qMRMLSliceWidget: its logic and nodes."""

    def __init__(self, logic: slicer.vtkMRMLSliceLogic):
        self._logic = logic

    def sliceLogic(self) -> slicer.vtkMRMLSliceLogic:
        return self._logic

    def mrmlSliceNode(self) -> slicer.vtkMRMLSliceNode:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> slicer.vtkMRMLSliceCompositeNode:
        return self._logic.GetSliceCompositeNode()


class qSlicerLayoutManager:
    """qSlicerLayoutManager: the three slice views, and which layout the layout node asks for. There are no 3D views."""

    threeDViewCount = 0

    def __init__(self, scene: slicer.vtkMRMLScene, applicationLogic: slicer.vtkSlicerApplicationLogic):
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        self._logics = applicationLogic.GetSliceLogics()
        self._widgets = {}
        self._layoutLogic = slicer.vtkMRMLLayoutLogic()
        self._layoutLogic.SetMRMLScene(scene)  # adds the layout node
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        for name, orientation in _VIEWS.items():
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(applicationLogic)
            logic.SetMRMLScene(scene)
            logic.AddSliceNode(name)
            logic.GetSliceNode().SetOrientation(orientation)
            logic.GetSliceNode().SetDimensions(_VIEW_SIZE, _VIEW_SIZE, 1)
            self._logics.AddItem(logic)
            self._widgets[name] = qMRMLSliceWidget(logic)

    def sliceViewNames(self) -> list[str]:
        return list(self._widgets)

    def sliceWidget(self, name: str) -> qMRMLSliceWidget | None:
        return self._widgets.get(name)

    def mrmlSliceLogics(self):
        return self._logics

    def resetSliceViews(self) -> None:
        for widget in self._widgets.values():
            widget.sliceLogic().FitSliceToAll(_VIEW_SIZE, _VIEW_SIZE)

    def resetThreeDViews(self) -> None:
        """There are none."""

    def threeDWidget(self, _index: int) -> None:
        return None

    @property
    def layout(self) -> int:
        return self._layoutLogic.GetLayoutNode().GetViewArrangement()

    @layout.setter
    def layout(self, layout: int) -> None:
        self.setLayout(layout)

    def setLayout(self, layout: int) -> None:
        self._layoutLogic.GetLayoutNode().SetViewArrangement(layout)
