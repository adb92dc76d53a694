"""`slicer.parameterNodeWrapper`: typed access to a parameter node, for when Slicer's Python sources are not there.

It knows str, int, float, bool, Enum, pathlib.Path, MRML nodes, and Optional of these; not lists, dictionaries or
parameterPack.
"""

from __future__ import annotations

import typing
from typing import Any

import slicer
import vtk

import qt
from gui_connectors import createConnector
from parameter_types import (  # noqa: F401 - part of this module's names
    Choice,
    Decimals,
    Default,
    Exclude,
    Maximum,
    Minimum,
    ParameterType,
    SingleStep,
    Validator,
    WithinRange,
)

SlicerParameterNamePropertyName = "SlicerParameterName"


class _ParameterProperty:
    """A member of the wrapper: reading and writing it reads and writes the node."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, wrapper, owner=None):
        return self if wrapper is None else wrapper.getValue(self.name)

    def __set__(self, wrapper, value):
        wrapper.setValue(self.name, value)


class _Wrapper:
    """What the decorator adds to a class.

    As in Slicer 5.10 the node is observed for ever, also after the GUI is disconnected.
    """

    allParameters: dict[str, ParameterType]

    def __init__(self, parameterNode, prefix: str | None = None):
        self.parameterNode = parameterNode
        self._prefix = prefix or ""
        self._connections: dict[int, tuple] = {}
        self._nextTag = 0
        self._updatingGui = False
        for name, parameter in self.allParameters.items():
            if not parameter.isIn(parameterNode, self._prefix + name):
                self.setValue(name, parameter.default)

    def _parameter(self, name: str) -> ParameterType:
        if name not in self.allParameters:
            raise ValueError(f"{type(self).__name__} has no parameter '{name}', but {', '.join(self.allParameters)}")
        return self.allParameters[name]

    def getValue(self, name: str) -> Any:
        parameter = self._parameter(name)
        if not parameter.isIn(self.parameterNode, self._prefix + name):
            self.setValue(name, parameter.default)  # closing the scene has emptied the node
        return parameter.read(self.parameterNode, self._prefix + name)

    def setValue(self, name: str, value: Any) -> None:
        parameter = self._parameter(name)
        parameter.check(value)
        with slicer.util.NodeModify(self.parameterNode):
            parameter.write(self.parameterNode, self._prefix + name, value)

    def default(self, name: str) -> Default:
        return Default(self._parameter(name).default)

    def dataType(self, name: str) -> Any:
        return self._parameter(name).hint

    def connectGui(self, gui) -> int:
        """Connect every widget below `gui` that has the Qt property SlicerParameterName; return a tag to disconnect."""
        isWidget = getattr(gui, "isWidgetType", lambda: False)()
        widgets = gui.findChildren(qt.QWidget) if isWidget else vars(gui).values()
        named = ((widget.property(SlicerParameterNamePropertyName), widget) for widget in widgets)
        return self.connectParametersToGui({name: widget for name, widget in named if name})

    def connectParametersToGui(self, mapping: dict[str, qt.QWidget]) -> int:
        connectors = {name: createConnector(widget, self._parameter(name)) for name, widget in mapping.items()}
        slots = []
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            if connector.changed is not None:
                slot = self._makeSlot(name, connector)
                connector.changed.connect(slot)
                slots.append((connector.changed, slot))
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: self._onNodeModified())
        self._nextTag += 1
        self._connections[self._nextTag] = (connectors, slots)
        return self._nextTag

    def disconnectGui(self, tag: int) -> None:
        _connectors, slots = self._connections.pop(tag)
        for signal, slot in slots:
            signal.disconnect(slot)

    def _makeSlot(self, name: str, connector):
        def onWidgetChanged(*_arguments):
            if not self._updatingGui:
                self.setValue(name, connector.read())

        return onWidgetChanged

    def _onNodeModified(self) -> None:
        """Write all widgets; what they emit meanwhile is not written back."""
        if self._updatingGui:
            return
        self._updatingGui = True
        try:
            for connectors, _slots in list(self._connections.values()):
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
        finally:
            self._updatingGui = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def parameterNodeWrapper(classtype: type | None = None):
    """Class decorator; the class keeps its own methods and gets those of the wrapper, named as in Slicer."""
    if classtype is None:
        return parameterNodeWrapper
    hints = typing.get_type_hints(classtype, include_extras=True)
    parameters = {}
    for name, hint in hints.items():
        if hasattr(_Wrapper, name):
            raise ValueError(f"'{name}' is a reserved name of parameter node wrappers")
        parameters[name] = ParameterType(hint, hasattr(classtype, name), getattr(classtype, name, None))
        setattr(classtype, name, _ParameterProperty(name))
    for name, member in vars(_Wrapper).items():
        if callable(member):
            setattr(classtype, name, member)
    classtype.allParameters = parameters
    return classtype


def isParameterNodeWrapper(classOrObject: Any) -> bool:
    return isinstance(getattr(classOrObject, "allParameters", None), dict)
