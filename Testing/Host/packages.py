"""Hide what is installed here but not in a fresh Slicer, from `import`, find_spec() and importlib.metadata.

Used by the host itself and, through child_site/sitecustomize.py, by child processes; so it needs Python alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

# The distributions of Slicer 5.12's own Python. simpleitk, vtk and slicer-core stand for what Slicer builds itself.
SHIPPED = frozenset(
    [
        "certifi",
        "cffi",
        "chardet",
        "charset-normalizer",
        "couchdb",
        "cryptography",
        "dcmqi",
        "deprecated",
        "dicomweb-client",
        "gitdb",
        "gitpython",
        "highdicom",
        "idna",
        "numpy",
        "packaging",
        "pillow",
        "pip",
        "pycparser",
        "pydicom",
        "pygithub",
        "pyjpegls",
        "pyjwt",
        "pynacl",
        "pyparsing",
        "python-dateutil",
        "requests",
        "retrying",
        "scipy",
        "setuptools",
        "simpleitk",
        "six",
        "smmap",
        "typing-extensions",
        "urllib3",
        "wheel",
        "wrapt",
        "slicer-core",
        "vtk",
    ]
)
# What the host and the test runner are made of: not Slicer's, but needed beside the module.
_TOOLS = re.compile(r"pyside6.*|shiboken6|pytest.*|pluggy|iniconfig|execnet|coverage|sam3dsegment")

_hidden: set[str] = set()  # normalised names of distributions
_hiddenImports: set[str] = set()


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.lru_cache
def _providers() -> dict[str, set[str]]:
    """Import name -> the distributions that it comes from."""
    found = importlib.metadata.packages_distributions()
    return {name: {normalized(distribution) for distribution in found[name]} for name in found}


def notShipped() -> set[str]:
    """The distributions that are installed here and that a fresh Slicer has not got."""
    installed = set().union(*_providers().values())
    return {name for name in installed if name not in SHIPPED and not _TOOLS.fullmatch(name)}


class _Finder:
    """Python's own finder for sys.path, which does not find what is hidden."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in _hiddenImports else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(*context):
        found = PathFinder.find_distributions(*context)
        return (distribution for distribution in found if normalized(distribution.name) not in _hidden)

    @staticmethod
    def invalidate_caches() -> None:
        PathFinder.invalidate_caches()


def _setHidden(names: set[str]) -> None:
    """Hide exactly these distributions, and the import names that come from no other."""
    _hidden.clear()
    _hiddenImports.clear()
    imports = {name for name, origins in _providers().items() if origins <= names}
    _hidden.update(names)
    _hiddenImports.update(imports | {name.replace("-", "_") for name in names})
    if PathFinder in sys.meta_path:
        sys.meta_path[sys.meta_path.index(PathFinder)] = _Finder


def _takeImported() -> dict:
    """Modules that are imported already are as good as installed, so they go as well."""
    found = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _hiddenImports}
    for name in found:
        del sys.modules[name]
    return found


class Hiding:
    """Says what is hidden, here and in `file`, which child processes read."""

    def __init__(self, file: Path):
        self._file = file
        self._imported: dict = {}

    def _write(self) -> None:
        if _hidden:
            self._file.write_text(json.dumps({"distributions": sorted(_hidden), "imports": sorted(_hiddenImports)}))
        else:
            self._file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def hide(self, names: set[str]) -> Iterator[None]:
        """Hide these, too, until the end of the `with` block."""
        before = set(_hidden)
        self._set(before | {normalized(name) for name in names})
        try:
            yield
        finally:
            self._set(before)

    def show(self, names: set[str]) -> None:
        """What is installed now; nothing happens for what is not here at all."""
        self._set(_hidden - {normalized(name) for name in names})

    def isHidden(self, name: str) -> bool:
        return normalized(name) in _hidden

    def _set(self, names: set[str]) -> None:
        sys.modules.update(self._imported)
        _setHidden(names)
        self._imported = _takeImported()
        self._write()


def hideAsIn(file: str) -> None:
    """In a child process: hide what the host's file says."""
    content = json.loads(Path(file).read_text())
    _hidden.update(content["distributions"])
    _hiddenImports.update(content["imports"])
    sys.meta_path[sys.meta_path.index(PathFinder)] = _Finder
