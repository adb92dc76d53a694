"""`import qt` for Slicer modules: real Qt 6 (PySide6) with PythonQt's conventions.

Only Qt's classes are visible, as in PythonQt: there is no `qt.Signal`, `qt.Slot`, `qt.Property` or `qt.QtCore`.
"""

from __future__ import annotations

import atexit as _atexit
import logging as _logging
import os as _os

_os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
_os.environ["PYSIDE6_OPTION_PYTHON_ENUM"] = "0x02"  # enum values are integers

from PySide6 import QtCore as _core
from PySide6 import QtGui as _gui
from PySide6 import QtUiTools as _uiTools
from PySide6 import QtWidgets as _widgets

import dialogs as _dialogs
import pythonqt as _pythonqt
import reports as _reports
import ui_loader as _ui_loader

# Qt only warns about these: a wrong connection, a wrong thread, a child process left behind.
_FATAL_WARNINGS = ("QObject:", "QObject::", "QFormBuilder", "Designer:", "QProcess: Destroyed", "QThread:", "QLayout:")


def _onQtMessage(severity, context, text: str) -> None:
    _logging.getLogger("qt").warning(text)
    if text.startswith(_FATAL_WARNINGS):
        _reports.errors.append(f"Qt: {text}")


_pythonqt.applyConventions((_core, _gui, _widgets, _uiTools))
_dialogs.makeNonBlocking()
_core.qInstallMessageHandler(_onQtMessage)
_atexit.register(_core.qInstallMessageHandler, None)

for _module in (_core, _gui, _widgets):
    for _name in dir(_module):
        if _name.startswith("Q") and isinstance(getattr(_module, _name), type):
            globals()[_name] = getattr(_module, _name)
QUiLoader = _ui_loader.QUiLoader
