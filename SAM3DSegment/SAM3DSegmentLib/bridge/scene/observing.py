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
        self.observe(segmentationNode.GetSegmentation() if segmentationNode is not None else None)

    def _changed(self, caller: Any, event: Any) -> None:
        self._onChanged()
