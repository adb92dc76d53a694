"""Segmentation nodes: a model's labels into them, masks and provenance out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ...base.errors import InputError
from ...card import Label
from ...formats.delivered import NOTHING_DRAWN, Drawn, describe_slices
from ...formats.segments import DELIVERED_TAG, ONLY_PAINTED_TAG, name_key, terminology_entry
from .volumes import ijkToRas, placeBeside, readGrid

ATTRIBUTE_PREFIX = "SAM3DSegment."
CONFIDENCE_TAG = "SAM3DSegment.Confidence"
BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def writeSegments(
    labelsKji: np.ndarray,
    labels: tuple[Label, ...],
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None,
    provenance: Mapping[str, Any],
    confidences: Mapping[str, float | None],
) -> slicer.vtkMRMLSegmentationNode:
    """Write each label into the segment of its name, on the volume's grid, and return the segmentation.

    Without a segmentation node a new one is made, under the volume's transform. In an existing one segments of other
    names are left as they are, and so is its transform, which they depend on; the new voxels are brought into its
    frame. confidences: percent by label name, None where the label was not found.
    """
    keepsFrame = segmentationNode is not None and segmentationNode.GetSegmentation().GetNumberOfSegments() > 0
    ijkToSegmentation = ijkToRas(volumeNode)
    if keepsFrame:
        ijkToSegmentation = _transformBetween(volumeNode, segmentationNode) @ ijkToSegmentation
    isNew = segmentationNode is None
    if segmentationNode is None:
        name = slicer.mrmlScene.GenerateUniqueName(f"{volumeNode.GetName()} segmentation")
        segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    wasModifying = segmentationNode.StartModify()
    try:
        segmentationNode.CreateDefaultDisplayNodes()
        referToVolume(segmentationNode, volumeNode)
        if not keepsFrame:
            segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        fillSegments(segmentationNode, labelsKji, labels, ijkToSegmentation, confidences, keepsFrame)
        writeProvenance(segmentationNode, provenance)
    except BaseException:
        if isNew:
            slicer.mrmlScene.RemoveNode(segmentationNode)
        raise
    finally:
        segmentationNode.EndModify(wasModifying)
    placeBeside(segmentationNode, volumeNode)
    return segmentationNode


def fillSegments(
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    labelsKji: np.ndarray,
    labels: tuple[Label, ...],
    ijkToSegmentation: np.ndarray,
    confidences: Mapping[str, float | None],
    hasOthers: bool = False,
) -> None:
    """The voxels and the description of each label's segment; the node may be in no scene.

    hasOthers: whether there are other segments, which stay as they are.
    """
    for label in labels:
        segmentId = _describedSegment(segmentationNode, label, confidences.get(label.name), hasOthers)
        mask = (labelsKji == label.value).astype(np.uint8)
        _writeMask(mask, segmentationNode, segmentId, ijkToSegmentation)
        noteDelivered(mask, segmentationNode, segmentId)


def _describedSegment(
    segmentationNode: slicer.vtkMRMLSegmentationNode, label: Label, confidence: float | None, hasOthers: bool
) -> str:
    """ID of the label's segment, which is made if needed, with the label's colour, concept and confidence."""
    segmentation = segmentationNode.GetSegmentation()
    segmentId = segmentation.GetSegmentIdBySegmentName(label.name) or segmentation.AddEmptySegment("", label.name)
    if hasOthers:  # on a shared grid, the voxels of the others would be resampled
        segmentation.SeparateSegmentLabelmap(segmentId)
    segment = segmentation.GetSegment(segmentId)
    segment.SetColor(*(component / 255 for component in label.color))
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology_entry(label))
    segment.RemoveTag(ONLY_PAINTED_TAG)  # a model fills all slices
    segment.SetTag(CONFIDENCE_TAG, "" if confidence is None else f"{confidence:.1f} %")
    return segmentId


def _writeMask(
    maskKji: np.ndarray, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str, ijkToSegmentation: np.ndarray
) -> None:
    """Replace a segment's voxels. slicer.util's function does so too, but ignores transforms."""
    image = orientedImage(maskKji, ijkToSegmentation)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not logic.SetBinaryLabelmapToSegment(image, segmentationNode, segmentId, logic.MODE_REPLACE):
        raise InputError(
            f"segment {segmentId!r} of {segmentationNode.GetName()!r} could not be written; use a new segmentation."
        )


def replaceVoxels(
    masks: Mapping[str, np.ndarray],
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
) -> None:
    """Replace the voxels of segments, by their ID, by masks (K, J, I) uint8 on the volume's grid; the rest stays.

    Raises InputError under a transform that is not linear.
    """
    ijkToSegmentation = _transformBetween(volumeNode, segmentationNode) @ ijkToRas(volumeNode)
    for segmentId, mask in masks.items():
        segmentationNode.GetSegmentation().SeparateSegmentLabelmap(segmentId)  # voxels of others may be beside it
        _writeMask(mask, segmentationNode, segmentId, ijkToSegmentation)


def noteDelivered(
    maskKji: np.ndarray,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentId: str,
    drawn: Drawn = NOTHING_DRAWN,
) -> None:
    """Note of a mask on the volume's grid which slices it has, by which those that are repainted are known later."""
    segmentationNode.GetSegmentation().GetSegment(segmentId).SetTag(DELIVERED_TAG, describe_slices(maskKji, drawn))


