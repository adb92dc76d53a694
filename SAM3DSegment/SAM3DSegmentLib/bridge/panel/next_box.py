"""The button "Open next": from a folder of images the next one that nobody has drawn."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

import qt

from .. import preferences
from ..problems import explain
from ..scene.next_volume import findNext, openVolume
from .cases_box import CasesBox
from .controls import enableUnless
from .dialogs import plain, tell
from .protocols import Ui


class NextBox:
    """Opens a volume, and chooses it in the form of a new case and in the section "Segment"."""

    def __init__(self, ui: Ui, cases: CasesBox) -> None:
        self._ui = ui
        self._cases = cases
        self._folder = preferences.nextFolder()
        self._last: Path | None = None
        ui.openNextButton.connect("clicked(bool)", self._openNext)
        ui.nextFolderButton.connect("clicked(bool)", lambda _checked: self._choose())

    def update(self, isSceneThere: bool) -> None:
        """Show what can be done now."""
        hindrance = "" if isSceneThere else _("The scene is being closed or loaded.")
        if isSceneThere and self._cases.isReading:
            hindrance = _("The cases are being read.")
        toolTip = _("Open the next volume of your folder of images that is no case yet and has no segmentation.")
        enableUnless(self._ui.openNextButton, hindrance, toolTip)
        where = _("Choose the folder of images for Open next.")
        self._ui.nextFolderButton.toolTip = plain(f"{where}\n{self._folder}" if self._folder else where)

    def _choose(self) -> bool:
        """Whether the user has chosen a folder of images."""
        before = str(self._folder) if self._folder is not None else ""
        path = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of images"), before)
        if path:
            self._folder, self._last = Path(path), None
            preferences.setNextFolder(self._folder)
            self.update(True)
        return bool(path)

    def _openNext(self, _checked: bool = False) -> None:
        if self._folder is None and not self._choose():
            return
        try:
            self._ui.caseStatusLabel.text = self._open()
        except Exception as error:  # Slicer would only print it
            tell(explain(error), _("The next volume cannot be opened"))

    def _open(self) -> str:
        """What was done, for the user."""
        assert self._folder is not None
        path = findNext(self._folder, {row.name for row in self._cases.survey.rows}, self._last)
        if path is None:
            return _("{folder} has no volume left that is not drawn; choose another with the button beside.").format(
                folder=self._folder
            )
        self._last = path  # also if it cannot be read: the next click goes on
        with slicer.util.WaitCursor():
            volumeNode = openVolume(path)
        self._ui.caseSegmentationSelector.setCurrentNode(None)
        self._ui.caseVolumeSelector.setCurrentNode(volumeNode)
        self._ui.inputSelector.setCurrentNode(volumeNode)
        return _("{name} is open: Segment it and correct the result, or paint it.").format(name=path.name)
