"""The part "Cases" of the section "Train": a folder of training cases, and what is put into it from the scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

import qt

from ...base.errors import InputError
from ...training.patients import frame_name
from .. import preferences
from ..problems import explain
from ..scene.cases import NewCase, removeCase, writeCase
from ..scene.next_volume import usableName
from ..scene.observing import SEGMENT_CHANGES, Observer
from ..scene.painting import isOnlyPainted, setOnlyPainted
from ..scene.segmentations import referenceVolume
from ..scene.sequences import browserOf
from ..scene.survey import CaseRow, Survey, surveyCases, withVoxelFiles
from ..worker import BackgroundCall
from .channels_box import ChannelsBox
from .controls import enableUnless
from .dialogs import ask, plain, tell
from .protocols import Observe, Ui


class CasesBox:
    """onChanged() is called when reading the folder begins and when it has ended, and when other nodes are chosen."""

    def __init__(self, ui: Ui, addObserver: Observe, removeObserver: Observe, onChanged: Callable[[], None]) -> None:
        self._ui = ui
        self._onChanged = onChanged
        self._observer = Observer(addObserver, removeObserver, SEGMENT_CHANGES, self._listSegments)
        self.folder: Path | None = preferences.casesFolder()
        self.survey = Survey()
        self._call: BackgroundCall | None = None
        self._suggestedName = ""
        self._channels = ChannelsBox(ui.caseChannelsWidget, self._showButtons)
        self._shownVolume: slicer.vtkMRMLScalarVolumeNode | None = None
        self._shownSegmentation: slicer.vtkMRMLSegmentationNode | None = None
        header = ui.casesTable.horizontalHeader()
        header.setSectionResizeMode(0, qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(1, qt.QHeaderView.Stretch)
        ui.chooseCasesButton.connect("clicked(bool)", self._choose)
        ui.openCasesButton.connect("clicked(bool)", self._open)
        ui.removeCaseButton.connect("clicked(bool)", self._remove)
        ui.addCaseButton.connect("clicked(bool)", lambda _checked: self.addChosen())
        ui.onlyPaintedBox.connect("clicked(bool)", self._onlyPaintedClicked)
        ui.caseChannelsEdit.connect("editingFinished()", self._showChannels)
        ui.casesTable.connect("itemSelectionChanged()", self._showButtons)
        ui.caseVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._volumeChosen)
        ui.caseSegmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._segmentationChosen)
        self._listSegments()
        self._showFolder()

    def cleanup(self) -> None:
        if self._call is not None:
            self._call.abandon()
            self._call = None

    def update(self) -> None:
        """Look through the folder and the chosen segmentation again; label maps are read beside the main thread."""
        self.cleanup()
        self._listSegments()
        folder = self.folder
        if folder is not None:
            self._call = BackgroundCall(lambda: surveyCases(folder), self._surveyed, self._surveyFailed, onlyReads=True)
        self._showFolder()
        self._onChanged()

    @property
    def isReading(self) -> bool:
        return self._call is not None

    def whyNotReady(self) -> str:
        """Why the cases cannot be trained on, and what to do; empty if they can."""
        if self.folder is None:
            return _("Choose a folder for your cases first.")
        if self.isReading:
            return _("The cases are being read.")
        return self.survey.whyNotReady()

    def add(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        segmentIds: list[str],
        name: str,
    ) -> bool:
        """Write a case; a folder is asked for if none is chosen, and before a case of that name is replaced.

        Whether it was written: the user may decline, and is told of an error.
        """
        try:
            status = self._write(volumeNode, segmentationNode, segmentIds, name)
        except Exception as error:  # Slicer would only print it
            status = ""
            tell(explain(error), _("The case was not added"))
        self._ui.caseStatusLabel.text = status
        self.update()
        return bool(status)

    def addChosen(self) -> bool:
        """Write the case that is chosen in the form; see `add`."""
        volumeNode, segmentationNode = self.volume(), self.segmentation()
        if volumeNode is None or segmentationNode is None:
            return False
        if self._ui.caseNameEdit.text == self._suggestedName:  # another frame of a sequence may be shown since
            self._suggestName(volumeNode)
        return self.add(volumeNode, segmentationNode, self._ticks(qt.Qt.Checked), self._ui.caseNameEdit.text.strip())

    def volume(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The one that is chosen for a new case, as `segmentation`."""
        return self._ui.caseVolumeSelector.currentNode()

    def segmentation(self) -> slicer.vtkMRMLSegmentationNode | None:
        return self._ui.caseSegmentationSelector.currentNode()

    def _write(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        segmentIds: list[str],
        name: str,
    ) -> str:
        """What was done, for the user; empty if the user declined."""
        if self.folder is None:
            self._choose()
        if self.folder is None:
            return ""
        names, others = self._channelNames(), self._channels.nodes()
        if missing := [channel for channel, node in others.items() if node is None]:
            raise InputError(_("choose a volume for the channel {name}.").format(name=missing[0]))
        case = NewCase.within(self.folder, name, names)
        if case.replaced:
            files = ", ".join(path.name for path in case.replaced)
            question = _("There is a case {name} already ({files}). Replace it?").format(name=case.name, files=files)
            if not ask(question, _("Replace case")):
                return ""
        with slicer.util.WaitCursor():
            nodes = [volumeNode, *others.values()]
            writeCase(case, self.folder, nodes, segmentationNode, segmentIds, isOnlyPainted(segmentationNode))
        return _("{name} was added to the cases.").format(name=case.name)

    def _surveyed(self, survey: Survey) -> None:
        self._call = None
        self.survey = survey
        self._showFolder()
        self._onChanged()

    def _surveyFailed(self, error: BaseException) -> None:
        self._surveyed(Survey(problem=explain(error)))

    def _showFolder(self) -> None:
        self._ui.casesFolderLabel.text = (
            self.folder.as_posix() if self.folder is not None else _("No folder is chosen.")
        )
        texts = [self.whyNotReady(), *(self.survey.notices if self.folder is not None else ())]
        self._ui.casesLabel.text = "\n".join(text for text in texts if text)
        self._ui.casesLabel.visible = any(texts)
        self._ui.casesCostLabel.text = self.survey.describeCost()
        table = self._ui.casesTable
        table.setRowCount(len(self.survey.rows))
        for row, case in enumerate(self.survey.rows):
            for column, text in enumerate((case.name, case.describe())):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(plain(text))  # which may be too long for its column
                table.setItem(row, column, item)
        table.resizeRowsToContents()
        self._showChannels()

    def _channelNames(self) -> list[str]:
        """Of the volumes of a case, if there are several: as the cases in the folder have them, else as is written."""
        if self.survey.rows:
            return list(self.survey.channels)
        names = [part.strip() for part in self._ui.caseChannelsEdit.text.split(",")]
        return names if len(names) > 1 and all(names) else []

    def _showChannels(self) -> None:
        names, edit = self._channelNames(), self._ui.caseChannelsEdit
        edit.visible = not self.survey.rows
        self._ui.caseVolumeLabel.text = f"{names[0]}:" if names else _("Volume:")
        self._channels.show(names, self.volume())
        self._showButtons()

    def _showButtons(self) -> None:
        hasNodes = None not in (self.volume(), self.segmentation(), *self._channels.nodes().values())
        hindrance = "" if hasNodes else _("Choose a volume and its segmentation first.")
        toolTip = _("Write the volume and the ticked segments into the folder.")
        enableUnless(self._ui.addCaseButton, hindrance, toolTip)
        self._ui.openCasesButton.enabled = self.folder is not None
        self._ui.removeCaseButton.enabled = self._selectedCase() is not None

    def _selectedCase(self) -> CaseRow | None:
        selected = self._ui.casesTable.selectedItems()
        return self.survey.rows[selected[0].row()] if selected else None

    def _choose(self, _checked: bool = False) -> None:
        before = str(self.folder) if self.folder is not None else ""
        path = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of training cases"), before)
        if path:
            self.folder = Path(path)
            self.survey = Survey()
            preferences.setCasesFolder(self.folder)
            self._ui.caseStatusLabel.text = ""
            self.update()

    def _open(self, _checked: bool = False) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.folder)))

    def _remove(self, _checked: bool = False) -> None:
        case = self._selectedCase()
        if case is None or self.folder is None:
            return
        files = ", ".join(path.name for path in withVoxelFiles(case.files))
        question = _("Move the files of the case {name} ({files}) to the trash?").format(name=case.name, files=files)
        if not ask(question, _("Remove case")):
            return
        try:
            removeCase(case, self.folder)
        except Exception as error:  # Slicer would only print it
            tell(explain(error), _("The case was not removed"))
        self._ui.caseStatusLabel.text = ""
        self.update()

    def _onlyPaintedClicked(self, isChecked: bool) -> None:
        segmentationNode = self.segmentation()
        if segmentationNode is not None:
            setOnlyPainted(segmentationNode, isChecked)

    def _volumeChosen(self, _node: Any = None) -> None:
        volumeNode = self.volume()
        if volumeNode is self._shownVolume:  # told again, as its row has moved or its name changed
            return
        self._shownVolume = volumeNode
        self._suggestName(volumeNode)
        self._showChannels()
        self._onChanged()

    def _suggestName(self, volumeNode: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        self._suggestedName = caseName(volumeNode) if volumeNode is not None else ""
        self._ui.caseNameEdit.text = self._suggestedName

    def _segmentationChosen(self, _node: Any = None) -> None:
        """The volume on which it was drawn is chosen with it."""
        segmentationNode = self.segmentation()
        if segmentationNode is self._shownSegmentation:  # told again, as above
            return
        self._shownSegmentation = segmentationNode
        volumeNode = referenceVolume(segmentationNode) if segmentationNode is not None else None
        if volumeNode is not None:
            self._ui.caseVolumeSelector.setCurrentNode(volumeNode)
        self._ui.segmentsList.clear()
        self._listSegments()
        self._showButtons()
        self._onChanged()

    def _listSegments(self) -> None:
        """All are ticked except those that the user has unticked."""
        unticked = self._ticks(qt.Qt.Unchecked)
        widget, node = self._ui.segmentsList, self.segmentation()
        self._observer.observeSegments(node)
        widget.clear()
        self._ui.onlyPaintedBox.enabled = node is not None
        self._ui.onlyPaintedBox.checked = node is not None and isOnlyPainted(node)
        if node is None:
            return
        segmentation = node.GetSegmentation()
        for segmentId in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(segmentId)
            item = qt.QListWidgetItem(segment.GetName())
            item.setData(qt.Qt.UserRole, segmentId)
            item.setData(qt.Qt.DecorationRole, qt.QColor.fromRgbF(*segment.GetColor()))
            item.setCheckState(qt.Qt.Unchecked if segmentId in unticked else qt.Qt.Checked)
            widget.addItem(item)

    def _ticks(self, state: int) -> list[str]:
        """IDs of the listed segments whose box is in this state."""
        items = [self._ui.segmentsList.item(row) for row in range(self._ui.segmentsList.count)]
        return [item.data(qt.Qt.UserRole) for item in items if item.checkState() == state]


def caseName(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The volume's name, without characters that a file name cannot have; of a sequence with the frame's number."""
    name = usableName(volumeNode.GetName())
    browser = browserOf(volumeNode)
    return name if browser is None else frame_name(name, browser.GetSelectedItemNumber())
