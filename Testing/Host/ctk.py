"""`import ctk` for Slicer modules: the properties, slots and signals of CTK's widgets, with a plain look."""

from __future__ import annotations

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

import reports
from ctk_numbers import (  # noqa: F401 - part of this module's names
    ctkDoubleRangeSlider,
    ctkDoubleSlider,
    ctkDoubleSpinBox,
    ctkRangeWidget,
    ctkSliderWidget,
)
from ctk_paths import ctkDirectoryButton, ctkPathLineEdit  # noqa: F401
from pythonqt import standIn
from stored_property import storedProperty

_HEADER_HEIGHT = 24
_UNLIMITED_HEIGHT = 16777215  # QWIDGETSIZE_MAX


class _Collapsing:
    """Hides and shows the children of a widget; what the module itself has hidden stays hidden."""

    def _hideChildren(self, hide: bool) -> None:
        children = self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly)
        if hide:
            self._hiddenChildren = [child for child in children if not child.isHidden()]
        for child in self.__dict__.get("_hiddenChildren", ()):
            child.setVisible(not hide)

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        """Children of a form come after its properties. When one is added its class is not known yet, only later."""
        if self.collapsed and event.polished() and isinstance(event.child(), QtWidgets.QWidget):
            if not event.child().isHidden():
                self._hiddenChildren.append(event.child())
            event.child().setVisible(False)
        super().childEvent(event)


@standIn
class ctkCollapsibleButton(_Collapsing, QtWidgets.QWidget):
    """ctkCollapsibleButton: a header that hides and shows what is laid out under it."""

    contentsCollapsed = Signal(bool)
    clicked = Signal(bool)
    toggled = Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)  # PythonQt knows no constructor that takes a text
        self.setContentsMargins(0, _HEADER_HEIGHT, 0, 0)
        self.setMinimumHeight(_HEADER_HEIGHT)

    def _onCollapsed(self, collapsed: bool) -> None:
        self._hideChildren(collapsed)
        self.setMaximumHeight(_HEADER_HEIGHT if collapsed else _UNLIMITED_HEIGHT)
        self.toggled.emit(not collapsed)

    def _setChecked(self, checked: bool) -> None:
        self.setCollapsed(not checked)

    def click(self) -> None:
        self.setCollapsed(not self.collapsed)
        self.clicked.emit(not self.collapsed)

    def mouseReleaseEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() < _HEADER_HEIGHT:
            self.click()

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.rect.width(), _HEADER_HEIGHT)
        painter = QtGui.QPainter(self)
        self.style().drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option, painter, self)
        arrow = "▸" if self.collapsed else "▾"
        painter.drawText(option.rect.adjusted(8, 0, -8, 0), QtCore.Qt.AlignVCenter, f"{arrow}  {self.text}")
        painter.end()

    collapsed, setCollapsed = storedProperty(
        "collapsed", bool, False, notify="contentsCollapsed", onChange=lambda self, value: self._onCollapsed(value)
    )
    checked = Property(bool, lambda self: not self.collapsed, _setChecked)
    text, setText = storedProperty("text", str, "", onChange=lambda self, _text: self.update())
    flat, setFlat = storedProperty("flat", bool, False)
    collapsedHeight, setCollapsedHeight = storedProperty("collapsedHeight", int, 0)
    contentsLineWidth, setContentsLineWidth = storedProperty("contentsLineWidth", int, 1)
    contentsFrameShape, setContentsFrameShape = storedProperty("contentsFrameShape", int, 0)
    contentsFrameShadow, setContentsFrameShadow = storedProperty("contentsFrameShadow", int, 0)
    buttonTextAlignment, setButtonTextAlignment = storedProperty("buttonTextAlignment", int, 0)


@standIn
class ctkCollapsibleGroupBox(_Collapsing, QtWidgets.QGroupBox):
    """ctkCollapsibleGroupBox: a group box whose contents can be hidden; its check box stands for ctk's arrow."""

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self.setCheckable(True)
        self.toggled.connect(lambda isOn: self.setCollapsed(not isOn))

    def _onCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)
        self._hideChildren(collapsed)
        self.setMaximumHeight(_HEADER_HEIGHT if collapsed else _UNLIMITED_HEIGHT)
        self.setFlat(collapsed)

    collapsed, setCollapsed = storedProperty(
        "collapsed", bool, False, onChange=lambda self, value: self._onCollapsed(value)
    )
    collapsedHeight, setCollapsedHeight = storedProperty("collapsedHeight", int, 14)


