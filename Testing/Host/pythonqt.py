"""Make PySide6's own classes behave as PythonQt presents Qt to Slicer's modules.

PythonQt differs from PySide6 in how an object is used, not in what Qt does:

- a property is an attribute: `label.text`, `box.checked = True`; a read-only one cannot be set
- a signal is connected by its C++ signature: `button.connect("clicked(bool)", f)`
- an attribute that does not exist cannot be made by assignment: `button.tooltip = "x"` raises
- constructors take no keyword arguments, and raise ValueError for arguments that none of them takes
- a callable that is connected is held until it is disconnected or the sender is deleted, and no garbage collector sees
  that: a sender and an object whose method it calls keep each other alive
- only functions and methods are called with fewer arguments than the signal has; other callables get all of them
- a text property takes anything and shows `str()` of it; lists come back as tuples; enum values are integers, and
  flags that a property holds are none on Qt 6
- enum values are reachable from instances: `process.Running`
- `name` is the object's name, `className()` its class, `delete()` deletes it later, `exec_()` is spelled so

PySide6's classes are changed in place, without subclasses, because Slicer compares types exactly
(`type(w) == qt.QCheckBox`).
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import logging
import re
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import shiboken6
from PySide6 import QtCore

import reports

_genericSetAttr = ctypes.pythonapi.PyObject_GenericSetAttr
_genericSetAttr.argtypes = [ctypes.py_object] * 3
_genericSetAttr.restype = ctypes.c_int
_state = {"ignoring": False}


class PropertyAttribute:
    """A Q_PROPERTY as an attribute. The class keeps its method: `QTimer.singleShot` is a property and a function."""

    _asked: set[tuple[int, str]] = set()  # whose value is being read

    def __init__(self, name: str, typeName: str, writable: bool, method: Any = None):
        self.name, self.typeName, self.writable, self.method = name, typeName, writable, method

    def __get__(self, instance, owner=None):
        if instance is None:
            return self.method
        # A virtual reader, such as sizeHint, asks Python for a method that overrides it before it answers.
        if (id(instance), self.name) in self._asked:
            return self.method.__get__(instance)
        self._asked.add((id(instance), self.name))
        try:
            value = instance.property(self.name)
            return Flags(value) if isinstance(value, enum.Flag) else withTuples(value)
        finally:
            self._asked.discard((id(instance), self.name))

    def __set__(self, instance, value):
        if not self.writable:
            raise AttributeError(f"property '{self.name}' of {type(instance).__name__} is read-only")
        converted = self._converted(value)
        if type(converted).__module__ == "numpy" or not instance.setProperty(self.name, converted):
            raise TypeError(f"{type(instance).__name__}.{self.name} does not take a {type(value).__name__}: {value!r}")

    def _converted(self, value: Any) -> Any:
        if self.typeName == "QString":
            return str(value)
        if self.typeName == "int" and isinstance(value, float):
            return int(value)
        if isinstance(value, Flags):
            return value.value
        if isinstance(value, float):
            return float(value)  # numpy's float64 is one, its other numbers are none
        return value


@dataclass(frozen=True)
class Flags:
    """Flags that a property holds: an object of its own on Qt 6, with which nobody can calculate."""

    value: enum.Flag

    def testFlag(self, flag: int) -> bool:
        return bool(self.value & flag)


def withTuples(value: Any) -> Any:
    """Lists that Qt returns, as PythonQt gives them."""
    return tuple(withTuples(item) for item in value) if isinstance(value, list) else value


@dataclass
class _Connection:
    """`slot` is what Qt calls, `target` what was connected."""

    signature: str
    target: Any
    slot: Callable


# By the C++ address of the sender. Qt holds the slots as well, until the sender is deleted.
_connections: dict[int, list[_Connection]] = {}


def signalSignature(sender: QtCore.QObject, signature: str) -> str | None:
    """The normalised signature that the sender's meta object knows, or None, which is collected as an error.

    Stand-in widgets declare a MRML node as a Python object, so `vtkMRMLNode*` and its kin are looked up as that.
    """
    normalized = bytes(QtCore.QMetaObject.normalizedSignature(signature)).decode()
    normalized = re.sub(r"\bvtk\w+\*", "PyObject", normalized)
    if sender.metaObject().indexOfSignal(normalized) >= 0:
        return normalized
    message = f"{sender.metaObject().className()} has no signal '{signature}'"
    logging.getLogger("qt").warning(message)
    reports.errors.append(message)
    return None


def _argumentCount(target: Callable) -> int | None:
    """How many arguments PythonQt hands over at most: it looks at functions and methods only. None is all."""
    function = target.__func__ if isinstance(target, types.MethodType) else target
    if not isinstance(function, types.FunctionType) or function.__code__.co_flags & 0x04:  # CO_VARARGS
        return None
    return function.__code__.co_argcount - isinstance(target, types.MethodType)


def _target(receiver: tuple) -> tuple[Callable, int | None]:
    """The callable of `connect(signal, callable)` or `connect(signal, object, "slot()")`, and how much it takes."""
    if len(receiver) == 1 and callable(receiver[0]):
        return receiver[0], _argumentCount(receiver[0])
    if len(receiver) == 2 and isinstance(receiver[1], str):
        name, _, rest = receiver[1].partition("(")
        arguments = rest.rstrip(") ")
        return getattr(receiver[0], name), arguments.count(",") + 1 if arguments else 0
    raise TypeError(f"connect takes a callable, or an object and a slot, not {receiver!r}")


def connect(sender: QtCore.QObject, signature: str, *receiver) -> bool:
    """`sender.connect("signal(args)", callable)`; False, and an error, for a signal that is not known."""
    known = signalSignature(sender, signature)
    if known is None:
        return False
    target, count = _target(receiver)

    def slot(*arguments):
        target(*arguments[:count])

    address = shiboken6.getCppPointer(sender)[0]
    if address not in _connections:
        _connections[address] = []
        sender.destroyed.connect(lambda *_: _connections.pop(address, None))
    _connections[address].append(_Connection(known, target, slot))
    return bool(QtCore.QObject.connect(sender, QtCore.SIGNAL(known), slot))


def disconnect(sender: QtCore.QObject, signature: str, *receiver) -> bool:
    """`sender.disconnect("signal(args)"[, callable])`: what Python has connected, the first equal callable or all."""
    known = signalSignature(sender, signature)
    mine = _connections.get(shiboken6.getCppPointer(sender)[0], [])
    found = [item for item in mine if item.signature == known and (not receiver or item.target == _target(receiver)[0])]
    for item in found[:1] if receiver else found:
        mine.remove(item)
        QtCore.QObject.disconnect(sender, QtCore.SIGNAL(known), item.slot)
    return bool(found)


def _singleShot(milliseconds: int, *receiver) -> None:
    """`QTimer.singleShot(300, callable)` or `(300, object, "slot()")`: held until then."""
    timer, target = QtCore.QTimer(), _target(receiver)[0]

    def fire():
        timer.deleteLater()
        target()

    timer.setSingleShot(True)
    connect(timer, "timeout()", fire)
    timer.start(int(milliseconds))


def _attributeReader(original: Callable) -> Callable:
    def read(self, name):
        if name == "connect":
            return lambda *arguments: connect(self, *arguments)
        if name == "disconnect":
            return lambda *arguments: disconnect(self, *arguments)
        try:
            return original(self, name)
        except AttributeError:
            if name[:1].isupper():
                return getattr(type(self), name)
            raise

    return read


def _constructor(original: Callable) -> Callable:
    def construct(self, *arguments, **keywords):
        if keywords:
            raise TypeError(
                f"{type(self).__name__}(): PythonQt takes no keyword arguments, such as {', '.join(keywords)}"
            )
        try:
            original(self, *arguments)
        except TypeError as error:
            raise ValueError(f"{type(self).__name__}(): {error}") from error

    return construct


@contextlib.contextmanager
def ignoringNewAttributes():
    """PySide6's form loader makes every child an attribute of the form, which PythonQt's does not: drop them."""
    _state["ignoring"] = True
    try:
        yield
    finally:
        _state["ignoring"] = False


def _isStrict(kind: type) -> bool:
    """Whether instances stand for C++ objects; classes that a module derives itself may grow attributes."""
    return kind.__module__.startswith("PySide6") or getattr(kind, "standsForCpp", None) == kind.__name__


def _writeAttribute(self, name: str, value: Any) -> None:
    kind = type(self)
    attribute = getattr(kind, name, None)
    if isinstance(attribute, QtCore.Property):
        if attribute.fset is None:
            raise AttributeError(f"property '{name}' of {kind.__name__} is read-only")
        attribute.fset(self, value)
        return
    if not hasattr(kind, name) and not name.startswith("_") and _isStrict(kind):
        if _state["ignoring"]:
            return
        if name.encode() not in [bytes(known) for known in self.dynamicPropertyNames()]:
            raise AttributeError(f"{kind.__name__} has no attribute '{name}' to set")
        self.setProperty(name, value)
        return
    _genericSetAttr(self, name, value)


def standIn(kind: type) -> type:
    """Class decorator: a Python class that stands for a C++ widget is as strict as Qt's own classes."""
    kind.standsForCpp = kind.__name__
    if "__init__" in vars(kind):
        kind.__init__ = _constructor(kind.__init__)
    return kind


