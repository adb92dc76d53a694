"""Python packages that Slicer does not ship: what is missing, and installing it when the user agrees."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import subprocess
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ..errors import DependencyError

logger = logging.getLogger(__name__)

REQUIREMENTS_FILE = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"


def requirements() -> list[str]:
    """The lines of Resources/requirements.txt: all that segmentation needs besides torch and torchvision."""
    lines = REQUIREMENTS_FILE.read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def torchIsInstalled() -> bool:
    """True if torch is there whole: an interrupted installation leaves a folder without metadata, or the reverse."""
    return all(_isWhole(name) for name in ("torch", "torchvision"))


def missingPackages() -> list[str]:
    """Names of what still has to be installed, by metadata alone, so that nothing is imported."""
    missing = [] if torchIsInstalled() else ["torch"]
    for requirement in requirements():
        name = requirement.split(">")[0].split("=")[0].split("[")[0].strip()
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def installMissingPackages() -> None:
    """Ask once, then install: torch through the PyTorch extension, the rest by pip.

    Raises DependencyError if the user declines, or says how to mend what failed.
    """
    missing = missingPackages()
    if not missing:
        return
    question = _("SAM3DSegment needs these Python packages: {names}. Install them now?").format(
        names=", ".join(missing)
    )
    if not slicer.util.confirmOkCancelDisplay(question, _("Install packages")):
        raise DependencyError(
            _("{names} are needed to segment; install them in Setup.").format(names=", ".join(missing))
        )
    if "torch" in missing:
        _installTorch()
    rest = [requirement for requirement in requirements() if any(requirement.startswith(name) for name in missing)]
    if rest:
        _pipInstall(rest)


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _("the PyTorch extension is not installed; install it in the Extensions Manager and restart Slicer.")
        ) from error
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False) is None:
        raise DependencyError(_("torch could not be installed; see the PyTorch module for what failed."))


def _pipInstall(wanted: list[str]) -> None:
    try:
        try:
            from slicer.packaging import pip_ensure  # since Slicer 5.12
        except ImportError:
            slicer.util.pip_install(wanted)
        else:
            pip_ensure(wanted, prompt_install=False, requester="SAM3DSegment")
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise DependencyError(
            _("{names} could not be installed ({reason}); check the network and see the application log.").format(
                names=", ".join(wanted), reason=error
            )
        ) from error


def _isWhole(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None and bool(importlib.metadata.version(name))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
