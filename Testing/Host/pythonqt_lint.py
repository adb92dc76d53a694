"""Find what works with PySide6 but not with Slicer's PythonQt, by reading a file's syntax tree."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

_BINDINGS = {"PySide6", "PySide2", "PyQt5", "PyQt6", "shiboken6"}
_NOT_IN_PYTHONQT = {"Signal", "Slot", "Property", "QtCore", "QtGui", "QtWidgets", "SIGNAL", "SLOT"}
_ONLY_QT5 = {"QTextCodec", "QRegExp", "QDesktopWidget"}
_QT_MODULES = {"qt", "ctk"}


class _Finder(ast.NodeVisitor):
    def __init__(self, path: Path):
        self.path = path
        self.found: list[str] = []
        self.imported: set[str] = set()  # classes that are used without `qt.` or `ctk.` before their names

    def _report(self, node: ast.AST, text: str) -> None:
        self.found.append(f"{self.path.name}:{node.lineno}: {text}")

    def _checkImport(self, node: ast.AST, module: str) -> None:
        package = module.split(".")[0]
        if package in _BINDINGS:
            self._report(node, f"import {package}: Slicer has PythonQt, as `qt`")
        if package == "imp":
            self._report(node, "import imp: gone in Python 3.12")

    def visit_Import(self, node: ast.Import) -> None:
        for item in node.names:
            self._checkImport(node, item.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._checkImport(node, node.module or "")
        if node.module in _QT_MODULES:
            for item in node.names:
                self._checkName(node, item.name)
                self.imported.add(item.asname or item.name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "qt":
            self._checkName(node, node.attr)
        self.generic_visit(node)

    def _checkName(self, node: ast.AST, name: str) -> None:
        if name in _NOT_IN_PYTHONQT:
            self._report(node, f"qt.{name}: not in PythonQt")
        if name in _ONLY_QT5:
            self._report(node, f"qt.{name}: not in Qt 6")

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if isinstance(function, ast.Name) and function.id in self.imported and node.keywords:
            self._report(node, f"{function.id}(...): PythonQt takes no keyword arguments")
        named = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
        if named and node.keywords:
            module, name = function.value.id, function.attr
            isSlicerWidget = module == "slicer" and name.startswith(("qMRML", "qSlicer"))
            if module in _QT_MODULES or isSlicerWidget:
                self._report(node, f"{module}.{name}(...): PythonQt takes no keyword arguments")
        elif isinstance(function, ast.Attribute) and node.keywords and self._isQtClass(function.value):
            self._report(node, f"{ast.unparse(function)}(...): PythonQt takes no keyword arguments")
        self.generic_visit(node)

    @staticmethod
    def _isQtClass(node: ast.AST) -> bool:
        """`qt.QTimer` in `qt.QTimer.singleShot(msec=0)`."""
        return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _QT_MODULES


def find_pyside_only_idioms(path: str | Path) -> list[str]:
    """Return "file:line: what" for a Python file, or for all in a folder; empty when there is nothing to say."""
    path = Path(path)
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    found = []
    for file in files:
        finder = _Finder(file)
        finder.visit(ast.parse(file.read_text(encoding="utf-8"), str(file)))
        found += finder.found
    return found


if __name__ == "__main__":
    sys.exit("\n".join(line for argument in sys.argv[1:] for line in find_pyside_only_idioms(argument)) or 0)
