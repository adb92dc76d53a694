"""slicer.util without a user: messages are recorded and answered, nothing is installed, no module panel is switched."""

from __future__ import annotations

import logging

import slicer
from PySide6 import QtWidgets

import reports

_DISPLAYS = {"infoDisplay": "info", "warningDisplay": "warning", "errorDisplay": "error"}
_CONFIRMATIONS = {"confirmOkCancelDisplay": True, "confirmYesNoDisplay": True, "confirmRetryCloseDisplay": False}
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR, "question": logging.INFO}


def _recorder(kind: str, default):
    """A function with the signature of slicer.util's displays. `host.answerNext("question", False)` declines."""

    def display(text, windowTitle=None, parent=None, *_more, detailedText="", **_options):
        logging.log(_LEVELS[kind], text)
        return reports.record(reports.Message(kind, windowTitle or "", str(text), detailedText), default)

    return display


def _selectModule(module) -> None:
    """Slicer raises for an unknown module as well; there is no panel to switch here, so the name is recorded."""
    name = module if isinstance(module, str) else module.name
    if slicer.app.moduleManager().module(name) is None:
        raise RuntimeError(f"there is no module '{name}'")
    reports.selectedModules.append(name)


def _pipInstall(requirements, *_more, **_options) -> None:
    reports.pipInstalls.append(requirements)


def withoutUser() -> None:
    util = slicer.util
    for name, kind in _DISPLAYS.items():
        setattr(util, name, _recorder(kind, None))
    for name, default in _CONFIRMATIONS.items():
        setattr(util, name, _recorder("question", default))
    util.messageBox = _recorder("info", QtWidgets.QMessageBox.Ok)
    util.selectModule = _selectModule
    util.pip_install = _pipInstall
    util.delayDisplay = lambda message, *_more, **_options: (logging.info(message), slicer.app.processEvents())
    if hasattr(slicer, "packaging"):
        slicer.packaging.pip_install = _pipInstall
