"""The figures of a segmentation's segments: size and confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ...geometry import voxel_ml
from .segmentations import BINARY_LABELMAP, CONFIDENCE_TAG


@dataclass(frozen=True)
class SegmentFigures:
    """One row of the table of results; colour 0..1.

    The confidence is the model's own mean probability, empty for a segment that no model has made.
    """

    name: str
    color: tuple[float, float, float]
    volumeMl: float
    confidence: str


class SegmentMeter:
    """Measures segments; voxels are counted again only where they have changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], float] = {}  # (modification time, segment ID) -> mL

    def volumesMl(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> dict[str, float]:
        """mL of every segment, by its ID."""
        segmentation = segmentationNode.GetSegmentation()
        keys = {}
        for segmentId in segmentation.GetSegmentIDs():
            # Modification times are unique in a process, so a key never matches a segment of another segmentation.
            image = segmentation.GetSegmentRepresentation(segmentId, BINARY_LABELMAP)
            keys[segmentId] = (image.GetMTime() if image is not None else segmentationNode.GetMTime(), segmentId)
        self._known = {
            key: self._known[key] if key in self._known else _segmentVolumeMl(segmentationNode, segmentId)
            for segmentId, key in keys.items()
        }
        return {segmentId: self._known[key] for segmentId, key in keys.items()}


def readFigures(segmentationNode: slicer.vtkMRMLSegmentationNode, meter: SegmentMeter) -> list[SegmentFigures]:
    """The figures of every segment as it is now."""
    segmentation = segmentationNode.GetSegmentation()
    rows = []
    for segmentId, volumeMl in meter.volumesMl(segmentationNode).items():
        segment = segmentation.GetSegment(segmentId)
        confidence = vtk.reference("")
        segment.GetTag(CONFIDENCE_TAG, confidence)
        rows.append(SegmentFigures(segment.GetName(), segment.GetColor(), volumeMl, str(confidence)))
    return rows


def _segmentVolumeMl(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> float:
    labelmap = slicer.vtkOrientedImageData()
    segmentationNode.GetBinaryLabelmapRepresentation(segmentId, labelmap)
    if labelmap.GetNumberOfPoints() == 0:
        return 0.0
    # All of its voxels: slicer.util's array ends where the reference volume does.
    voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars())
    toWorld = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(toWorld)
    return float(np.count_nonzero(voxels)) * voxel_ml(slicer.util.arrayFromVTKMatrix(toWorld))
