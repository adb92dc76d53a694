"""`qt.QUiLoader`: Qt's own form loader, which also knows the ctk and qMRML stand-ins and reports what is unknown."""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

import pythonqt
import reports

_DESIGNER_ONLY = {"Line", "buddy"}  # a class and a property that exist in .ui files, but not in Qt


def findStandIn(className: str) -> type | None:
    """The class that a .ui file means by a ctk or qMRML name."""
    for module in ("ctk", "qmrml"):
        kind = getattr(importlib.import_module(module), className, None)
        if kind is not None:
            return kind
    return None


class QUiLoader(QtUiTools.QUiLoader):
    """What is unknown is reported and replaced, so that one run names everything that is wrong with a form."""

    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget:
        root = ElementTree.fromstring(bytes(device.readAll()))
        self._registerClasses(root)
        connections = self._takeConnections(root)
        enumerations = self._takeEnumerations(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        with pythonqt.ignoringNewAttributes():
            form = super().load(buffer, parent)
        if form is None:
            raise RuntimeError(self.errorString())
        self._reportUnknownProperties(root, form)
        for name, propertyName, value in enumerations:
            setattr(self._find(form, name), propertyName, value)
        for sender, signal, receiver, slot in connections:
            method = getattr(self._find(form, receiver), slot.split("(")[0], None)
            if method is None:
                reports.errors.append(f"'{receiver}' has no slot '{slot}', in a .ui file")
                continue
            pythonqt.connect(self._find(form, sender), signal, method)
        return form

    def _registerClasses(self, root: ElementTree.Element) -> None:
        declared = {item.findtext("class"): item for item in root.findall(".//customwidget")}
        for className, item in declared.items():
            kind = findStandIn(className)
            if kind is None:
                base = getattr(QtWidgets, item.findtext("extends") or "", None) or QtWidgets.QWidget
                reports.errors.append(f"unknown widget class '{className}' in a .ui file")
                kind = type(className, (base,), {})
            self.registerCustomWidget(kind)
            item.find("extends").text = "QWidget"
        known = set(self.availableWidgets()) | set(declared) | _DESIGNER_ONLY
        for className in {widget.get("class") for widget in root.iter("widget")} - known:
            reports.errors.append(f"unknown widget class '{className}' in a .ui file")

    @staticmethod
    def _takeConnections(root: ElementTree.Element) -> list[tuple[str, ...]]:
        """Qt cannot connect signals with MRML arguments, so Python connects them all."""
        keys = ("sender", "signal", "receiver", "slot")
        found = [tuple(item.findtext(key) for key in keys) for item in root.findall(".//connection")]
        for block in root.findall("connections"):
            root.remove(block)
        return found

    @staticmethod
    def _takeEnumerations(root: ElementTree.Element) -> list[tuple[str, str, Any]]:
        """Enum values such as `ctkPathLineEdit::Files` are known to Python only."""
        found = []
        for widget in root.iter("widget"):
            kind = findStandIn(widget.get("class"))
            if kind is None:
                continue
            for item in list(widget.findall("property")):
                value = item.find("set") if item.find("set") is not None else item.find("enum")
                if value is None or not (value.text or "").startswith(kind.__name__ + "::"):
                    continue
                widget.remove(item)
                number = 0
                for name in value.text.split("|"):
                    flag = getattr(kind, name.split("::")[-1], None)
                    if flag is None:
                        reports.errors.append(f"unknown enum value '{name}' in a .ui file")
                        continue
                    number |= int(flag)
                found.append((widget.get("name"), item.get("name"), number))
        return found

    @staticmethod
    def _find(form: QtWidgets.QWidget, name: str) -> QtCore.QObject:
        """Forms are connected by their root's name as well, which a module may have changed."""
        found = form if form.objectName == name else form.findChild(QtCore.QObject, name)
        return found if found is not None else form

    def _reportUnknownProperties(self, root: ElementTree.Element, form: QtWidgets.QWidget) -> None:
        """Qt turns a misspelt property into a dynamic one and says nothing."""
        for item in root.iter("widget"):
            if item.get("class") in _DESIGNER_ONLY or not item.get("name"):
                continue
            meta = self._find(form, item.get("name")).metaObject()
            for declared in item.findall("property"):
                name = declared.get("name")
                dynamic = declared.get("stdset") == "0" or name in _DESIGNER_ONLY
                if not dynamic and meta.indexOfProperty(name) < 0:
                    reports.errors.append(f"unknown property '{name}' of {item.get('class')} in a .ui file")
