"""Which segments were edited since a model delivered them, so that nobody's correction is replaced unasked.

Each delivered segment carries a mark of its voxels as a tag, which is saved with the segmentation. So an edit is
noticed after the scene or the file was saved and read again, too, for which times of modification are of no use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import slicer
from slicer.i18n import tr as _
from vtk import reference, vtkMatrix4x4
from vtk.util.numpy_support import vtk_to_numpy

from ...base.errors import InputError
from .segmentations import referenceVolume

MARK_TAG = "SAM3DSegment.Delivered"
EMPTY = "empty"
TOLERANCE_MM = 1e-3  # files round coordinates


class ReplaceError(InputError):
    """A result would replace what may be somebody's work."""


def markDelivered(segmentationNode: slicer.vtkMRMLSegmentationNode, names: Iterable[str]) -> None:
    """Note the voxels of the segments of these names as a model's."""
    for segmentId in _segmentIds(segmentationNode, names):
        segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
        segment.SetTag(MARK_TAG, _mark(segmentationNode, segmentId))


def whyNotReplace(
    segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLScalarVolumeNode, names: Iterable[str]
) -> str:
    """Whose work would be lost if segments of these names were made from this volume; empty if nobody's."""
    if segmentationNode.GetSegmentation().GetNumberOfSegments() == 0:
        return ""
    if reason := whyOfOther(segmentationNode, volumeNode):
        return reason
    drawnOn, called = referenceVolume(segmentationNode), segmentationNode.GetName()
    segmentIds = _segmentIds(segmentationNode, names)
    if drawnOn is None:  # a file does not say on which volume it was drawn
        lost = [i for i in segmentIds if _mark(segmentationNode, i) != EMPTY]
        text = _("segmentation {name!r} has segments that may belong to another volume than {volume!r} ({segments})")
    else:
        lost = [i for i in segmentIds if _isEdited(segmentationNode, i)]
        text = _("segmentation {name!r} has segments that were drawn or edited by hand ({segments})")
    if not lost:
        return ""
    lostNames = ", ".join(repr(segmentationNode.GetSegmentation().GetSegment(i).GetName()) for i in lost)
    return text.format(segments=lostNames, name=called, volume=volumeNode.GetName())


def whyOfOther(segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> str:
    """To which other volume the segmentation belongs, as a sentence; empty if to this one, or if nobody knows."""
    drawnOn = referenceVolume(segmentationNode)
    if drawnOn is None or drawnOn is volumeNode:
        return ""
    return _("segmentation {name!r} belongs to the volume {other!r}, and not to {volume!r}").format(
        name=segmentationNode.GetName(), other=drawnOn.GetName(), volume=volumeNode.GetName()
    )


def _segmentIds(segmentationNode: slicer.vtkMRMLSegmentationNode, names: Iterable[str]) -> list[str]:
    segmentation = segmentationNode.GetSegmentation()
    return [segmentId for name in names if (segmentId := segmentation.GetSegmentIdBySegmentName(name))]


def _isEdited(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> bool:
    tag, now = reference(""), _mark(segmentationNode, segmentId)
    if not segmentationNode.GetSegmentation().GetSegment(segmentId).GetTag(MARK_TAG, tag):
        return now != EMPTY  # drawn by hand, or before there were marks
    voxels, *place = str(tag).split()
    voxelsNow, *placeNow = now.split()
    if voxels != voxelsNow or len(place) != len(placeNow):
        return True
    return not np.allclose(np.array(place, float), np.array(placeNow, float), rtol=0, atol=TOLERANCE_MM)


def _mark(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> str:
    """A hash of the segment's voxels, then their grid: 3 x 4 numbers in mm, from the corner of their bounding box.

    The same for any extent, data type and layer in which the voxels are stored.
    """
    image, matrix = slicer.vtkOrientedImageData(), vtkMatrix4x4()
    if not segmentationNode.GetBinaryLabelmapRepresentation(segmentId, image):
        return "no-labelmap"
    if image.GetNumberOfPoints() == 0:
        return EMPTY
    mask = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]) > 0
    found = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not found[0].size:
        return EMPTY
    box = mask[tuple(slice(indices[0], indices[-1] + 1) for indices in found)]
    image.GetImageToWorldMatrix(matrix)
    grid = slicer.util.arrayFromVTKMatrix(matrix)
    corner = np.array([indices[0] for indices in reversed(found)]) + image.GetExtent()[::2]
    grid[:, 3] = grid @ [*corner, 1]
    digest = hashlib.sha256(f"{box.shape}".encode() + np.packbits(box).tobytes()).hexdigest()
    return " ".join([digest, *(f"{value:.4f}" for value in grid[:3].ravel())])