def readDelivered(segment: slicer.vtkSegment) -> str:
    """What `noteDelivered` has noted; empty if nothing."""
    tag = vtk.reference("")
    return str(tag) if segment.GetTag(DELIVERED_TAG, tag) else ""


def readProvenance(segmentationNode: slicer.vtkMRMLSegmentationNode) -> dict[str, str]:
    """How the segments were made, as `writeSegments` noted it; empty for a segmentation that no model has made."""
    names = segmentationNode.GetAttributeNames() or ()
    return {
        name[len(ATTRIBUTE_PREFIX) :]: segmentationNode.GetAttribute(name)
        for name in names
        if name.startswith(ATTRIBUTE_PREFIX)
    }


def writeProvenance(segmentationNode: slicer.vtkMRMLSegmentationNode, provenance: Mapping[str, Any]) -> None:
    """Note how the segments were made, instead of what was noted before."""
    for key in readProvenance(segmentationNode):
        segmentationNode.RemoveAttribute(ATTRIBUTE_PREFIX + key)
    for key, value in provenance.items():
        segmentationNode.SetAttribute(ATTRIBUTE_PREFIX + key, str(value))


def readMask(
    segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str, volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> np.ndarray | None:
    """A segment's voxels (K, J, I), uint8 of 0 and 1, on the volume's grid; None if the segment is empty.

    A segment on another grid is resampled (nearest neighbour); the transforms of both nodes are applied.
    Raises InputError for a segment without a labelmap, and under a transform that is not linear.
    """
    name = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
    segment = slicer.vtkOrientedImageData()
    if not segmentationNode.GetBinaryLabelmapRepresentation(segmentId, segment):
        raise InputError(
            f"segment {name!r} has no binary labelmap; create one in the Segmentations module (Representations)."
        )
    if segment.GetNumberOfPoints() == 0 or segment.GetScalarRange()[1] == 0:
        return None
    imageToSegmentation = vtk.vtkMatrix4x4()
    segment.GetImageToWorldMatrix(imageToSegmentation)
    segmentationToVolume = np.linalg.inv(_transformBetween(volumeNode, segmentationNode))
    imageToVolume = segmentationToVolume @ slicer.util.arrayFromVTKMatrix(imageToSegmentation)
    segment.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(imageToVolume))
    shapeKji = readGrid(volumeNode)[1]
    grid = orientedImage(np.zeros(shapeKji, np.uint8), ijkToRas(volumeNode))
    resampled = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    if not resample(segment, grid, resampled, False, False):
        raise InputError(f"segment {name!r} cannot be resampled to the volume's grid; export it with its volume.")
    voxels = vtk_to_numpy(resampled.GetPointData().GetScalars()).reshape(shapeKji)
    return (voxels > 0).astype(np.uint8)


