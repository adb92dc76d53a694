"""`import PyTorchUtils`, as with the extension PyTorch: installing torch is recorded and does what the test says."""

from __future__ import annotations

import importlib
import sys
import types

import slicer

import reports
from slicer_util import pretendToInstall


class PyTorchUtilsLogic:
    """PyTorchUtilsLogic of the extension PyTorch."""

    @staticmethod
    def torchInstalled() -> bool:
        return importlib.util.find_spec("torch") is not None

    @staticmethod
    def torchvisionInstalled() -> bool:
        return importlib.util.find_spec("torchvision") is not None

    def installTorch(
        self,
        askConfirmation: bool = False,
        forceComputationBackend: str | None = None,
        torchVersionRequirement: str | None = None,
        torchvisionVersionRequirement: str | None = None,
    ) -> types.ModuleType | None:
        """None is returned only to a user who was asked and declined; pip and the import of torch raise."""
        asks = askConfirmation and not slicer.app.testingEnabled()
        if asks and not slicer.util.confirmOkCancelDisplay("PyTorch will be downloaded and installed."):
            return None
        wanted = [f"torch{torchVersionRequirement or ''}", f"torchvision{torchvisionVersionRequirement or ''}"]
        reports.torchInstalls.append(wanted)
        pretendToInstall("torch", wanted)
        return importlib.import_module("torch")

    def uninstallTorch(self, askConfirmation: bool = False, forceComputationBackend: str | None = None) -> None:
        reports.torchInstalls.append([])


def add() -> None:
    """The extension is installed."""
    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    sys.modules["PyTorchUtils"] = module


def remove() -> None:
    sys.modules.pop("PyTorchUtils", None)
