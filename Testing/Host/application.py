"""`slicer.app`: a real QApplication with the methods of qSlicerApplication that modules call."""

from __future__ import annotations

import os
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

_DOCUMENTATION = "https://slicer.readthedocs.io/en/latest/"


class qSlicerApplication(QtWidgets.QApplication):
    """qSlicerApplication without a main window. Its settings and files are in `folder`."""

    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)

    def __init__(self, folder: Path):
        super().__init__(["SlicerHost"])
        self.setApplicationName("SlicerHost")
        self.setOrganizationName("SlicerHost")
        self.setQuitOnLastWindowClosed(False)
        self._prepareFolders(folder)
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
    def _addPythonSlicer(folder: Path) -> None:
        """Slicer's Python for child processes is a program on the path; here it is this Python."""
        folder.mkdir()
        program = folder / "PythonSlicer"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
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
        """No: modules shall do what they do for a user. Messages are recorded and wait for nobody."""
        return False

    def commandOptions(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(noMainWindow=True, disableSettings=False)

    def translate(self, _context: str, text: str) -> str:
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{_DOCUMENTATION}user_guide/modules/{name.lower()}.html"

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def pauseRender(self) -> None:
        """Nothing is drawn."""

    def resumeRender(self) -> None:
        """Nothing is drawn."""

    def restart(self) -> None:
        raise RuntimeError("slicer.app.restart() was called")
