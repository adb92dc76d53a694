"""Paintings: segmentations of which some slices are painted, to be completed or trained on as they are."""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np
import slicer
from vtk import reference

from ...card import Label
from ...formats.delivered import Drawn
from ...formats.segments import ONLY_PAINTED_TAG, name_key, terminology_entry
from .segmentations import noteDelivered, referenceVolume, referToVolume, replaceVoxels
from .volumes import placeBeside

COMPLETED_TAG = "SAM3DSegment.CompletedFrom"  # how many slices were painted, and repainted, until then


def isOnlyPainted(segmentationNode: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether only the painted slices of a segmentation are complete, by the tag of its segments."""
    segmentation, tag = segmentationNode.GetSegmentation(), reference("")
    segments = [segmentation.GetSegment(segmentId) for segmentId in segmentation.GetSegmentIDs()]
    return any(segment.GetTag(ONLY_PAINTED_TAG, tag) and str(tag) == "1" for segment in segments)


def setOnlyPainted(segmentationNode: slicer.vtkMRMLSegmentationNode, isOnly: bool) -> None:
    """Note in all segments whether only the painted slices are complete."""
    segmentation = segmentationNode.GetSegmentation()
    for segmentId in segmentation.GetSegmentIDs():
        tagOnlyPainted(segmentation.GetSegment(segmentId), isOnly)


def tagOnlyPainted(segment: slicer.vtkSegment, isOnly: bool) -> None:
    if isOnly:
        segment.SetTag(ONLY_PAINTED_TAG, "1")
    else:
        segment.RemoveTag(ONLY_PAINTED_TAG)


def preparePainting(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None,
    labels: tuple[Label, ...],
) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation with a segment for each of `labels`, or at least one, to be painted on the volume.

    Without a segmentation, or if that belongs to another volume, a new one is made on the volume's grid and under its
    transform; the segments of one that is there stay as they are.
    """
    if segmentationNode is not None and referenceVolume(segmentationNode) in (None, volumeNode):
        _prepare(segmentationNode, volumeNode, labels)
        return segmentationNode
    painting = _newSegmentation(f"{volumeNode.GetName()} segmentation", volumeNode)
    try:
        _prepare(painting, volumeNode, labels)
    except BaseException:
        _removeWithDisplay(painting)
        raise
    return painting


def _prepare(
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    labels: tuple[Label, ...],
) -> None:
    isEmpty = segmentationNode.GetSegmentation().GetNumberOfSegments() == 0
    if isEmpty:
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    segmentationNode.CreateDefaultDisplayNodes()
    referToVolume(segmentationNode, volumeNode)
    _addSegments(segmentationNode, labels, isEmpty or isOnlyPainted(segmentationNode))


def _addSegments(
    segmentationNode: slicer.vtkMRMLSegmentationNode, labels: tuple[Label, ...], isOnlyPainted: bool
) -> None:
    """Those that are missing by their names, with the labels' colours and codes; else one, if there is none at all."""
    segmentation = segmentationNode.GetSegmentation()
    present = {name_key(segmentation.GetSegment(segmentId).GetName()) for segmentId in segmentation.GetSegmentIDs()}
    for label in labels:
        if name_key(label.name) in present:
            continue
        color = [component / 255 for component in label.color]
        segment = segmentation.GetSegment(segmentation.AddEmptySegment("", label.name, color))
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology_entry(label))
        tagOnlyPainted(segment, isOnlyPainted)
    if segmentation.GetNumberOfSegments() == 0:
        tagOnlyPainted(segmentation.GetSegment(segmentation.AddEmptySegment()), isOnlyPainted)


def writeCompletion(
    masks: Mapping[str, np.ndarray],
    drawn: Drawn,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    addedIds: Container[str] = (),
) -> None:
    """Replace the voxels of segments, by their ID, by masks (K, J, I) on the volume's grid; all slices are known then.

    drawn: the slices that were painted so far; addedIds: of segments that a person has drawn beside those that were
    delivered. Names, colours, codes and all other
    tags stay, and so does everything else of the segmentation.
    """
    wasModifying = segmentationNode.StartModify()
    try:
        replaceVoxels(masks, volumeNode, segmentationNode)
        setOnlyPainted(segmentationNode, False)
        count = str(sum(map(len, drawn.values())))
        for segmentId, mask in masks.items():
            segmentationNode.GetSegmentation().GetSegment(segmentId).SetTag(COMPLETED_TAG, count)
            if segmentId not in addedIds:
                noteDelivered(mask, segmentationNode, segmentId, drawn)
    finally:
        segmentationNode.EndModify(wasModifying)


def copyCompleted(
    masks: Mapping[str, np.ndarray],
    drawn: Drawn,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    labels: Mapping[str, Label],
    addedIds: Container[str] = (),
) -> slicer.vtkMRMLSegmentationNode:
    """As `writeCompletion`, into a new segmentation. labels: of the masks, for segments that are there no more."""
    copied = _newSegmentation(f"{segmentationNode.GetName()} completed", volumeNode)
    try:
        for segmentId in masks:
            segment, former = slicer.vtkSegment(), segmentationNode.GetSegmentation().GetSegment(segmentId)
            if former is not None:
                segment.DeepCopyMetadata(former)
            else:
                segment.SetName(labels[segmentId].name)
                segment.SetColor(*(component / 255 for component in labels[segmentId].color))
            copied.GetSegmentation().AddSegment(segment, segmentId)
        writeCompletion(masks, drawn, volumeNode, copied, addedIds)
    except BaseException:
        _removeWithDisplay(copied)
        raise
    return copied


def _newSegmentation(name: str, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """One without segments, on the volume's grid, under its transform, and beside it in the subject hierarchy."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    referToVolume(node, volumeNode)
    placeBeside(node, volumeNode)
    return node


def _removeWithDisplay(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Slicer would keep the display node."""
    displayNode = segmentationNode.GetDisplayNode()
    slicer.mrmlScene.RemoveNode(segmentationNode)
    if displayNode is not None:
        slicer.mrmlScene.RemoveNode(displayNode)
