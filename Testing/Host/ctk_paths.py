"""ctk's widgets for files and folders. Their browse buttons ask the non-blocking file dialog."""

from __future__ import annotations

from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal

from pythonqt import standIn
from stored_property import storedProperty


@standIn
class ctkPathLineEdit(QtWidgets.QWidget):
    """ctkPathLineEdit: a path, a browse button, and a history that is kept in the settings under `settingKey`."""

    Dirs, Files, Drives, NoSymLinks, Readable, Writable, Executable, Hidden = 1, 2, 4, 8, 16, 32, 64, 256
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QComboBox()
        self._edit.setEditable(True)
        self._edit.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._edit.setMinimumContentsLength(8)
        self._button = QtWidgets.QToolButton()
        self._button.setText("…")
        row.addWidget(self._edit)
        row.addWidget(self._button)
        self._edit.editTextChanged.connect(self.currentPathChanged)
        self._button.clicked.connect(self.browse)

    def setCurrentPath(self, path: str) -> None:
        self._edit.setEditText(path)

    def browse(self) -> None:
        if self.filters & self.Dirs and not self.filters & self.Files:
            path = QtWidgets.QFileDialog.getExistingDirectory(self, self.label)
        else:
            path = QtWidgets.QFileDialog.getOpenFileName(self, self.label)
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:
        if self._edit.findText(self.currentPath) < 0:
            path = self.currentPath
            self._edit.insertItem(0, path)
            self.setCurrentPath(path)

    def comboBox(self) -> QtWidgets.QComboBox:
        return self._edit

    currentPath = Property(str, lambda self: self._edit.currentText, setCurrentPath)
    filters, setFilters = storedProperty("filters", int, Files | Dirs)
    nameFilters, setNameFilters = storedProperty("nameFilters", "QStringList", [])
    settingKey, setSettingKey = storedProperty("settingKey", str, "")
    label, setLabel = storedProperty("label", str, "")
    options, setOptions = storedProperty("options", int, 0)
    showHistoryButton, setShowHistoryButton = storedProperty("showHistoryButton", bool, True)
    showBrowseButton, setShowBrowseButton = storedProperty(
        "showBrowseButton", bool, True, onChange=lambda self, visible: self._button.setVisible(visible)
    )


@standIn
class ctkDirectoryButton(QtWidgets.QWidget):
    """ctkDirectoryButton: a widget with a button in it, which shows a folder and asks for another one when clicked.

    It is no button itself: it has no click(), and browse() does the same."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._button = QtWidgets.QPushButton()
        self._button.clicked.connect(self.browse)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._button)
        self._showDirectory()

    def _showDirectory(self) -> None:
        self._button.setText(self.text or self.directory)

    def browse(self) -> None:
        directory = QtWidgets.QFileDialog.getExistingDirectory(self, self.caption)
        if directory:
            self.setDirectory(directory)
            self.directorySelected.emit(directory)

    directory, setDirectory = storedProperty(
        "directory", str, "", notify="directoryChanged", onChange=lambda self, _path: self._showDirectory()
    )
    text, setText = storedProperty("text", str, "", onChange=lambda self, _text: self._showDirectory())
    caption, setCaption = storedProperty("caption", str, "")
    acceptMode, setAcceptMode = storedProperty("acceptMode", int, 0)
    options, setOptions = storedProperty("options", int, 0)
