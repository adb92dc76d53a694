"""A Qt property whose value a stand-in widget simply keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Property


def storedProperty(
    name: str, kind: Any, default: Any, notify: str | None = None, onChange: Callable | None = None
) -> tuple[Property, Callable]:
    """Return the property and its setter, to be bound as `text, setText = storedProperty("text", str, "")`.

    On a change the value is stored, `onChange(self, value)` called, and the signal named `notify` emitted.
    """
    key = f"_stored_{name}"

    def read(self):
        value = self.__dict__.get(key, default)
        return tuple(value) if isinstance(value, list) else value  # as PythonQt gives them

    def write(self, value):
        value = str(value) if kind is str else list(value) if kind == "QStringList" else value
        if self.__dict__.get(key, default) == value:
            return
        self.__dict__[key] = value
        if onChange is not None:
            onChange(self, value)
        if notify is not None:
            getattr(self, notify).emit(value)

    return Property(kind, read, write), write
