"""The section "Setup" of the panel: where to compute, this computer, packages, weights of encoders, folders."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from ...base.folders import models_folder
from ...sam.cache import cache_info, clear_cache
from ...sam.encoders import ENCODERS, PublishedEncoder
from ..dependencies import Installer, missingPackages
from ..preferences import samCheckpoint, samWeights, setSamCheckpoint
from ..problems import explain
from ..worker import lastObject, progressReader
from .command_box import CommandBox
from .connection_box import ConnectionBox
from .controls import enableUnless, fillList
from .dialogs import ask, plain, tell
from .protocols import Parameters, Ui

logger = logging.getLogger(__name__)


class SetupSection:
    """onDevices(names) is called when the computer's devices are known, onWeights() when weights change."""

    def __init__(
        self,
        ui: Ui,
        installer: Installer,
        onDevices: Callable[[tuple[str, ...]], None],
        onWeights: Callable[[], None],
    ) -> None:
        self._ui = ui
        self._installer = installer
        self._onDevices = onDevices
        self._onWeights = onWeights
        self._parameters: Parameters | None = None
        self._box = CommandBox(ui.setupStatusLabel, self.update)
        self._connection = ConnectionBox(ui, self._run)
        for button, slot in (
            (ui.checkButton, self._check),
            (ui.installButton, self._install),
            (ui.downloadWeightsButton, self._downloadWeights),
            (ui.chooseWeightsButton, self._chooseWeights),
            (ui.verifyWeightsButton, self._verifyWeights),
            (ui.removeWeightsButton, self._removeWeights),
            (ui.openModelsButton, lambda: _openFolder(models_folder())),
            (ui.openCacheButton, lambda: _openFolder(cache_info().folder)),
            (ui.clearCacheButton, self._clearCache),
            (ui.stopSetupButton, self._stop),
        ):
            button.connect("clicked(bool)", lambda _checked=False, slot=slot: slot())
        fillList(ui.weightsEncoderBox, {name: row.title for name, row in ENCODERS.items()})
        ui.weightsEncoderBox.connect("currentIndexChanged(int)", lambda _index: self.update())
        ui.setupSection.connect("contentsCollapsed(bool)", lambda collapsed: None if collapsed else self.update())

    def setParameters(self, parameters: Parameters | None) -> None:
        self._parameters = parameters

    def cleanup(self) -> None:
        self._box.abandon()

    def enter(self) -> None:
        """Look again if the section is open; a cache may have ten thousands of files to be counted."""
        if not self._ui.setupSection.collapsed:
            self.update()

    def update(self) -> None:
        """Look at packages, weights and folders again; nothing is imported or measured."""
        isIdle = not self._box.isRunning
        missing = missingPackages()
        self._ui.packagesLabel.text = (
            _("Missing: {names}.").format(names=", ".join(missing)) if missing else _("All packages are installed.")
        )
        self._ui.installButton.enabled = bool(missing) and isIdle and not self._installer.isBusy
        self._ui.checkButton.enabled = isIdle
        self._connection.update(isIdle)
        self._updateWeights(isIdle)
        self._ui.stopSetupButton.visible = not isIdle
        self._ui.modelFolderLabel.text = models_folder().as_posix()
        info = cache_info()
        self._ui.cacheLabel.text = _("{size:.0f} MB").format(size=info.bytes / 2**20)
        self._ui.cacheLabel.toolTip = plain(str(info.folder))
        self._ui.clearCacheButton.enabled = info.files > 0

    def _updateWeights(self, isIdle: bool) -> None:
        """Of the chosen encoder. What has no known hash is neither downloaded, nor verified, nor removed from here."""
        encoder = self._encoder
        path, isPublished = samWeights(encoder.name), bool(encoder.sha256)
        there = path.is_file()
        if there:
            text = _("Here: {path}")
        elif isPublished:
            text = _("Not here: {path}. Models that carry their own encoder do without.")
        else:
            text = _("Not here: {path}. Get {file} from {source} ({licence}), then choose it.")
        self._ui.weightsLabel.text = text.format(
            path=path.as_posix(), file=encoder.file_name, source=encoder.source, licence=encoder.licence
        )
        size = _("Download ({size} MB)").format(size=encoder.megabytes)
        self._ui.downloadWeightsButton.text = size if isPublished else _("Download")
        enableUnless(
            self._ui.downloadWeightsButton,
            "" if isPublished else _("The hash of this file is not known, so it is not downloaded from here."),
            _("Download the published file and check its hash."),
        )
        if not isIdle:
            self._ui.downloadWeightsButton.enabled = False
        self._ui.weightsEncoderBox.enabled = isIdle
        self._ui.chooseWeightsButton.enabled = isIdle
        self._ui.verifyWeightsButton.enabled = there and isPublished and isIdle
        isChosen = bool(samCheckpoint(encoder.name))
        self._ui.removeWeightsButton.enabled = (isChosen or (there and isPublished)) and isIdle

    @property
    def _encoder(self) -> PublishedEncoder:
        box = self._ui.weightsEncoderBox
        return ENCODERS[box.itemData(box.currentIndex)]

    def _check(self) -> None:
        model, lines = self._parameters.model if self._parameters is not None else "", list[str]()
        self._run(
            ["doctor", "--json", *(["--model", model] if model else [])],
            _("Checking; this takes a few seconds..."),
            lines.append,
            lambda: self._showExamination(lastObject(lines)),
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
            self._installer.install()
        except Exception as error:  # Slicer would only print it
            tell(explain(error), _("Packages were not installed"))
        self.update()

    def _downloadWeights(self) -> None:
        encoder = self._encoder
        setSamCheckpoint(None, encoder.name)
        self._run(
            ["weights", "download", encoder.name, "--progress", "json"],
            _("Downloading the weights of {encoder}...").format(encoder=encoder.title),
            progressReader(self._downloaded),
            lambda: self._downloadEnded(encoder),
        )

    def _downloadEnded(self, encoder: PublishedEncoder) -> None:
        self._box.say(_("The weights of {encoder} are here.").format(encoder=encoder.title))
        self._onWeights()

    def _downloaded(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        self._box.say(
            _("Downloading weights: {percent} % of {size:.0f} MB").format(percent=100 * done // total, size=total / 1e6)
        )

    def _chooseWeights(self) -> None:
        pattern = _("Checkpoints") + " (*.safetensors *.pth *.pt *.bin)"
        title = _("Weights of {encoder}").format(encoder=self._encoder.title)
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", pattern)
        if path:
            setSamCheckpoint(path, self._encoder.name)
            self.update()
            self._onWeights()

    def _verifyWeights(self) -> None:
        name = self._encoder.name
        self._run(
            ["weights", "verify", name, "--file", str(samWeights(name))],
            _("Comparing with the published hash..."),
            logger.info,
            lambda: self._box.say(_("This is the published file.")),
        )

    def _removeWeights(self) -> None:
        """A file that the user chose is only forgotten; what was downloaded is deleted."""
        encoder = self._encoder
        if samCheckpoint(encoder.name):
            setSamCheckpoint(None, encoder.name)
            self.update()
            self._onWeights()
        elif ask(
            _("Delete the downloaded weights in {folder}?").format(folder=encoder.path.parent), _("Remove weights")
        ):
            self._run(["weights", "clear"], _("Removing weights..."), logger.info, lambda: self._removed(encoder))

    def _removed(self, encoder: PublishedEncoder) -> None:
        left = _("{path} is not the published file, so it was left; remove it yourself.").format(path=encoder.path)
        self._box.say(left if encoder.path.is_file() else _("Downloaded weights were removed."))
        self._onWeights()

    def _clearCache(self) -> None:
        info = clear_cache()
        self.update()
        self._box.say(_("{size:.0f} MB were freed.").format(size=info.bytes / 2**20))

    def _run(
        self, arguments: list[str], status: str, onLine: Callable[[str], None], onFinished: Callable[[], None]
    ) -> None:
        """The buttons that start a command are disabled while it runs."""
        self._box.run(
            arguments,
            status,
            onLine,
            lambda: self._finished(onFinished),
            self._failed,
            lambda: self._box.end(_("Stopped.")),
        )

    def _finished(self, action: Callable[[], None]) -> None:
        self._box.end("")
        try:
            action()
        except Exception as error:  # Slicer would only print it
            self._failed(explain(error))

    def _failed(self, message: str) -> None:
        self._box.end("")
        tell(message, _("SAM3DSegment"))

    def _stop(self) -> None:
        self._box.cancel(_("Stopping..."))


def _openFolder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))
