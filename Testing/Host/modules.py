"""`slicer.modules.<name>` and the module manager: what Slicer's module factory makes of a logic or a .py file."""

from __future__ import annotations

import sys
from typing import Any

import slicer
from PySide6 import QtCore, QtGui
from PySide6.QtCore import Signal

import qmrml
from pythonqt import standIn


class qSlicerCoreModule:
    """qSlicerLoadableModule: a name, a logic, and a widget once it is asked for."""

    def __init__(self, name: str, path: str = "", logic: Any = None):
        self.name = self.title = name
        self.path = path
        self.categories: list[str] = []
        self.dependencies: list[str] = []
        self.contributors: list[str] = []
        self.helpText = self.acknowledgementText = ""
        self.icon = QtGui.QIcon()
        self.hidden = False
        self.associatedNodeTypes: list[str] = []
        self._logic, self._widget = logic, None

    def logic(self) -> Any:
        return self._logic

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        return slicer.mrmlScene

    def setWidgetRepresentation(self, widget: qSlicerScriptedLoadableModuleWidget) -> None:
        self._widget = widget

    def widgetRepresentation(self) -> qSlicerScriptedLoadableModuleWidget | None:
        return self._widget


class qSlicerScriptedLoadableModule(qSlicerCoreModule):
    """qSlicerScriptedLoadableModule: the `parent` of a module; slicer.util tells it from C++ modules by its class."""


@standIn
class qSlicerScriptedLoadableModuleWidget(qmrml.qMRMLWidget):
    """qSlicerScriptedLoadableModuleWidget: the `parent` of a module's widget."""

    def __init__(self, module: qSlicerCoreModule):
        super().__init__()
        self._module, self._python, self._entered = module, None, False

    def self(self) -> Any:
        """The Python object of the widget."""
        return self._python

    def setPythonWidget(self, widget: Any) -> None:
        self._python = widget

    def reload(self) -> None:
        """Make the widget of the module's current code and set it up."""
        name = self._module.name
        self._python = getattr(sys.modules[name], f"{name}Widget")(self)
        setattr(slicer.modules, f"{name}Widget", self._python)
        self._python.setup()

    def isEntered(self) -> bool:
        return self._entered

    def enter(self) -> None:
        self._entered = True
        getattr(self._python, "enter", lambda: None)()

    def exit(self) -> None:
        self._entered = False
        getattr(self._python, "exit", lambda: None)()

    def module(self) -> qSlicerCoreModule:
        return self._module


@standIn
class qSlicerModuleManager(QtCore.QObject):
    """qSlicerModuleManager: modules by name, and the signals of their loading."""

    moduleLoaded = Signal(str)
    moduleAboutToBeUnloaded = Signal(str)
    moduleUnloaded = Signal(str)

    def module(self, name: str) -> qSlicerCoreModule | None:
        found = getattr(slicer.modules, name.lower(), None)
        return found if isinstance(found, qSlicerCoreModule) else None

    def loadedModulesNames(self) -> list[str]:
        return [module.name for module in vars(slicer.modules).values() if isinstance(module, qSlicerCoreModule)]

    def modulesNames(self) -> list[str]:
        return self.loadedModulesNames()

    def isLoaded(self, name: str) -> bool:
        return self.module(name) is not None


class SegmentEditorWidget:
    """The Python object of the Segment Editor's widget: modules set the nodes of its `editor`."""

    def __init__(self):
        self.editor = qmrml.qMRMLSegmentEditorWidget()


def addSegmentEditor() -> None:
    """The Segment Editor as other modules see it, when they ask it to edit their segmentation."""
    module = qSlicerScriptedLoadableModule("SegmentEditor")
    parent = qSlicerScriptedLoadableModuleWidget(module)
    parent.setMRMLScene(slicer.mrmlScene)
    module.setWidgetRepresentation(parent)
    widget = SegmentEditorWidget()
    widget.editor.setMRMLScene(slicer.mrmlScene)
    parent.setPythonWidget(widget)
    slicer.modules.segmenteditor = module
    slicer.modules.SegmentEditorWidget = widget
