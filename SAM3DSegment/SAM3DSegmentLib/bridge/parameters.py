"""What the panel remembers, in the scene: it is saved and loaded with it."""

from typing import Optional

import slicer
from slicer.parameterNodeWrapper import parameterNodeWrapper

from .logic import DEFAULT_MODEL


@parameterNodeWrapper
class SegmentParameters:
    """The choices of the "Segment" section. `model` is a name of `models list`, or the path of a model file."""

    inputVolume: Optional[slicer.vtkMRMLScalarVolumeNode] = None
    outputSegmentation: Optional[slicer.vtkMRMLSegmentationNode] = None
    roi: Optional[slicer.vtkMRMLMarkupsROINode] = None
    model: str = DEFAULT_MODEL
    device: str = "auto"
    confidenceMap: bool = False
