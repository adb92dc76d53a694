"""Python packages that Slicer does not ship: find what is missing, and install it if the user agrees."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from ..base.errors import DependencyError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

RESOURCES = Path(__file__).resolve().parents[2] / "Resources"
REQUIREMENTS_FILE = RESOURCES / "requirements.txt"
HASHED_REQUIREMENTS_FILE = RESOURCES / "requirements-hashed.txt"  # pip accepts only files with these hashes
TRAINING_REQUIREMENTS_FILE = RESOURCES / "requirements-training.txt"
TORCH = "torch"  # installed by the PyTorch extension, which chooses the build for this computer's GPU
INSTALLATION_ERRORS = (RuntimeError, OSError, ImportError, subprocess.CalledProcessError)


def requirements(training: bool = False) -> list[Requirement]:
    """What segmentation, and with `training` also training, needs besides torch and what Slicer ships."""
    more = _read(TRAINING_REQUIREMENTS_FILE) if training else []
    return _read(HASHED_REQUIREMENTS_FILE) + _read(REQUIREMENTS_FILE) + more


def _read(file: Path) -> list[Requirement]:
    from packaging.requirements import Requirement

    lines = [line.partition("#")[0].partition("--hash")[0] for line in file.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line.strip()) for line in lines if line.strip()]


def missingPackages(training: bool = False) -> list[str]:
    """Missing packages in pip's syntax; found by their metadata, so that nothing is imported."""
    return ([] if _isWhole(TORCH) else [TORCH]) + [str(requirement) for requirement in _missingRequirements(training)]


class Installer:
    """Installs missing packages; onBusyChanged() is called when an installation begins and when it has ended.

    Slicer handles clicks while pip runs, so a button that installs has to be disabled while `isBusy`.
    """

    def __init__(self, onBusyChanged: Callable[[], None]) -> None:
        self.isBusy = False
        self._onBusyChanged = onBusyChanged

    def install(self, training: bool = False) -> None:
        """Ask once, then install: torch through the PyTorch extension, the rest by pip. training: for training too.

        Raises DependencyError if the user declines, or if the installation fails, with a remedy.
        """
        missing = missingPackages(training)
        if not missing:
            return
        if self.isBusy:
            raise DependencyError(_("packages are being installed; wait until that has ended."))
        self._setBusy(True)
        try:
            _askAndInstall(missing, training)
        finally:
            self._setBusy(False)

    def _setBusy(self, busy: bool) -> None:
        self.isBusy = busy
        self._onBusyChanged()


def _askAndInstall(missing: list[str], training: bool) -> None:
    names = ", ".join(missing)
    question = _("SAM3DSegment needs these Python packages: {names}. Install them now?").format(names=names)
    if not slicer.util.confirmOkCancelDisplay(question, _("Install packages")):
        raise DependencyError(_("{names} are needed for this; click again to install them.").format(names=names))
    importedBefore = TORCH in sys.modules
    with slicer.util.WaitCursor():
        if TORCH in missing:
            _installTorch()
        if wanted := _missingRequirements(training):
            _pipInstall(wanted)
    importlib.invalidate_caches()
    left = missingPackages(training)
    if left:
        raise DependencyError(
            _("{names} are still missing after the installation; restart Slicer and install them again.").format(
                names=", ".join(left)
            )
        )
    if TORCH in missing and importedBefore:
        raise DependencyError(_("torch was replaced while Slicer was using it; restart Slicer, then try again."))


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _("the PyTorch extension is not installed; install it in the Extensions Manager and restart Slicer.")
        ) from error
    logic = PyTorchUtils.PyTorchUtilsLogic()
    try:
        if _hasMetadata(TORCH) and not _isWhole(TORCH):
            logic.uninstallTorch()  # pip would take the remains for an installed package
        logic.installTorch(askConfirmation=False)  # its last step is `import torch`
    except INSTALLATION_ERRORS as error:
        raise _failed(TORCH, error) from error


def _pipInstall(wanted: list[Requirement]) -> None:
    hashed = _read(HASHED_REQUIREMENTS_FILE)
    rest = [requirement for requirement in wanted if requirement not in hashed]
    try:
        if rest != wanted:
            # pip reads hashes only from a file, and then requires one for every package that it installs.
            slicer.util.pip_install(["--no-deps", "-r", str(HASHED_REQUIREMENTS_FILE)])
        if rest:
            _ensure(rest)
    except INSTALLATION_ERRORS as error:
        raise _failed(", ".join(map(str, wanted)), error) from error


def _ensure(wanted: list[Requirement]) -> None:
    try:
        from slicer.packaging import pip_ensure  # since Slicer 5.12
    except ImportError:
        slicer.util.pip_install([str(requirement) for requirement in wanted])
    else:
        pip_ensure(wanted, prompt_install=False, requester="SAM3DSegment")


def _failed(names: str, error: Exception) -> DependencyError:
    return DependencyError(
        _(
            "{names} could not be installed ({reason}); check the network and the free disk space, see the application "
            "log, and restart Slicer before you try again."
        ).format(names=names, reason=error)
    )


def _missingRequirements(training: bool) -> list[Requirement]:
    return [requirement for requirement in requirements(training) if not _isSatisfied(requirement)]


def _isSatisfied(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _isWhole(name: str) -> bool:
    """False if it is missing, or left incomplete by an interrupted installation (files or metadata alone)."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and _hasMetadata(name)


def _hasMetadata(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False
