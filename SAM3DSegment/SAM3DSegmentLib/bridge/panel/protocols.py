"""What the parts of the panel expect of each other and of the form.

mypy does not know the classes of Slicer and Qt, but it checks the names that are listed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import slicer

import ctk
import qt

from ..job import SceneJob

Observe = Callable[..., Any]  # addObserver, removeObserver of VTKObservationMixin


class Parameters(Protocol):
    """A SegmentParameters, with the methods that Slicer's wrapper adds when it is made."""

    parameterNode: slicer.vtkMRMLScriptedModuleNode
    inputVolume: slicer.vtkMRMLScalarVolumeNode | None
    outputSegmentation: slicer.vtkMRMLSegmentationNode | None
    roi: slicer.vtkMRMLMarkupsROINode | None
    model: str
    quality: str
    device: str
    confidenceMap: bool
    allFrames: bool

    def whyInvalid(self) -> str: ...

    def connectGui(self, gui: Any) -> Any: ...

    def disconnectGui(self, guiTag: Any) -> None: ...


class Logic(Protocol):
    """SAM3DSegmentLogic, as far as the panel uses it."""

    def getParameterNode(self) -> Parameters: ...

    def startSegment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode | None,
        **keywords: Any,
    ) -> SceneJob: ...


class Ui(Protocol):
    """The widgets of Resources/UI/SAM3DSegment.ui that the panel reads, fills or connects."""

    inputLabel: qt.QLabel
    inputSelector: slicer.qMRMLNodeComboBox
    framesBox: qt.QComboBox
    channelsWidget: qt.QWidget
    modelBox: qt.QComboBox
    modelFileButton: qt.QToolButton
    modelCardLabel: qt.QLabel
    outputSelector: slicer.qMRMLNodeComboBox
    advancedBox: ctk.ctkCollapsibleGroupBox
    qualityBox: qt.QComboBox
    deviceBox: qt.QComboBox
    confidenceBox: qt.QCheckBox
    warningLabel: qt.QLabel
    segmentButton: qt.QPushButton
    progressBar: qt.QProgressBar
    statusLabel: qt.QLabel

    resultsSection: ctk.ctkCollapsibleButton
    resultsTable: qt.QTableWidget
    show3DButton: slicer.qMRMLSegmentationShow3DButton
    editButton: qt.QPushButton
    undoButton: qt.QPushButton
    completeButton: qt.QPushButton
    useAsCaseButton: qt.QPushButton
    completeProgressBar: qt.QProgressBar
    completeStatusLabel: qt.QLabel
    provenanceLabel: qt.QLabel

    folderSection: ctk.ctkCollapsibleButton
    folderImagesLabel: qt.QLabel
    chooseImagesFolderButton: qt.QPushButton
    folderResultsLabel: qt.QLabel
    chooseResultsFolderButton: qt.QPushButton
    folderModelBox: qt.QComboBox
    folderTreeBox: qt.QCheckBox
    folderButton: qt.QPushButton
    folderProgressBar: qt.QProgressBar
    folderStatusLabel: qt.QLabel
    folderPageButton: qt.QPushButton
    folderTableButton: qt.QPushButton

    trainSection: ctk.ctkCollapsibleButton
    casesBox: qt.QGroupBox
    casesFolderLabel: qt.QLabel
    chooseCasesButton: qt.QPushButton
    openCasesButton: qt.QPushButton
    casesTable: qt.QTableWidget
    casesLabel: qt.QLabel
    casesCostLabel: qt.QLabel
    removeCaseButton: qt.QPushButton
    caseVolumeLabel: qt.QLabel
    caseVolumeSelector: slicer.qMRMLNodeComboBox
    openNextButton: qt.QPushButton
    nextFolderButton: qt.QToolButton
    caseChannelsWidget: qt.QWidget
    caseChannelsEdit: qt.QLineEdit
    caseSegmentationSelector: slicer.qMRMLNodeComboBox
    paintButton: qt.QPushButton
    completeCaseButton: qt.QPushButton
    addAndTrainButton: qt.QPushButton
    completeCaseProgressBar: qt.QProgressBar
    segmentsList: qt.QListWidget
    caseNameEdit: qt.QLineEdit
    onlyPaintedBox: qt.QCheckBox
    addCaseButton: qt.QPushButton
    caseStatusLabel: qt.QLabel
    modelNameEdit: qt.QLineEdit
    minutesBox: qt.QDoubleSpinBox
    encoderBox: qt.QComboBox
    encoderLabel: qt.QLabel
    checkCasesButton: qt.QPushButton
    trainButton: qt.QPushButton
    trainingProgressBar: qt.QProgressBar
    trainingStatusLabel: qt.QLabel
    trainingReportButton: qt.QPushButton

    setupSection: ctk.ctkCollapsibleButton
    remoteHostEdit: qt.QLineEdit
    testConnectionButton: qt.QPushButton
    connectionLabel: qt.QLabel
    checkButton: qt.QPushButton
    checkLabel: qt.QLabel
    packagesLabel: qt.QLabel
    installButton: qt.QPushButton
    weightsEncoderBox: qt.QComboBox
    weightsLabel: qt.QLabel
    downloadWeightsButton: qt.QPushButton
    chooseWeightsButton: qt.QPushButton
    verifyWeightsButton: qt.QPushButton
    removeWeightsButton: qt.QPushButton
    modelFolderLabel: qt.QLabel
    openModelsButton: qt.QPushButton
    cacheLabel: qt.QLabel
    openCacheButton: qt.QPushButton
    clearCacheButton: qt.QPushButton
    setupStatusLabel: qt.QLabel
    stopSetupButton: qt.QPushButton
