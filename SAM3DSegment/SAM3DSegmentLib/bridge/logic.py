"""Segment a volume node: at once for scripts, or in a child process for the panel. Both give the same voxels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import slicer

from ..base.errors import InputError
from .frames_job import startAllFrames
from .job import Callbacks, SceneJob, SegmentationJob
from .request import Choices, Request
from .scene import undo as undoing
from .scene.suitability import dicomModality


def segment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    *,
    onProgress: Callable[[str, int, int], None] | None = None,
    shouldCancel: Callable[[], bool] | None = None,
    **choices: Any,
) -> slicer.vtkMRMLSegmentationNode:
    """Segment in this process and return the segmentation node; for scripts and self-tests, as it blocks.

    choices: the fields of `Choices`. onProgress(stage, parts done, parts in all); shouldCancel() is asked between
    batches of slices. Raises an error of `errors.py`, `Cancelled` among them; the scene is then as before. Segments
    that were edited, or belong to another volume, are replaced only with `overwrite=True`. See also `undo`.
    """
    [chosen] = _fromKeywords(choices, Choices)
    if chosen.allFrames:
        raise InputError("all frames are segmented by startSegment only; call that.")
    request = Request.make(volumeNode, segmentationNode, chosen)
    # These import torch, so not before it is needed.
    from ..inference import Segmenter, watch_of
    from ..model_file import load_model
    from ..results import segment_array
    from ..suitability import VolumeFacts, find_and_warn

    checked, loaded = request.choices, load_model(request.modelPath)
    segmenter = Segmenter.load(loaded, checked.device, sam_checkpoint=checked.samCheckpoint, quality=checked.quality)
    arrays, matrix, watch = request.arraysKji, request.ijkToWorld, watch_of(onProgress, shouldCancel)
    nodes = (volumeNode, *(slicer.mrmlScene.GetNodeByID(channel.volumeId) for channel in request.channels))
    facts = [
        VolumeFacts.of_array(array, matrix, dicomModality(node), name=node.GetName())
        for array, node in zip(arrays, nodes)
    ]
    misfits = find_and_warn(loaded.card, facts, repr(volumeNode.GetName()))
    labels, confidence, record = segment_array(segmenter, loaded, arrays, matrix, watch, misfits, checked.region)
    return request.deliver(labels, confidence if checked.confidenceMap else None, record)


def startSegment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    **keywords: Any,
) -> SceneJob:
    """Segment in a child process and return at once; keep the job to cancel it. Raises an error of `errors.py`.

    keywords: the fields of `Choices` and of `Callbacks`. The scene is untouched until the end, and stays so unless
    onFinished() is called.
    """
    choices, callbacks = _fromKeywords(keywords, Choices, Callbacks)
    if choices.allFrames:
        return startAllFrames(volumeNode, choices, callbacks)
    return SegmentationJob(Request.make(volumeNode, segmentationNode, choices), callbacks)


def undo(segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
    """Make a segmentation what it was before the last result was written into it. Raises InputError."""
    undoing.undo(segmentationNode)


def _fromKeywords(keywords: Mapping[str, Any], *kinds: type) -> list[Any]:
    """One value of each dataclass, from the keywords that are its fields. Raises TypeError for any other keyword."""
    names = [[field.name for field in fields(kind)] for kind in kinds]
    known = [name for ofKind in names for name in ofKind]
    if unknown := [name for name in keywords if name not in known]:
        raise TypeError(f"keyword {unknown[0]!r} is unknown; use {', '.join(known)}.")
    return [kind(**{name: keywords[name] for name in ofKind if name in keywords}) for kind, ofKind in zip(kinds, names)]
