"""`slicer.app`: a real QApplication with the methods of qSlicerApplication that modules call."""

from __future__ import annotations

import os
import shlex
import sys
import types
from pathlib import Path

import slicer
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Signal

from core_logics import createCore
from io_manager import qSlicerIOManager
from layout_manager import qSlicerLayoutManager
from modules import qSlicerModuleManager
from packages import Hiding
from pythonqt import standIn

_DOCUMENTATION = "https://slicer.readthedocs.io/en/latest/"

_OF_THE_LAUNCHER = ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@standIn
class qSlicerMainWindow(QtWidgets.QMainWindow):
    """qSlicerMainWindow: there to be the parent of dialogs; it is empty and never shown."""


class qSlicerApplication(QtWidgets.QApplication):
    """qSlicerApplication. Its settings and files are in `folder`."""

    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)

    def __init__(self, folder: Path):
        super().__init__(["SlicerHost"])
        self.setApplicationName("SlicerHost")
        self.setOrganizationName("SlicerHost")
        self.setQuitOnLastWindowClosed(False)
        self._testing = False
        self._startupEnvironment = self._withoutLauncher()
        self._prepareFolders(folder)
        self._mainWindow = qSlicerMainWindow()
        self._mainWindow.setObjectName("qSlicerMainWindow")
        self._scene, self._logic, self.logics = createCore(self.cachePath)
        self._ioManager = qSlicerIOManager(self._scene, self.logics)
        self._moduleManager = qSlicerModuleManager()
        self._layoutManager = qSlicerLayoutManager(self._scene, self._logic)  # slicer.util expects the slice nodes
        self.majorVersion, self.minorVersion, self.revision = 5, 13, "31053"
        self.os, self.arch, self.platform = "linux", "amd64", "linux-amd64"
        self.documentationBaseUrl = _DOCUMENTATION
        self.setApplicationVersion("5.13.0")

    def _prepareFolders(self, folder: Path) -> None:
        self.slicerHome = str(folder)
        for name, attribute in (("temporary", "temporaryPath"), ("cache", "cachePath"), ("scenes", "defaultScenePath")):
            (folder / name).mkdir()
            setattr(self, attribute, str(folder / name))
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        for scope in (QtCore.QSettings.UserScope, QtCore.QSettings.SystemScope):
            QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, scope, str(folder / "settings"))
        self.launcherExecutableFilePath = str(folder / "Slicer")
        self._addPythonSlicer(folder / "bin")

    @staticmethod
    def _withoutLauncher() -> QtCore.QProcessEnvironment:
        """What the user's shell had: neither PythonSlicer's folder nor what Slicer's launcher has set."""
        environment = QtCore.QProcessEnvironment.systemEnvironment()
        for name in _OF_THE_LAUNCHER:
            environment.remove(name)
        return environment

    def _addPythonSlicer(self, folder: Path) -> None:
        """Slicer's Python for child processes is a program on the path: a launcher that starts Python as its child."""
        (folder / "children").mkdir(parents=True)
        self.childrenFolder = folder / "children"
        self.hiding = Hiding(folder / "hidden_packages.json")
        launcher = [sys.executable, "-I", "-S", str(Path(__file__).with_name("python_slicer.py")), str(folder)]
        program = folder / "PythonSlicer"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(launcher)} "$@"\n')
        program.chmod(0o755)
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        return self._scene

    def applicationLogic(self) -> slicer.vtkSlicerApplicationLogic:
        return self._logic

    def moduleManager(self) -> qSlicerModuleManager:
        return self._moduleManager

    def ioManager(self) -> qSlicerIOManager:
        return self._ioManager

    def coreIOManager(self) -> qSlicerIOManager:
        return self._ioManager

    def layoutManager(self) -> qSlicerLayoutManager:
        return self._layoutManager

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    userSettings = revisionUserSettings = settings

    def testingEnabled(self) -> bool:
        """Whether Slicer was started with --testing; then slicer.util shows nothing and asks nobody."""
        return self._testing

    def setTesting(self, enabled: bool) -> None:
        """For the host: Slicer itself is told on its command line."""
        self._testing = enabled

    def commandOptions(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(noMainWindow=False, disableSettings=False, testingEnabled=self._testing)

    def translate(self, _context: str, text: str) -> str:
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{_DOCUMENTATION}user_guide/modules/{name.lower()}.html"

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment(self._startupEnvironment)

    def pauseRender(self) -> None:
        """Nothing is drawn."""

    def resumeRender(self) -> None:
        """Nothing is drawn."""

    def restart(self) -> None:
        raise RuntimeError("slicer.app.restart() was called")
