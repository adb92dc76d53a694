"""Observe the changes of one segmentation node at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

SEGMENT_CHANGES = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)
VOXEL_CHANGES = (
    slicer.vtkSegmentation.SourceRepresentationModified,
    slicer.vtkSegmentation.RepresentationModified,
)


class SegmentationObserver:
    """Calls onChanged() at these events of the observed segmentation.

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
        self._node: slicer.vtkMRMLSegmentationNode | None = None

    def observe(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Observe this segmentation instead of the former one; None for no segmentation."""
        if node is self._node:
            return
        for addOrRemove, observed in ((self._removeObserver, self._node), (self._addObserver, node)):
            if observed is not None:
                for event in self._events:
                    addOrRemove(observed.GetSegmentation(), event, self._changed)
        self._node = node

    def _changed(self, caller: Any, event: Any) -> None:
        self._onChanged()
