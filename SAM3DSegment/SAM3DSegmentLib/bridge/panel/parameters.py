"""The choices of the panel, which are saved with the scene."""

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper

from ...base.errors import Sam3dError
from ...model_store import DEFAULT_MODEL, find_model, read_card
from ...quality import BEST, check_quality
from ..scene.volumes import readGrid


@parameterNodeWrapper
class SegmentParameters:
    """The choices of the "Segment" section. `model` is a name of `models list`, or the path of a model file;
    `quality` one of `quality.QUALITIES`, or "auto"; `allFrames` counts where the volume is a frame of a sequence.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode | None = None
    outputSegmentation: slicer.vtkMRMLSegmentationNode | None = None
    roi: slicer.vtkMRMLMarkupsROINode | None = None
    model: str = DEFAULT_MODEL
    quality: str = BEST
    device: str = "auto"
    confidenceMap: bool = False
    allFrames: bool = False

    def whyInvalid(self) -> str:
        """Why this cannot be segmented and what to do, as a sentence; empty if it can."""
        if self.inputVolume is None:
            return _("Choose a volume first.")
        try:
            readGrid(self.inputVolume)
            read_card(find_model(self.model))
            check_quality(self.quality)
        except Sam3dError as error:
            return str(error)
        return ""
