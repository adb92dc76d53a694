"""The panel: five sections on one parameter node, which follows the scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from ..dependencies import Installer
from ..scene.segmentations import referenceVolume
from ..scene.undo import forgetSteps
from ..scene.volumes import shownImages
from .folder_section import FolderSection
from .protocols import Logic, Observe, Parameters, Ui
from .results_section import ResultsSection
from .segment_section import SegmentSection
from .setup_section import SetupSection
from .train_section import TrainSection


class Panel:
    """Connects the widgets of `ui` with the parameters of the current scene.

    addObserver and removeObserver are those of VTKObservationMixin.
    """

    def __init__(self, ui: Ui, logic: Logic, addObserver: Observe, removeObserver: Observe) -> None:
        self._ui = ui
        self._logic = logic
        self._addObserver = addObserver
        self._removeObserver = removeObserver
        self._parameters: Parameters | None = None
        self._guiTag: Any = None
        self._installer = installer = Installer(self._installerChanged)
        # Segmenting, completing and training take turns: all want the whole processor, or most of the GPU's memory.
        observing = addObserver, removeObserver
        self._train = TrainSection(
            ui, installer, *observing, self._modelArrived, self._completed, self._workChanged, self._whyBusy
        )
        self._segment = SegmentSection(
            ui, logic, installer, self._resultArrived, self._workChanged, self._whyBusy, *observing
        )
        self._results = ResultsSection(
            ui, installer, *observing, self._train.addResult, self._workChanged, self._whyBusy
        )
        self._folder = FolderSection(ui, installer, self._workChanged, self._whyBusy)
        self._setup = SetupSection(ui, installer, self._segment.listDevices, self._train.listEncoders)
        scene = slicer.mrmlScene
        addObserver(scene, scene.StartCloseEvent, self._sceneStartsClosing)
        # While a scene is imported, the node selectors are empty for a moment; the user has not chosen that.
        addObserver(scene, scene.StartImportEvent, self._sceneStartsImporting)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            # After all node selectors have seen it, also those that are made later.
            addObserver(scene, event, self._sceneChanged, priority=-1.0)
        self._connectParameters(logic.getParameterNode())

    def enter(self) -> None:
        """The panel is shown: models, nodes and folders may have changed; there may be a first volume to choose."""
        self._listModels()
        self._train.enter()
        self._setup.enter()
        self._results.setShown(True)
        if self._parameters is not None and self._parameters.inputVolume is None and (images := shownImages()):
            self._parameters.inputVolume = images[0]

    def exit(self) -> None:
        """Another module's panel is shown."""
        self._results.setShown(False)

    def cleanup(self) -> None:
        self._connectParameters(None)
        self._segment.cleanup()
        self._train.cleanup()
        self._results.cleanup()
        self._folder.cleanup()
        self._setup.cleanup()
        forgetSteps()

    def _whyBusy(self) -> str:
        """Why a section that is not at work cannot begin now; empty if it can."""
        if self._installer.isBusy:
            return _("Packages are being installed.")
        if self._segment.isRunning:
            return _("A volume is being segmented.")
        if self._results.isRunning or self._train.isCompleting:
            return _("A segmentation is being completed.")
        if self._folder.isRunning:
            return _("A folder is being segmented.")
        return _("A model is being trained; wait for it, or stop it.") if self._train.isRunning else ""

    def _workChanged(self) -> None:
        self._segment.update()
        self._train.update()
        self._folder.update()
        self._results.showComplete()

    def _sceneStartsClosing(self, caller: Any, event: Any) -> None:
        self._segment.abandon()
        self._results.abandon()
        self._train.abandonScene()
        self._connectParameters(None)
        forgetSteps()

    def _sceneStartsImporting(self, caller: Any, event: Any) -> None:
        self._connectParameters(None)

    def _sceneChanged(self, caller: Any, event: Any) -> None:
        self._connectParameters(self._logic.getParameterNode())

    def _connectParameters(self, parameters: Parameters | None) -> None:
        if self._parameters is not None:
            self._parameters.disconnectGui(self._guiTag)
            _keepAlive(self._parameters)
            self._removeObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self._parametersChanged)
        self._parameters = parameters
        if parameters is not None:
            self._guiTag = parameters.connectGui(self._ui)
            self._addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self._parametersChanged)
        for section in (self._segment, self._results, self._folder, self._train, self._setup):
            section.setParameters(parameters)

    def _parametersChanged(self, caller: Any = None, event: Any = None) -> None:
        self._segment.followVolume()
        self._segment.update()
        self._folder.update()
        self._results.update()

    def _installerChanged(self) -> None:
        self._workChanged()
        self._setup.update()

    def _resultArrived(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._ui.resultsSection.collapsed = False
        self._results.update()

    def _completed(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Of a case in Train: choose it and its volume in the other sections, too, where it is shown and undone."""
        if self._parameters is not None:
            self._parameters.inputVolume = referenceVolume(segmentationNode)
            self._parameters.outputSegmentation = segmentationNode

    def _modelArrived(self, name: str) -> None:
        """Choose the model that was just trained."""
        if self._parameters is not None:
            self._parameters.model = name
        self._listModels()
        self._train.listEncoders()

    def _listModels(self) -> None:
        self._segment.listModels()
        self._folder.listModels()


def _keepAlive(parameters: Parameters) -> None:
    """Slicer 5.10 never removes the observer of a connected GUI, and crashes when what it calls is gone.

    Kept where a reload of this module does not reach.
    """
    vars(slicer.modules).setdefault("SAM3DSegmentParameters", []).append(parameters)
