"""slicer.util without a user: nothing is installed, no module panel is switched, and dropped keywords are errors.

Its displays are Slicer's own; the message boxes that they make are recorded and answered by dialogs.py.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

import ctk
import reports

_messageBox = slicer.util.messageBox


def _strictMessageBox(text: str, parent: Any = None, **keywords) -> int:
    """The displays pass their keywords on to the message box, and what that has not got is silently dropped."""
    unknown = [name for name in keywords if not hasattr(ctk.ctkMessageBox, name)]
    if unknown:
        reports.errors.append(f"slicer.util does nothing with {', '.join(unknown)} of a message box")
    return _messageBox(text, parent, **keywords)


def _delayDisplay(message: str, autoCloseMsec: int = 1000, parent: Any = None, **_keywords) -> None:
    """No popup, no waiting."""
    logging.info(message)
    slicer.app.processEvents()


def _selectModule(module) -> None:
    """Slicer raises for an unknown module as well; there is no panel to switch here, so the name is recorded."""
    name = module if isinstance(module, str) else module.name
    if slicer.app.moduleManager().module(name) is None:
        raise RuntimeError(f"there is no module '{name}'")
    reports.selectedModules.append(name)


def _withoutConstraints(requirements: str | list[str]) -> tuple[list[str], str]:
    """pip's arguments, and the content of the file of constraints among them."""
    words = requirements.split() if isinstance(requirements, str) else list(requirements)
    for option in ("-c", "--constraint"):
        if option in words:
            at = words.index(option)
            constraints = Path(words[at + 1]).read_text(encoding="utf-8")
            return words[:at] + words[at + 2 :], constraints
    return words, ""


def _names(words: list[str]) -> set[str]:
    """The distributions that pip would be asked for."""
    if "-r" in words:
        at = words.index("-r")
        lines = Path(words[at + 1]).read_text(encoding="utf-8").splitlines()
        words = words[:at] + [line for line in lines if not line.startswith("#")] + words[at + 2 :]
    return {re.split(r"[\s\[<>=!~;@]", word, maxsplit=1)[0] for word in words if not word.startswith("-")}


def pretendToInstall(kind: str, requirements: list[str]) -> None:
    """What an installation does: events are processed while it runs; then it fails, or the packages are there.

    An exception that is queued as the answer for `kind` is raised.
    """
    slicer.app.processEvents()
    failure = reports.nextAnswer(kind)
    if isinstance(failure, Exception):
        raise failure
    slicer.app.hiding.show(_names(requirements))


def _pipInstall(requirements: str | list[str]) -> None:
    """slicer.util's up to Slicer 5.10, which knows nothing else."""
    words, constraints = _withoutConstraints(requirements)
    reports.pipInstalls.append(requirements if isinstance(requirements, str) else words)
    reports.pipConstraints.append(constraints)
    pretendToInstall("pip", words)


def _pipInstallOfPackaging(
    requirements: str | list[str],
    constraints: Any = None,
    no_deps_requirements: Any = None,
    skip_packages: list[str] | None = None,
    blocking: bool = True,
    show_progress: bool = True,
    requester: str | None = None,
    parent: Any = None,
    logCallback: Callable | None = None,
    completedCallback: Callable | None = None,
) -> None:
    """slicer.packaging's, since Slicer 5.12: its dialog of progress tells of a failure before that is raised."""
    words, _ = _withoutConstraints(requirements)
    try:
        _pipInstall(requirements if constraints is None else [*words, "-c", str(constraints)])
    except subprocess.CalledProcessError:
        if show_progress:
            slicer.util.errorDisplay("Package installation failed.")
        raise


def withoutUser() -> None:
    slicer.util.messageBox = _strictMessageBox
    slicer.util.delayDisplay = _delayDisplay
    slicer.util.selectModule = _selectModule
    slicer.util.pip_install = _pipInstall
    if hasattr(slicer, "packaging"):
        slicer.packaging.pip_install = _pipInstallOfPackaging


def addPackaging() -> None:
    if not hasattr(slicer, "packaging"):
        sys.modules["slicer.packaging"] = types.SimpleNamespace(pip_install=_pipInstallOfPackaging)


def removePackaging() -> None:
    if not hasattr(slicer, "packaging"):
        sys.modules.pop("slicer.packaging", None)
