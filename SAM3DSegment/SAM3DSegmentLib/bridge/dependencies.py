"""Python packages that Slicer does not ship: find what is missing, and install it if the user agrees.

What other extensions compute with stays as it is: pip may add packages, but not replace those named in KEPT.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _

from ..base.errors import DependencyError
from .worker import POLLING_MS, CommandProcess, lastObject

if TYPE_CHECKING:
    from packaging.requirements import Requirement

RESOURCES = Path(__file__).resolve().parents[2] / "Resources"
REQUIREMENTS_FILE = RESOURCES / "requirements.txt"
HASHED_REQUIREMENTS_FILE = RESOURCES / "requirements-hashed.txt"  # pip accepts only files with these hashes
TRAINING_REQUIREMENTS_FILE = RESOURCES / "requirements-training.txt"
TORCH = "torch>=2.2"  # installed by the PyTorch extension, which chooses the build for this computer's GPU
KEPT = ("torch", "torchvision", "torchaudio", "numpy", "scipy", "SimpleITK")
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
    """Missing and too old packages in pip's syntax; found by their metadata, so that nothing is imported."""
    return ([] if _torchIsUsable() else [TORCH]) + [str(requirement) for requirement in _missingRequirements(training)]


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
    if not slicer.util.confirmOkCancelDisplay(_question(names), _("Install packages")):
        raise DependencyError(_("{names} are needed for this; click again to install them.").format(names=names))
    importedBefore = _torch().name in sys.modules
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
        _probe()


def _question(names: str) -> str:
    question = _("SAM3DSegment needs these Python packages: {names}. Install them now?").format(names=names)
    version = _version(_torch().name)
    if version and not _isSatisfied(_torch()):
        warning = _("torch {version} will be replaced; other extensions may use it.").format(version=version)
        question = f"{question} {warning}"
    return question


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _("the PyTorch extension is not installed; install it in the Extensions Manager and restart Slicer.")
        ) from error
    logic = PyTorchUtils.PyTorchUtilsLogic()
    try:
        if _version(_torch().name) and not _isWhole(_torch().name):
            logic.uninstallTorch()  # pip would take the remains for an installed package
        # its last step is `import torch`
        logic.installTorch(askConfirmation=False, torchVersionRequirement=str(_torch().specifier))
    except INSTALLATION_ERRORS as error:
        raise _failed(TORCH, error) from error


def _pipInstall(wanted: list[Requirement]) -> None:
    hashed = _read(HASHED_REQUIREMENTS_FILE)
    rest = [str(requirement) for requirement in wanted if requirement not in hashed]
    try:
        if len(rest) < len(wanted):
            # pip reads hashes only from a file, and then requires one for every package that it installs.
            _pip(["--no-deps", "-r", str(HASHED_REQUIREMENTS_FILE)])
        if rest:
            with _constraints() as file:
                _pip(["--constraint", str(file), *rest])
    except INSTALLATION_ERRORS as error:
        raise _failed(", ".join(map(str, wanted)), error) from error


@contextlib.contextmanager
def _constraints() -> Iterator[Path]:
    """A file by which pip leaves alone what is there: it takes older releases of what it adds, or fails."""
    versions = {name: _version(name) for name in KEPT}
    with tempfile.TemporaryDirectory(prefix="SAM3DSegment-", dir=slicer.app.temporaryPath) as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in versions.items() if version), "utf-8")
        yield file


def _pip(arguments: list[str]) -> None:
    try:
        from slicer.packaging import pip_install  # since Slicer 5.12
    except ImportError:
        slicer.util.pip_install(arguments)
    else:
        pip_install(arguments, show_progress=False)  # its dialog would tell of a failure, and then the panel again


def _probe() -> None:
    """Let a process of its own try what was installed: what is there by its metadata may still be of no use."""
    lines: list[str] = []
    ends: list[str] = []  # an error message, or "" if there is none
    process = CommandProcess(
        ["doctor", "--json"], lines.append, lambda: ends.append(""), ends.append, lambda: ends.append("")
    )
    process.start()
    while not ends:
        slicer.app.processEvents()
        time.sleep(POLLING_MS / 1000)
    problems = [ends[0]] if ends[0] else lastObject(lines)["problems"]
    if problems:
        raise DependencyError(" ".join(problems))


def _failed(names: str, error: Exception) -> DependencyError:
    return DependencyError(
        _(
            "{names} could not be installed ({reason}); check the network and the free disk space, see the application "
            "log, and restart Slicer before you try again."
        ).format(names=names, reason=error)
    )


def _missingRequirements(training: bool) -> list[Requirement]:
    return [requirement for requirement in requirements(training) if not _isSatisfied(requirement)]


def _torch() -> Requirement:
    from packaging.requirements import Requirement

    return Requirement(TORCH)


def _torchIsUsable() -> bool:
    return _isWhole(_torch().name) and _isSatisfied(_torch())


def _isSatisfied(requirement: Requirement) -> bool:
    from packaging.version import InvalidVersion

    version = _version(requirement.name)
    try:
        return bool(version) and requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _isWhole(name: str) -> bool:
    """False if it is missing, or left incomplete by an interrupted installation (files or metadata alone)."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None and bool(_version(name))


def _version(name: str) -> str:
    """Of an installed package; "" if it is missing, or if its metadata are damaged."""
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""
