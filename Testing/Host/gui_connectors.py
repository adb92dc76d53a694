"""Which widget can show which parameter, and how: the same pairs as Slicer's parameterNodeWrapper, no more."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer

import ctk
import qt
from parameter_types import Choice, Decimals, Maximum, Minimum, ParameterType, SingleStep, WithinRange

_CHECKABLE = (qt.QCheckBox, ctk.ctkCheckBox, qt.QPushButton, ctk.ctkCheckablePushButton)
_COMBO_BOXES = (qt.QComboBox, ctk.ctkComboBox)
_REAL_NUMBERS = (
    qt.QDoubleSpinBox,
    ctk.ctkDoubleSpinBox,
    ctk.ctkSliderWidget,
    ctk.ctkDoubleSlider,
    slicer.qMRMLSliderWidget,
    slicer.qMRMLSpinBox,
)
_NEED_BOUNDS = (qt.QSlider, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)


@dataclass
class Connector:
    """Reads and writes one widget; `changed` is its signal, or None where the user cannot change it."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    changed: Any


def createConnector(widget: qt.QWidget, parameter: ParameterType) -> Connector:
    """Widget classes are compared exactly, as Slicer does, so that a subclass is refused here as well."""
    kind, widgetKind = parameter.kind, type(widget)
    if parameter.isNode and widgetKind is slicer.qMRMLNodeComboBox:
        widget.nodeTypes = [item.__name__ for item in parameter.kinds]
        return Connector(widget.currentNode, widget.setCurrentNode, widget.currentNodeChanged)
    if kind is bool and widgetKind in _CHECKABLE:
        if widgetKind is qt.QPushButton:
            widget.checkable = True
        return _attribute(widget, "checked", widget.toggled)
    if kind is int and widgetKind in (qt.QSpinBox, qt.QSlider):
        return _number(widget, parameter, -(2**31), 2**31 - 1)
    if kind in (int, float) and widgetKind in _REAL_NUMBERS:
        return _number(widget, parameter, float("-inf"), float("inf"))
    if widgetKind in _COMBO_BOXES and (parameter.isEnum or kind in (int, float, str, bool)):
        return _comboBox(widget, parameter)
    if kind is str and widgetKind is qt.QLineEdit:
        return _attribute(widget, "text", widget.textChanged)
    if kind is str and widgetKind is qt.QLabel:
        return _attribute(widget, "text", None)
    if kind is str and widgetKind is qt.QTextEdit:
        return Connector(widget.toPlainText, widget.setPlainText, widget.textChanged)
    if issubclass(kind, pathlib.PurePath) and widgetKind is ctk.ctkPathLineEdit:
        return _path(widget, "currentPath", widget.currentPathChanged, kind)
    if issubclass(kind, pathlib.PurePath) and widgetKind is ctk.ctkDirectoryButton:
        return _path(widget, "directory", widget.directoryChanged, kind)
    raise RuntimeError(f"a {widgetKind.__name__} cannot show a parameter of type {parameter.hint}")


def _attribute(widget: qt.QWidget, name: str, changed: Any) -> Connector:
    def write(value):
        if getattr(widget, name) != value:  # writing a line edit's own text would move its cursor
            setattr(widget, name, value)

    return Connector(lambda: getattr(widget, name), write, changed)


def _path(widget: qt.QWidget, name: str, changed: Any, kind: type) -> Connector:
    text = _attribute(widget, name, changed)
    return Connector(lambda: kind(text.read()), lambda value: text.write(str(value)), changed)


def _number(widget: qt.QWidget, parameter: ParameterType, lowest: float, highest: float) -> Connector:
    within = parameter.annotation(WithinRange)
    low, high = within or parameter.annotation(Minimum), within or parameter.annotation(Maximum)
    if type(widget) in _NEED_BOUNDS and (low is None or high is None):
        raise RuntimeError(f"a {type(widget).__name__} needs a parameter with bounds")
    isWhole = parameter.kind is int
    decimals, step = parameter.annotation(Decimals), parameter.annotation(SingleStep)
    if type(widget) in _REAL_NUMBERS and (isWhole or decimals is not None):
        widget.setDecimals(0 if isWhole else decimals.value)
    if step is not None:
        widget.setSingleStep(step.value)
    widget.setMinimum(low.minimum if low is not None else lowest)
    widget.setMaximum(high.maximum if high is not None else highest)
    return Connector(lambda: parameter.kind(widget.value), widget.setValue, widget.valueChanged)


def _comboBox(widget: qt.QComboBox, parameter: ParameterType) -> Connector:
    choice = parameter.annotation(Choice)
    if not parameter.isEnum and choice is None:
        raise RuntimeError("a combo box needs a parameter with Choice")
    values = list(parameter.kind) if parameter.isEnum else list(choice.choices)
    label = getattr(parameter.kind, "label", lambda value: value.name) if parameter.isEnum else str
    widget.clear()
    for value in values:
        widget.addItem(label(value))

    def write(value):
        widget.currentIndex = values.index(value)

    return Connector(lambda: values[widget.currentIndex], write, widget.currentIndexChanged)
