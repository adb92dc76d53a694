"""The section "Setup" of the panel: this computer, packages, SAM's weights, folders."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from ..cache import cache_info, clear_cache
from ..errors import Sam3dError
from ..folders import models_folder
from ..weights import CHECKPOINTS
from . import dependencies
from .parameters import SegmentParameters
from .settings import samCheckpoint, setSamCheckpoint
from .worker import CommandProcess

CHECKPOINT = CHECKPOINTS["sam_vit_b"]


class SetupSection:
    """onDevices(names) is called when the computer's devices are known."""

    def __init__(self, ui: Any, onDevices: Callable[[tuple[str, ...]], None]) -> None:
        self._ui = ui
        self._onDevices = onDevices
        self._parameters: Any = None  # a SegmentParameters; Slicer's wrapper adds methods at run time
        self._process: CommandProcess | None = None
        self._lines: list[str] = []
        for name, slot in (
            ("checkButton", self._check),
            ("installButton", self._install),
            ("downloadWeightsButton", self._downloadWeights),
            ("chooseWeightsButton", self._chooseWeights),
            ("verifyWeightsButton", self._verifyWeights),
            ("removeWeightsButton", self._removeWeights),
            ("openModelsButton", lambda: _openFolder(models_folder())),
            ("openCacheButton", lambda: _openFolder(cache_info().folder)),
            ("clearCacheButton", self._clearCache),
        ):
            getattr(ui, name).connect("clicked(bool)", lambda _checked=False, slot=slot: slot())
        ui.setupSection.connect("contentsCollapsed(bool)", lambda collapsed: None if collapsed else self.update())

    def setParameters(self, parameters: SegmentParameters | None) -> None:
        self._parameters = parameters

    def cleanup(self) -> None:
        if self._process is not None:
            self._process.abandon()
            self._process = None

    def update(self) -> None:
        """Look at packages, weights and folders again; nothing is imported or measured."""
        missing = dependencies.missingPackages()
        self._ui.packagesLabel.text = (
            _("Missing: {names}.").format(names=", ".join(missing)) if missing else _("All packages are installed.")
        )
        self._ui.installButton.enabled = bool(missing)
        chosen = samCheckpoint()
        there = Path(chosen).is_file() if chosen else CHECKPOINT.path.is_file()
        path = chosen or str(CHECKPOINT.path)
        self._ui.weightsLabel.text = (
            _("Here: {path}") if there else _("Not here: {path}. Models that carry their own encoder do without.")
        ).format(path=path)
        self._ui.downloadWeightsButton.text = _("Download ({size} MB)").format(size=CHECKPOINT.megabytes)
        self._ui.verifyWeightsButton.enabled = there
        self._ui.removeWeightsButton.enabled = there or bool(chosen)
        self._ui.modelFolderLabel.text = str(models_folder())
        info = cache_info()
        self._ui.cacheLabel.text = _("{size:.0f} MB").format(size=info.bytes / 2**20)
        self._ui.cacheLabel.toolTip = str(info.folder)
        self._ui.clearCacheButton.enabled = info.files > 0

    def _check(self) -> None:
        model = self._parameters.model if self._parameters is not None else ""
        self._run(
            ["doctor", "--json", *(["--model", model] if model else [])],
            _("Checking; this takes some seconds..."),
            lambda: self._showExamination(json.loads(self._lines[-1])),
        )

    def _showExamination(self, examination: dict[str, Any]) -> None:
        rows = "".join(
            f"<tr><td><b>{html.escape(name)}</b>&nbsp;</td><td>{html.escape(finding)}</td></tr>"
            for name, finding in examination["findings"]
        )
        problems = "".join(f"<p>\u26a0 {html.escape(problem)}</p>" for problem in examination["problems"])
        self._ui.checkLabel.text = (
            problems + self._describeDuration(examination["seconds_per_slice"]) + (f"<table>{rows}</table>")
        )
        if examination["devices"]:
            self._onDevices(tuple(examination["devices"]))

    def _describeDuration(self, secondsPerSlice: float | None) -> str:
        volumeNode = self._parameters.inputVolume if self._parameters is not None else None
        if secondsPerSlice is None or volumeNode is None or volumeNode.GetImageData() is None:
            return ""
        slices = max(volumeNode.GetImageData().GetDimensions())
        return (
            "<p>"
            + _("{name} will take at most about {seconds:.0f} s.").format(
                name=html.escape(volumeNode.GetName()), seconds=max(1.0, slices * secondsPerSlice)
            )
            + "</p>"
        )

    def _install(self) -> None:
        try:
            dependencies.installMissingPackages()
        except Sam3dError as error:
            slicer.util.errorDisplay(str(error), _("Packages were not installed"))
        self.update()

    def _downloadWeights(self) -> None:
        setSamCheckpoint(None)
        self._run(["weights", "download", CHECKPOINT.encoder], _("Downloading SAM's weights..."), self._sayDownloaded)

    def _chooseWeights(self) -> None:
        pattern = _("SAM checkpoints") + " (*.pth)"
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("SAM's weights"), "", pattern)
        if path:
            setSamCheckpoint(path)
            self.update()

    def _verifyWeights(self) -> None:
        path = samCheckpoint() or str(CHECKPOINT.path)
        self._run(
            ["weights", "verify", CHECKPOINT.encoder, "--file", path],
            _("Comparing with the published hash..."),
            lambda: self._say(_("This is the published file.")),
        )

    def _removeWeights(self) -> None:
        """A file that the user chose is only forgotten; a downloaded one is deleted."""
        if samCheckpoint():
            setSamCheckpoint(None)
        elif slicer.util.confirmOkCancelDisplay(_("Delete {path}?").format(path=CHECKPOINT.path)):
            CHECKPOINT.path.unlink(missing_ok=True)
        self.update()

    def _clearCache(self) -> None:
        info = clear_cache()
        self.update()
        self._say(_("{size:.0f} MB were freed.").format(size=info.bytes / 2**20))

    def _sayDownloaded(self) -> None:
        self._say(_("SAM's weights are here."))

    def _run(self, arguments: list[str], status: str, onFinished: Callable[[], None]) -> None:
        """One command at a time; the buttons that start one are disabled meanwhile."""

        def end(action: Callable[[], None]) -> None:
            self._process = None
            self._setBusy(False)
            self.update()
            self._say("")
            action()

        self._lines = []
        self._process = CommandProcess(
            arguments,
            self._lines.append,
            lambda: end(onFinished),
            lambda message: end(lambda: slicer.util.errorDisplay(message, _("SAM3DSegment"))),
            lambda: end(lambda: None),
        )
        self._setBusy(True)
        self._say(status)
        self._process.start()

    def _setBusy(self, busy: bool) -> None:
        for name in ("checkButton", "downloadWeightsButton", "verifyWeightsButton"):
            getattr(self._ui, name).enabled = not busy

    def _say(self, text: str) -> None:
        self._ui.setupStatusLabel.text = text


def _openFolder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))
