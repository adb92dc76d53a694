"""Run Qt's event loop as Slicer does: Python's global lock is not released while it waits or works in C++.

PySide6 releases it, so that threads go on freely. With PythonQt a thread gets its turn only while a slot, an observer
or a timer runs Python code on the main thread.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import PySide6
import shiboken6
from PySide6 import QtCore

_EXEC = "_ZN10QEventLoop4execE6QFlagsINS_17ProcessEventsFlagEE"  # int QEventLoop::exec(ProcessEventsFlags)
_LIBRARIES = ("Qt/lib/libQt6Core.so.6", "Qt/lib/QtCore.framework/Versions/A/QtCore")


def _loadExec() -> ctypes._CFuncPtr | None:
    """PyDLL calls without releasing the lock. None where Qt's library has other names, as on Windows."""
    for name in _LIBRARIES:
        path = Path(PySide6.__file__).parent / name
        if path.is_file():
            function = ctypes.PyDLL(str(path))[_EXEC]
            function.argtypes = [ctypes.c_void_p, ctypes.c_int]
            return function
    return None


_exec = _loadExec()


def run(milliseconds: int) -> None:
    """Process events for this long."""
    loop, timer = QtCore.QEventLoop(), QtCore.QTimer()
    timer.setSingleShot(True)
    QtCore.QObject.connect(timer, QtCore.SIGNAL("timeout()"), loop, QtCore.SLOT("quit()"))
    timer.start(milliseconds)
    if _exec is None:
        loop.exec()
    else:
        _exec(shiboken6.getCppPointer(loop)[0], 0)
