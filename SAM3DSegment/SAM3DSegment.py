"""SAM3DSegment in Slicer: Module, Widget, Logic and Test. Wiring only; the work is done in SAM3DSegmentLib."""

import sys
import unittest

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from SAM3DSegmentLib.base.errors import Cancelled, InputError
from SAM3DSegmentLib.bridge import logic as bridgeLogic
from SAM3DSegmentLib.bridge.dependencies import missingPackages
from SAM3DSegmentLib.bridge.panel.parameters import SegmentParameters
from SAM3DSegmentLib.bridge.panel.widget import Panel
from SAM3DSegmentLib.bridge.scene.sample_data import REFERENCE, SAMPLE, registerSampleData


class SAM3DSegment(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAM3DSegment")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["SAM3DSegment contributors"]
        parent.helpText = _(
            "Segments a whole volume at one click: a frozen SAM image encoder reads the slices, a light 3-D decoder "
            "makes the mask. Choose a volume and a model, then click Segment; or train a model of your own."
        )
        parent.acknowledgementText = _(
            "The method follows Bui et al., SAM3D: Segment Anything Model in Volumetric Medical Images, "
            "IEEE ISBI 2024, arXiv:2309.03493. The encoder is that of Kirillov et al., Segment Anything, ICCV 2023. "
            "The sample and the bundled model's training data are from the Medical Segmentation Decathlon, Task04 "
            "(Antonelli et al., Nature Communications 2022), CC-BY-SA 4.0."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


class SAM3DSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        form = slicer.util.loadUI(self.resourcePath("UI/SAM3DSegment.ui"))
        self.layout.addWidget(form)
        self.ui = slicer.util.childWidgetVariables(form)
        form.setMRMLScene(slicer.mrmlScene)
        self.logic = SAM3DSegmentLogic()
        self.panel = Panel(self.ui, self.logic, self.addObserver, self.removeObserver)

    def enter(self):
        self.panel.enter()

    def exit(self):
        self.panel.exit()

    def onReload(self):
        """The package is read again, too: Slicer's own reload knows this file only."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "SAM3DSegmentLib"]:
            del sys.modules[name]
        super().onReload()

    def cleanup(self):
        if self.panel is not None:  # setup may have failed
            self.panel.cleanup()
        self.removeObservers()


class SAM3DSegmentLogic(ScriptedLoadableModuleLogic):
    """For scripts: `slicer.util.getModuleLogic("SAM3DSegment").segment(volumeNode)`."""

    segment = staticmethod(bridgeLogic.segment)
    startSegment = staticmethod(bridgeLogic.startSegment)
    undo = staticmethod(bridgeLogic.undo)

    def getParameterNode(self):
        return SegmentParameters(super().getParameterNode())


class SAM3DSegmentTest(ScriptedLoadableModuleTest):
    """Runs the real logic on the bundled MRI with the bundled model."""

    def setUp(self):
        missing = missingPackages()
        if missing:
            self.skipTest(f"not installed: {', '.join(missing)}; install them in the panel's Setup")
        slicer.mrmlScene.Clear()
        self.volume = slicer.util.loadVolume(str(SAMPLE))
        self.reference = slicer.util.arrayFromVolume(slicer.util.loadVolume(str(REFERENCE))).copy()
        self.logic = SAM3DSegmentLogic()

    def runTest(self):
        """What "Reload and Test" runs: all tests, one after the other."""
        for name in unittest.defaultTestLoader.getTestCaseNames(type(self)):
            try:
                self.setUp()
                getattr(self, name)()
            except unittest.SkipTest as reason:
                self.delayDisplay(f"{name} is skipped: {reason}")
                continue
            self.delayDisplay(f"{name} passed")

    def masks(self, segmentation):
        """Voxels (K, J, I) of each segment, on the volume's grid."""
        segmentIds = segmentation.GetSegmentation().GetSegmentIDs()
        return [slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, i, self.volume) for i in segmentIds]

    def assertAccurate(self, segmentation):
        for value, mask in enumerate(self.masks(segmentation), start=1):
            truth = self.reference == value
            dice = 2 * np.count_nonzero(truth & (mask > 0)) / (np.count_nonzero(truth) + np.count_nonzero(mask))
            self.assertGreater(dice, 0.8)

    def test_segment(self):
        segmentation = self.logic.segment(self.volume)
        self.assertEqual(segmentation.GetSegmentation().GetNumberOfSegments(), 2)
        self.assertAccurate(segmentation)

    def test_oblique(self):
        matrix = np.eye(4)
        matrix[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        self.volume.SetAndObserveTransformNodeID(transform.GetID())
        self.volume.HardenTransform()
        self.assertAccurate(self.logic.segment(self.volume))

    def test_cancel(self):
        before = slicer.mrmlScene.GetNumberOfNodes()
        with self.assertRaises(Cancelled):
            self.logic.segment(self.volume, shouldCancel=lambda: True)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)

    def test_missing_model(self):
        with self.assertRaises(InputError):
            self.logic.segment(self.volume, model="no-such-model")