@standIn
class ctkMenuButton(QtWidgets.QPushButton):
    """ctkMenuButton: a push button with a menu beside it. Only the mouse clicks the button itself: click() opens the
    menu and waits until the user has closed it, which is an error here."""

    def click(self) -> None:
        if self.menu() is None:
            QtWidgets.QPushButton.click(self)
            return
        reports.messages.append(reports.Message("menu", self.text, type(self).__name__))
        reports.errors.append(f"click() of the {type(self).__name__} '{self.text}' opens its menu and waits for a user")

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        """Qt opens the menu on the signal pressed()."""
        wasBlocked = self.blockSignals(True)
        QtWidgets.QPushButton.mousePressEvent(self, event)
        self.blockSignals(wasBlocked)

    showMenuOnLongPress, setShowMenuOnLongPress = storedProperty("showMenuOnLongPress", bool, False)


@standIn
class ctkCheckBox(QtWidgets.QCheckBox):
    """ctkCheckBox: a check box that may show an icon as indicator; not drawn here."""


@standIn
class ctkCheckablePushButton(QtWidgets.QPushButton):
    """ctkCheckablePushButton: the check box in the button is not drawn here."""

    checkBoxToggled = Signal(bool)
    checkBoxControlsButtonToggleState, setCheckBoxControlsButtonToggleState = storedProperty(
        "checkBoxControlsButtonToggleState", bool, True
    )


@standIn
class ctkComboBox(QtWidgets.QComboBox):
    """ctkComboBox: `defaultText` is what it shows while nothing is chosen."""

    defaultText, setDefaultText = storedProperty(
        "defaultText", str, "", onChange=lambda self, text: self.setPlaceholderText(text)
    )
    forceDefault, setForceDefault = storedProperty("forceDefault", bool, False)


@standIn
class ctkCheckableComboBox(QtWidgets.QComboBox):
    """ctkCheckableComboBox: items with check boxes."""

    checkedIndexesChanged = Signal()

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self.model().itemChanged.connect(lambda _item: self.checkedIndexesChanged.emit())

    def checkState(self, index: QtCore.QModelIndex) -> QtCore.Qt.CheckState:
        return self.model().itemFromIndex(index).checkState()

    def setCheckState(self, index: QtCore.QModelIndex, state: QtCore.Qt.CheckState) -> None:
        self.model().itemFromIndex(index).setCheckState(state)

    def checkedIndexes(self) -> list[QtCore.QModelIndex]:
        indexes = [self.model().index(row, 0) for row in range(self.count)]
        return [index for index in indexes if self.checkState(index) == QtCore.Qt.Checked]


@standIn
class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """ctkFittedTextBrowser: as high as its text. The part of `collapsibleText` after the first line can be hidden."""

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self.setVerticalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
        self.textChanged.connect(self.updateGeometry)

    def sizeHint(self) -> QtCore.QSize:
        laidOut = QtGui.QTextDocument()  # a hidden browser has not laid out its own
        laidOut.setHtml(self.html)
        laidOut.textWidth = self.viewport().width
        height = int(laidOut.size.height()) + 2 * self.frameWidth
        return QtCore.QSize(QtWidgets.QTextBrowser.sizeHint(self).width(), height)

    def minimumSizeHint(self) -> QtCore.QSize:
        return QtCore.QSize(0, self.sizeHint().height())

    def setCollapsibleText(self, text: str) -> None:
        self.setHtml(text)

    collapsed, setCollapsed = storedProperty("collapsed", bool, True)


@standIn
class ctkSearchBox(QtWidgets.QLineEdit):
    """ctkSearchBox: a line edit with a search icon, which is not drawn here."""

    showSearchIcon, setShowSearchIcon = storedProperty("showSearchIcon", bool, False)


@standIn
class ctkColorPickerButton(QtWidgets.QPushButton):
    """ctkColorPickerButton: shows a colour. Its dialog is not emulated: set `color` instead."""

    colorChanged = Signal(QtGui.QColor)

    def __init__(self, parent: QtWidgets.QWidget | None = None):
        super().__init__(parent)
        self._onColor(self.color)

    def _onColor(self, color: QtGui.QColor) -> None:
        icon = QtGui.QPixmap(16, 16)
        icon.fill(color)
        self.setIcon(QtGui.QIcon(icon))
        if self.displayColorName:
            QtWidgets.QPushButton.setText(self, color.name())

    color, setColor = storedProperty(
        "color",
        QtGui.QColor,
        QtGui.QColor(0, 0, 0),
        notify="colorChanged",
        onChange=lambda self, color: self._onColor(color),
    )
    displayColorName, setDisplayColorName = storedProperty("displayColorName", bool, True)
    dialogOptions, setDialogOptions = storedProperty("dialogOptions", int, 0)


@standIn
class ctkMessageBox(QtWidgets.QMessageBox):
    """ctkMessageBox: a message box that can be told not to come again; that choice is not emulated."""

    dontShowAgainSettingsKey, setDontShowAgainSettingsKey = storedProperty("dontShowAgainSettingsKey", str, "")
    dontShowAgainVisible, setDontShowAgainVisible = storedProperty("dontShowAgainVisible", bool, False)
