"""One step back for each segmentation: to what it was before the last result was written into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

from ...base.errors import InputError
from .segmentations import BINARY_LABELMAP, readProvenance, referenceVolume, referToVolume, writeProvenance


@dataclass(frozen=True)
class _Step:
    """history: Slicer's own, of the segments; the rest of what a delivery replaces is kept beside it.

    deliveredTimes: when the voxels of each segment were last modified, just after the delivery.
    """

    history: slicer.vtkSegmentationHistory
    provenance: Mapping[str, str]
    volumeId: str | None
    deliveredTimes: Mapping[str, int]


_steps: dict[str, _Step] = {}  # by the segmentation's ID


@contextmanager
def undoable(segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> Iterator[None]:
    """What is done within to a segmentation is one step of undo; after an exception it is undone at once."""
    if segmentationNode is None or segmentationNode.GetSegmentation().GetNumberOfSegments() == 0:
        yield
        return
    slicer.mrmlScene.SaveStateForUndo()  # where the user has switched on the scene's own undo
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(segmentationNode.GetSegmentation())
    history.SaveState()
    volumeNode = referenceVolume(segmentationNode)
    volumeId = volumeNode.GetID() if volumeNode is not None else None
    provenance = readProvenance(segmentationNode)
    try:
        yield
    except BaseException:
        _restore(segmentationNode, _Step(history, provenance, volumeId, {}))
        raise
    for segmentationId in [i for i, step in _steps.items() if not _isOf(step, slicer.mrmlScene.GetNodeByID(i))]:
        del _steps[segmentationId]  # of nodes that are gone
    _steps[segmentationNode.GetID()] = _Step(history, provenance, volumeId, _voxelTimes(segmentationNode))


def canUndo(segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> bool:
    return segmentationNode is not None and _stepOf(segmentationNode) is not None


def isChangedSince(segmentationNode: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether segments were edited, added or removed after the step that can be undone."""
    step = _stepOf(segmentationNode)
    return step is not None and _voxelTimes(segmentationNode) != step.deliveredTimes


def undo(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Make the segmentation what it was before the last result; InputError if that is not known."""
    step = _stepOf(segmentationNode)
    if step is None:
        raise InputError(
            _("no result was written over the segments of {name!r}, so there is nothing to undo.").format(
                name=segmentationNode.GetName()
            )
        )
    del _steps[segmentationNode.GetID()]
    _restore(segmentationNode, step)


def forgetSteps() -> None:
    """The scene is closed, or the module is."""
    _steps.clear()


def _stepOf(segmentationNode: slicer.vtkMRMLSegmentationNode) -> _Step | None:
    step = _steps.get(segmentationNode.GetID() or "")
    return step if step is not None and _isOf(step, segmentationNode) else None


def _isOf(step: _Step, segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> bool:
    """Another scene may have another node of the same ID."""
    return segmentationNode is not None and step.history.GetSegmentation() is segmentationNode.GetSegmentation()


def _restore(segmentationNode: slicer.vtkMRMLSegmentationNode, step: _Step) -> None:
    wasModifying = segmentationNode.StartModify()
    try:
        step.history.RestorePreviousState()
        writeProvenance(segmentationNode, step.provenance)
        referToVolume(segmentationNode, slicer.mrmlScene.GetNodeByID(step.volumeId) if step.volumeId else None)
    finally:
        segmentationNode.EndModify(wasModifying)


def _voxelTimes(segmentationNode: slicer.vtkMRMLSegmentationNode) -> dict[str, int]:
    segmentation = segmentationNode.GetSegmentation()
    images = {i: segmentation.GetSegment(i).GetRepresentation(BINARY_LABELMAP) for i in segmentation.GetSegmentIDs()}
    return {segmentId: image.GetMTime() if image is not None else 0 for segmentId, image in images.items()}
