"""Segment a volume node: at once for scripts, or in a child process for the panel. Both give the same voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import slicer

from .job import Callbacks, SegmentationJob
from .request import Choices, Request


def segment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    *,
    onProgress: Callable[[str, int, int], None] | None = None,
    shouldCancel: Callable[[], bool] | None = None,
    **choices: Any,
) -> slicer.vtkMRMLSegmentationNode:
    """Segment in this process and return the segmentation node; for scripts and self-tests, as it blocks.

    choices: the fields of `Choices`. onProgress(stage, slices done, slices in all); shouldCancel() is asked between
    batches of slices. Raises an error of `errors.py`, `Cancelled` among them; the scene is then as before.
    """
    request = Request.make(volumeNode, segmentationNode, Choices.of(choices))
    # These import torch, so not before it is needed.
    from ..commands.batch import segment_array
    from ..inference import Segmenter, watch_of
    from ..model_file import load_model

    chosen, loaded = request.choices, load_model(request.modelPath)
    segmenter = Segmenter.load(loaded, chosen.device, sam_checkpoint=chosen.samCheckpoint, quality=chosen.quality)
    labels, confidence, record = segment_array(
        segmenter, loaded, request.arrayKji, request.ijkToWorld, watch_of(onProgress, shouldCancel)
    )
    return request.deliver(labels, confidence if chosen.confidenceMap else None, record)


def startSegment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    **keywords: Any,
) -> SegmentationJob:
    """Segment in a child process and return at once; keep the job to cancel it. Raises an error of `errors.py`.

    keywords: the fields of `Choices` and of `Callbacks`. The scene is untouched until the end, and stays so unless
    onFinished() is called.
    """
    callbacks = {field.name: keywords.pop(field.name) for field in fields(Callbacks) if field.name in keywords}
    request = Request.make(volumeNode, segmentationNode, Choices.of(keywords))
    return SegmentationJob(request, Callbacks(**callbacks))
