"""Dialogs that never block: each is recorded and gets the queued answer, or the one that changes least."""

from __future__ import annotations

from PySide6 import QtGui, QtWidgets

import reports

_KINDS = {"information": "info", "warning": "warning", "critical": "error", "question": "question", "about": "info"}
_ICON_KINDS = {"Information": "info", "Warning": "warning", "Critical": "error", "Question": "question"}
_FILE_DIALOGS = {
    "getOpenFileName": "",
    "getOpenFileNames": (),
    "getSaveFileName": "",
    "getExistingDirectory": "",
}
_ACCEPTING = ("Ok", "Yes", "Save", "Open", "Apply")
_REJECTING = ("Cancel", "No", "Close", "Abort", "Discard")
_INPUT_DIALOGS = {"getText": "", "getItem": "", "getInt": 0, "getDouble": 0.0, "getMultiLineText": ""}


def _staticMessageBox(kind: str):
    def show(parent=None, title="", text="", buttons=None, defaultButton=None):
        usual = QtWidgets.QMessageBox.Yes if kind == "question" else QtWidgets.QMessageBox.Ok
        return reports.record(reports.Message(kind, title, text), defaultButton or usual)

    return staticmethod(show)


def _staticDialog(kind: str, default):
    """PythonQt returns the plain value where PySide6 returns a tuple."""

    def ask(parent=None, title="", text="", *options):
        usual = list(default) if isinstance(default, tuple) else default
        return reports.record(reports.Message(kind, title, str(text)), usual)

    return staticmethod(ask)


def _executeMessageBox(self) -> int:
    """A box with more than one button asks; True and False answer with its accepting or rejecting button."""
    buttons = [button for button in QtWidgets.QMessageBox.StandardButton if self.standardButtons.testFlag(button)]
    isQuestion = len(buttons) > 1
    kind = "question" if isQuestion else _ICON_KINDS.get(self.icon.name, "info")
    accepting, rejecting = _button(buttons, _ACCEPTING), _button(buttons, _REJECTING)
    usual = self.standardButton(self.defaultButton()) if self.defaultButton() else accepting or rejecting
    title = self.windowTitle.strip()  # slicer.util widens a box by spaces around its title
    answer = reports.record(reports.Message(kind, title, self.text, self.informativeText or self.detailedText), usual)
    if isinstance(answer, bool):
        answer = accepting or _button(buttons, ("Retry",)) if answer else rejecting
    return int(answer or QtWidgets.QMessageBox.Ok)


def _button(buttons: list, names: tuple[str, ...]) -> QtWidgets.QMessageBox.StandardButton | None:
    wanted = [getattr(QtWidgets.QMessageBox, name) for name in names]
    return next((button for button in wanted if button in buttons), None)


def _executeDialog(self) -> int:
    """Any other dialog is dismissed, as if the user had pressed Escape."""
    return int(reports.record(reports.Message("dialog", self.windowTitle, type(self).__name__), 0))


def _openUrl(url) -> bool:
    reports.openedUrls.append(url.toString())
    return True


def makeNonBlocking() -> None:
    """Replace what would wait for a user, or start another program, in PySide6's classes."""
    for name, kind in _KINDS.items():
        setattr(QtWidgets.QMessageBox, name, _staticMessageBox(kind))
    for name, default in _FILE_DIALOGS.items():
        setattr(QtWidgets.QFileDialog, name, _staticDialog("file", default))
    for name, default in _INPUT_DIALOGS.items():
        setattr(QtWidgets.QInputDialog, name, _staticDialog("dialog", default))
    for kind in (QtWidgets.QDialog, QtWidgets.QFileDialog, QtWidgets.QProgressDialog, QtWidgets.QInputDialog):
        kind.exec = kind.exec_ = _executeDialog
    QtWidgets.QMessageBox.exec = QtWidgets.QMessageBox.exec_ = _executeMessageBox
    QtWidgets.QMenu.exec = QtWidgets.QMenu.exec_ = lambda self, *position: None
    QtGui.QDesktopServices.openUrl = staticmethod(_openUrl)
