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
        return self.__dict__.get(key, default)

    def write(self, value):
        if read(self) == value:
            return
        self.__dict__[key] = value
        if onChange is not None:
            onChange(self, value)
        if notify is not None:
            getattr(self, notify).emit(value)

    return Property(kind, read, write), write
