"""The section "Folder" of the panel: every volume of a folder is segmented, with a table and a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from ...base.errors import Sam3dError
from ...model_store import find_model, list_models, read_card
from .. import preferences
from ..dependencies import Installer
from ..worker import progressReader
from .command_box import CommandBox, describeProgress
from .controls import enableUnless, fillList, selectData
from .dialogs import tell
from .protocols import Parameters, Ui

PAGE, TABLE, REPORT = "qc.html", "volumes.csv", "report.json"  # in the folder of the results


@dataclass(frozen=True)
class _Volumes:
    """How many of the run's volumes are done, or have failed."""

    done: int = 0
    total: int = 0
    failed: int = 0


class FolderSection:
    """onRunningChanged() is called when the work begins and has ended; whyBusy() returns why there can be none now,
    because of other work of the panel; empty if there can.
    """

    def __init__(
        self, ui: Ui, installer: Installer, onRunningChanged: Callable[[], None], whyBusy: Callable[[], str]
    ) -> None:
        self._ui = ui
        self._installer = installer
        self._onRunningChanged = onRunningChanged
        self._whyBusy = whyBusy
        self._parameters: Parameters | None = None
        self._images, self._results = preferences.imagesFolder(), preferences.resultsFolder()
        self._volumes: _Volumes | None = None  # None before they are counted
        self._box = CommandBox(ui.folderStatusLabel, self._runningChanged, ui.folderProgressBar)
        ui.chooseImagesFolderButton.connect("clicked(bool)", self._chooseImages)
        ui.chooseResultsFolderButton.connect("clicked(bool)", self._chooseResults)
        ui.folderModelBox.connect("currentIndexChanged(int)", self._modelChosen)
        ui.folderButton.connect("clicked(bool)", self._segmentOrCancel)
        ui.folderPageButton.connect("clicked(bool)", lambda _checked: self._open(PAGE))
        ui.folderTableButton.connect("clicked(bool)", lambda _checked: self._open(TABLE))
        ui.folderSection.connect("contentsCollapsed(bool)", lambda collapsed: None if collapsed else self.update())
        self.listModels()

    @property
    def isRunning(self) -> bool:
        return self._box.isRunning

    def setParameters(self, parameters: Parameters | None) -> None:
        """The work goes on whatever happens to the scene."""
        self._parameters = parameters
        self.update()

    def cleanup(self) -> None:
        self._box.abandon()

    def listModels(self) -> None:
        """Fill the list anew, as that of Segment."""
        fillList(self._ui.folderModelBox, {path.stem: path.stem for path in list_models()})
        self.update()

    def update(self) -> None:
        """Show what can be done now."""
        ui, isRunning = self._ui, self.isRunning
        if self._parameters is not None:
            selectData(ui.folderModelBox, self._parameters.model)
        for label, folder in ((ui.folderImagesLabel, self._images), (ui.folderResultsLabel, self._results)):
            label.text = folder.as_posix() if folder is not None else _("No folder is chosen.")
        ui.folderButton.text = _("Cancel") if isRunning else _("Segment folder")
        if isRunning:
            enableUnless(ui.folderButton, "", _("Stop; the volumes that are done stay."))
        else:
            toolTip = _("Segment every volume of the folder that has no result yet; Slicer can be used meanwhile.")
            enableUnless(ui.folderButton, self._hindrance(), toolTip)
        for widget in (
            ui.chooseImagesFolderButton,
            ui.chooseResultsFolderButton,
            ui.folderModelBox,
            ui.folderTreeBox,
        ):
            widget.enabled = not isRunning
        for button, name in ((ui.folderPageButton, PAGE), (ui.folderTableButton, TABLE)):
            button.enabled = self._results is not None and (self._results / name).is_file()

    def _hindrance(self) -> str:
        """Why there can be no work now; empty if there can."""
        if self._parameters is None:
            return _("The scene is being closed or loaded.")
        if reason := self._whyBusy():
            return reason
        if self._images is None or not self._images.is_dir():
            return _("Choose the folder of the images first.")
        if self._results is None:
            return _("Choose the folder for the results first.")
        try:
            read_card(find_model(self._parameters.model))
        except Sam3dError as error:
            return str(error)
        return ""

    def _modelChosen(self, index: int) -> None:
        if self._parameters is not None:
            self._parameters.model = self._ui.folderModelBox.itemData(index)

    def _chooseImages(self, _checked: bool = False) -> None:
        if folder := _ask(_("Folder of the images"), self._images):
            self._images = folder
            preferences.setImagesFolder(folder)
            self.update()

    def _chooseResults(self, _checked: bool = False) -> None:
        if folder := _ask(_("Folder for the results"), self._results):
            self._results = folder
            preferences.setResultsFolder(folder)
            self.update()

    def _segmentOrCancel(self, _checked: bool = False) -> None:
        self._box.cancelOr(self._start, self._failed)

    def _start(self) -> None:
        self._installer.install()
        parameters, images, results = self._parameters, self._images, self._results
        if parameters is None or images is None or results is None:  # closed while packages were installed
            return
        results.mkdir(parents=True, exist_ok=True)
        self._volumes = None
        self._box.run(
            _arguments(parameters, images, results, self._ui.folderTreeBox.checked),
            _("Starting..."),
            progressReader(self._progressed, self._counted),
            lambda: self._box.end(self._describeEnd()),
            self._failed,
            lambda: self._box.end(_("Cancelled; the volumes that are done stay.")),
        )

    def _counted(self, event: dict[str, Any]) -> None:
        if event["event"] == "volumes":
            self._volumes = _Volumes(event["done"], event["total"], event["failed"])
            self._ui.folderPageButton.enabled = self._ui.folderTableButton.enabled = self._volumes.done > 0
            self._showProgress("", 0, 1, None)

    def _progressed(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        """Of the volume in hand."""
        if self._volumes is not None and self._volumes.done < self._volumes.total:
            self._showProgress(stage, done, total, secondsToGo)

    def _showProgress(self, stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        """All volumes count the same."""
        volumes = self._volumes
        if volumes is None or not volumes.total:
            return
        text = _("{done} of {total} volumes").format(done=volumes.done, total=volumes.total)
        if volumes.done < volumes.total:
            progress = describeProgress(stage, done, total, secondsToGo)
            text += "; " + _("this one: {progress}").format(progress=progress)
        self._box.showProgress(100 * volumes.done + 100 * done // total, 100 * volumes.total, text)

    def _describeEnd(self) -> str:
        volumes = self._volumes
        if volumes is None or not volumes.total:
            return _("Done: all results were there already.")
        return _("Done: {count} volumes were segmented.").format(count=volumes.total)

    def _failed(self, message: str) -> None:
        """Some of the volumes, or all of the work."""
        volumes = self._volumes
        if volumes is not None and volumes.failed and volumes.done == volumes.total:
            message = _("{failed} of {total} volumes; the page says why. The last: {reason}").format(
                failed=volumes.failed, total=volumes.total, reason=message
            )
        self._box.end(_("Failed: {reason}").format(reason=message))
        tell(message, _("SAM3DSegment could not segment the folder"))

    def _runningChanged(self) -> None:
        self.update()
        self._onRunningChanged()

    def _open(self, name: str) -> None:
        if self._results is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._results / name)))


def _arguments(parameters: Parameters, images: Path, results: Path, withTree: bool) -> list[str]:
    path = find_model(parameters.model)
    checkpoint = preferences.samCheckpoint(read_card(path).encoder.name)
    return [
        *("segment", str(images), "-o", str(results), "--model", str(path), "--progress", "json"),
        *("--quality", parameters.quality, "--device", parameters.device),
        *("--page", str(results / PAGE), "--table", str(results / TABLE), "--report", str(results / REPORT)),
        *(["--recursive"] if withTree else []),
        *(["--sam-checkpoint", checkpoint] if checkpoint else []),
    ]


def _ask(title: str, before: Path | None) -> Path | None:
    path = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title, str(before) if before else "")
    return Path(path) if path else None