def applyConventions(modules: Iterable) -> None:
    """Change every QObject class of the PySide6 modules in place."""
    candidates = [getattr(module, name) for module in modules for name in dir(module)]
    classes = {kind for kind in candidates if isinstance(kind, type) and issubclass(kind, QtCore.QObject)}
    # Shiboken treats connect(), QFile.exists() and others in each class's own attribute lookup, so each one's is kept.
    originals = {kind: kind.__getattribute__ for kind in classes}
    constructors = {kind: kind.__init__ for kind in classes}
    for kind, original in originals.items():
        kind.__init__ = _constructor(constructors[kind])
        kind.__getattribute__ = _attributeReader(original)
        kind.__setattr__ = _writeAttribute
        meta = kind.staticMetaObject
        for index in range(meta.propertyCount()):
            declared = meta.property(index)
            if index >= meta.propertyOffset() or declared.name() in vars(kind):  # its own, or it overrides the reader
                method = getattr(kind, declared.name(), None)
                attribute = PropertyAttribute(declared.name(), declared.typeName(), declared.isWritable(), method)
                setattr(kind, declared.name(), attribute)
    QtCore.QObject.name = PropertyAttribute("objectName", "QString", True)
    QtCore.QObject.className = lambda self: self.metaObject().className()
    QtCore.QObject.delete = lambda self: self.deleteLater()
    vars(QtCore.QTimer)["singleShot"].method = _singleShot
    value = QtCore.QSettings.value
    QtCore.QSettings.value = lambda self, *arguments: withTuples(value(self, *arguments))