def readMasks(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentIds: list[str],
) -> dict[str, np.ndarray]:
    """Masks (K, J, I) of 0 and 1 on the volume's grid, by segment ID; segments without voxels are left out."""
    segmentation = segmentationNode.GetSegmentation()
    masks: dict[str, np.ndarray] = {}
    taken: np.ndarray | None = None
    for segmentId in segmentIds:
        name = segmentation.GetSegment(segmentId).GetName()
        mask = readMask(segmentationNode, segmentId, volumeNode)
        if mask is None:
            continue
        if not mask.any():
            raise InputError(
                _("segment {name!r} lies outside of the volume; choose the volume that it was drawn on.").format(
                    name=name
                )
            )
        if name_key(name) in (name_key(segmentation.GetSegment(other).GetName()) for other in masks):
            raise InputError(_("two segments are named {name!r}; rename one of them.").format(name=name))
        if taken is not None and (count := int(np.count_nonzero(taken & mask))):
            others = [segmentation.GetSegment(i).GetName() for i, other in masks.items() if (other & mask).any()]
            raise InputError(
                _(
                    "the segments {first!r} and {second!r} overlap in {count} voxels, and a voxel can have only "
                    "one label; remove the overlap (Segment Editor: Logical operators, Subtract)."
                ).format(first=others[0], second=name, count=count)
            )
        masks[segmentId] = mask
        taken = mask if taken is None else taken | mask
    if not masks:
        raise InputError(_("no chosen segment has voxels; draw one, or select others."))
    return masks


def countVoxels(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> int:
    """Of a segment on its own grid, which may be another than the volume's."""
    image = slicer.vtkOrientedImageData()
    segmentationNode.GetBinaryLabelmapRepresentation(segmentId, image)
    if image.GetNumberOfPoints() == 0:
        return 0
    return int(np.count_nonzero(vtk_to_numpy(image.GetPointData().GetScalars())))


def orientedImage(maskKji: np.ndarray, ijkToFrame: np.ndarray) -> slicer.vtkOrientedImageData:
    """A mask (K, J, I) uint8 in the form in which segments store it."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*maskKji.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(maskKji.ravel(), deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToFrame))
    return image


def referenceVolume(segmentationNode: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume on which a segmentation was drawn, if the node refers to it."""
    return segmentationNode.GetNodeReference(_referenceRole())


def referToVolume(
    segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLScalarVolumeNode | None
) -> None:
    """Note the volume on which a segmentation is drawn; new segments get its grid."""
    if volumeNode is not None:
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    segmentationNode.SetNodeReferenceID(_referenceRole(), volumeNode.GetID() if volumeNode is not None else None)


def segmentationFor(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, chosen: slicer.vtkMRMLSegmentationNode | None
) -> slicer.vtkMRMLSegmentationNode | None:
    """The chosen segmentation if it can be this volume's; else the last that a model made of it; None for a new one."""
    if chosen is not None and (
        referenceVolume(chosen) is volumeNode or chosen.GetSegmentation().GetNumberOfSegments() == 0
    ):
        return chosen
    made = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if referenceVolume(node) is volumeNode and readProvenance(node)
    ]
    return made[-1] if made else None


def _referenceRole() -> str:
    return slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()


def _transformBetween(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, segmentationNode: slicer.vtkMRMLSegmentationNode
) -> np.ndarray:
    """4x4 matrix from the frame of one node's parent transform to that of the other; InputError if not linear."""
    matrix = vtk.vtkMatrix4x4()
    here, there = volumeNode.GetParentTransformNode(), segmentationNode.GetParentTransformNode()
    if here is not there and not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(here, there, matrix):
        raise InputError(
            f"segmentation {segmentationNode.GetName()!r} is under a transform that is not linear; use a new one."
        )
    return slicer.util.arrayFromVTKMatrix(matrix)
