"""`slicer.ScriptedLoadableModule`: own minimal base classes for when Slicer's Python sources are not there."""

from __future__ import annotations

import importlib
import logging
import unittest
from pathlib import Path

import slicer

import qt

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]


class ScriptedLoadableModule:
    """What a module says about itself; `parent` is its entry in the module list."""

    def __init__(self, parent):
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        for ending in (".svg", ".png"):
            icon = Path(self.resourcePath(f"Icons/{self.moduleName}{ending}"))
            if icon.is_file():
                parent.icon = qt.QIcon(str(icon))
                break
        slicer.__dict__.setdefault("selfTests", {})[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        url = (
            slicer.app.documentationBaseUrl + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p><a href="{url}">Documentation</a></p>'

    def runTest(self, msec: int = 100, **options) -> None:
        """Run the tests of the class <ModuleName>Test beside the module's class."""
        module, name = importlib.import_module(type(self).__module__), f"{self.moduleName}Test"
        if not hasattr(module, name):
            raise AssertionError(f"there is no class {name} in {module.__name__}")
        test = getattr(module, name)()
        test.messageDelay = msec
        test.runTest(**options)


class ScriptedLoadableModuleWidget:
    """The panel: `setup` fills `self.layout`; `cleanup` is called before the module is unloaded."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        """For the module's widget."""

    def cleanup(self) -> None:
        """For the module's widget."""

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)

    def onReloadAndTest(self, **options) -> None:
        """The button "Reload and Test": a skipped test is shown as an error, like all that the tests raise."""
        with slicer.util.tryWithErrorDisplay("Reload and Test failed."):
            self.onReload()
            slicer.selfTests[self.moduleName](**options)

    def _onModuleAboutToBeUnloaded(self, name: str) -> None:
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """The computation, and the parameter node that keeps its settings in the scene."""

    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                node.SetAttribute("ModuleName", self.moduleName)  # closing a scene takes it away
                return node
        nodes = self.getAllParameterNodes()
        return nodes[0] if nodes else slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)  # Python owns it now
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The self-test. `runTest` is what "Reload and Test" runs: it makes one object for all tests, calls `setUp` and
    `tearDown` itself, and lets everything that is raised through, also SkipTest."""

    messageDelay = 0

    def __init__(self, *arguments, **keywords):
        self.moduleTestNames: list[str] = []
        super().__init__(*arguments, **keywords)
        if not self.moduleTestNames:
            self.moduleTestNames = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        slicer.util.delayDisplay(message, self.messageDelay)

    def setUp(self) -> None:
        """For the module's tests."""

    def tearDown(self) -> None:
        """For the module's tests."""

    def runTest(self) -> None:
        if not self.moduleTestNames:
            logging.warning("No test is defined in %s", type(self).__name__)
            return
        self.setUpClass()
        for name in self.moduleTestNames:
            self.setUp()
            logging.info("Running %s", name)
            getattr(self, name)()
            self.tearDown()
        self.tearDownClass()
