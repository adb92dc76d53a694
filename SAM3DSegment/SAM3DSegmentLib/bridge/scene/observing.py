"""Observe the changes of one object at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

SEGMENT_CHANGES = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)
REGION_CHANGES = (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLTransformableNode.TransformModifiedEvent)
VOXEL_CHANGES = (
    slicer.vtkSegmentation.SourceRepresentationModified,
    slicer.vtkSegmentation.RepresentationModified,
)


class Observer:
    """Calls onChanged() at these events of the observed object, which is another one from time to time.

    addObserver and removeObserver are those of VTKObservationMixin.
    """

    def __init__(
        self,
        addObserver: Callable[..., Any],
        removeObserver: Callable[..., Any],
        events: tuple[int, ...],
        onChanged: Callable[[], None],
    ) -> None:
        self._addObserver = addObserver
        self._removeObserver = removeObserver
        self._events = events
        self._onChanged = onChanged
        self._observed: vtk.vtkObject | None = None
        self._node: slicer.vtkMRMLSegmentationNode | None = None  # whose segmentation is observed

    def observe(self, subject: vtk.vtkObject | None) -> None:
        """Observe this instead of the former one; None for nothing."""
        if subject is self._observed:
            return
        for addOrRemove, observed in ((self._removeObserver, self._observed), (self._addObserver, subject)):
            if observed is not None:
                for event in self._events:
                    addOrRemove(observed, event, self._changed)
        self._observed = subject

    def observeSegments(self, segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Observe the segmentation of this node, also when it becomes another one, as with each frame of a sequence."""
        if segmentationNode is not self._node:
            event = slicer.vtkMRMLSegmentationNode.SegmentationChangedEvent
            if self._node is not None:
                self._removeObserver(self._node, event, self._exchanged)
            if segmentationNode is not None:
                self._addObserver(segmentationNode, event, self._exchanged)
            self._node = segmentationNode
        self.observe(segmentationNode.GetSegmentation() if segmentationNode is not None else None)

    def _exchanged(self, caller: Any, event: Any) -> None:
        self.observeSegments(self._node)
        self._onChanged()

    def _changed(self, caller: Any, event: Any) -> None:
        self._onChanged()
