"""Segment a volume node: at once for scripts, or in a child process for the panel. Both give the same voxels."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..card import ModelCard
from ..errors import InputError, Sam3dError
from ..geometry import Crop
from ..model_store import find_model, read_card
from ..volume_io import read_volume, write_volume
from . import nodes
from .worker import BackgroundCall, CommandProcess, progressReader

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "hippocampus-mri"
OnProgress = Callable[[str, int, int, float | None], None]  # stage, slices done, slices in all, seconds to go


@dataclass(frozen=True)
class Request:
    """What is to be segmented. Nodes are held by ID, because a scene may lose them while a child computes."""

    volumeId: str
    segmentationId: str | None
    card: ModelCard
    modelPath: Path
    arrayKji: np.ndarray
    ijkToWorld: np.ndarray
    crop: Crop | None

    @classmethod
    def make(
        cls,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode | None,
        model: str,
        roiNode: slicer.vtkMRMLMarkupsROINode | None,
    ) -> Request:
        """Raises an error of `errors.py` if this cannot be segmented."""
        if volumeNode is None:
            raise InputError("no volume is chosen; choose one.")
        path = find_model(model)
        volume = nodes.readVolume(volumeNode)
        array, matrix, crop = volume.arrayKji, volume.ijkToWorld, None
        if roiNode is not None:
            crop = Crop.around(nodes.roiCorners(roiNode), matrix, array.shape)
            array, matrix = crop.take(array), crop.move(matrix)
        segmentationId = segmentationNode.GetID() if segmentationNode is not None else None
        return cls(volumeNode.GetID(), segmentationId, read_card(path), path, array, matrix, crop)

    def deliver(
        self, labelsKji: np.ndarray, confidenceKji: np.ndarray | None, record: dict[str, Any]
    ) -> slicer.vtkMRMLSegmentationNode:
        """Write the result into the scene; InputError if its nodes have gone or changed meanwhile.

        With `confidenceKji` the scene gets a volume of that too.
        """
        volumeNode = slicer.mrmlScene.GetNodeByID(self.volumeId)
        segmentationNode = slicer.mrmlScene.GetNodeByID(self.segmentationId) if self.segmentationId else None
        if volumeNode is None or (self.segmentationId and segmentationNode is None):
            raise InputError("the volume or the segmentation was removed from the scene meanwhile; segment again.")
        if self.crop is not None:
            labelsKji = self.crop.put_back(labelsKji)
        if volumeNode.GetImageData() is None or labelsKji.shape != slicer.util.arrayFromVolume(volumeNode).shape:
            raise InputError(f"the image of {volumeNode.GetName()!r} was changed meanwhile; segment again.")
        provenance = {
            "Model": record["model"],
            "ModelSha256": record["model_sha256"],
            "Versions": json.dumps(record["versions"]),
            "Device": record["device"],
            "Precision": record["precision"],
            "Seconds": record["seconds"],
            "Date": record["date"],
            "Volume": volumeNode.GetName(),
        }
        confidences = {segment["name"]: segment["mean_confidence"] for segment in record["segments"]}
        segmentationNode = nodes.writeSegments(
            labelsKji, self.card.labels, volumeNode, segmentationNode, provenance, confidences
        )
        if confidenceKji is not None:
            if self.crop is not None:
                confidenceKji = self.crop.put_back(confidenceKji)
            nodes.addConfidenceVolume(confidenceKji, volumeNode)
        return segmentationNode


def segment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    roiNode: slicer.vtkMRMLMarkupsROINode | None = None,
    onProgress: Callable[[str, int, int], None] | None = None,
    shouldCancel: Callable[[], bool] | None = None,
    samCheckpoint: str | None = None,
    confidenceMap: bool = False,
) -> slicer.vtkMRMLSegmentationNode:
    """Segment in this process and return the segmentation node; for scripts and self-tests, as it blocks.

    onProgress(stage, slices done, slices in all); shouldCancel() -> bool is asked between batches of slices. With
    `confidenceMap` the scene also gets a volume with the probability of each voxel's label in percent.
    Raises an error of `errors.py`, `Cancelled` among them; the scene is then as before.
    """
    request = Request.make(volumeNode, segmentationNode, model, roiNode)
    # These import torch, so not before it is needed.
    from ..batch import segment_array
    from ..inference import Segmenter
    from ..model_file import load_model

    loaded = load_model(request.modelPath)
    segmenter = Segmenter.load(loaded, device, sam_checkpoint=samCheckpoint)
    labels, confidence, record = segment_array(
        segmenter, loaded, request.arrayKji, request.ijkToWorld, onProgress, shouldCancel
    )
    return request.deliver(labels, confidence if confidenceMap else None, record)


class SegmentationJob:
    """One segmentation in a child process. Exactly one of the three last callbacks is called, on the main thread."""

    def __init__(
        self,
        request: Request,
        device: str,
        samCheckpoint: str | None,
        confidenceMap: bool,
        onProgress: OnProgress,
        onFinished: Callable[[slicer.vtkMRMLSegmentationNode], None],
        onFailed: Callable[[str], None],
        onCancelled: Callable[[], None],
    ) -> None:
        self._request = request
        self._confidenceMap = confidenceMap
        self._onFinished = onFinished
        self._onFailed = onFailed
        self._onCancelled = onCancelled
        self._cancelled = False
        self._call: BackgroundCall | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="SAM3DSegment-", dir=slicer.app.temporaryPath))
        arguments = ["segment", str(self._folder / "volume.nrrd"), "-o", str(self._folder / "labels.nrrd")]
        arguments += ["--model", str(request.modelPath), "--device", device, "--progress", "json"]
        arguments += ["--report", str(self._folder / "report.json")]
        if confidenceMap:
            arguments += ["--confidence", str(self._folder / "confidence.nrrd")]
        if samCheckpoint:
            arguments += ["--sam-checkpoint", samCheckpoint]
        self._process = CommandProcess(
            arguments, progressReader(onProgress), self._readResult, self._fail, self._endCancelled
        )

    def start(self) -> None:
        path, array, matrix = self._folder / "volume.nrrd", self._request.arrayKji, self._request.ijkToWorld
        self._call = BackgroundCall(
            lambda: write_volume(path, array, matrix), self._startProcess, lambda error: self._fail(str(error))
        )

    def cancel(self) -> None:
        self._cancelled = True
        self._process.cancel()

    def abandon(self) -> None:
        """Stop at once, without any callback; for when the module is closed."""
        self._cancelled = True
        self._onCancelled = lambda: None
        self._onFailed = lambda message: None  # its files are taken from under a thread that still reads them
        self._process.abandon()
        self._cleanUp()

    def processId(self) -> int:
        """Of the child; 0 before it runs."""
        return self._process.processId()

    def _startProcess(self, _written: None) -> None:
        if self._cancelled:
            self._endCancelled()
        else:
            self._process.start()

    def _readResult(self) -> None:
        self._call = BackgroundCall(self._readFiles, self._deliver, lambda error: self._fail(str(error)))

    def _readFiles(self) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
        labels = read_volume(self._folder / "labels.nrrd").array_kji
        confidence = read_volume(self._folder / "confidence.nrrd").array_kji if self._confidenceMap else None
        report = json.loads((self._folder / "report.json").read_text(encoding="utf-8"))
        return labels, confidence, report["segmented"][0]

    def _deliver(self, result: tuple[np.ndarray, np.ndarray | None, dict[str, Any]]) -> None:
        if self._cancelled:
            self._endCancelled()
            return
        try:
            node = self._request.deliver(*result)
        except Sam3dError as error:
            self._fail(str(error))
            return
        self._cleanUp()
        self._onFinished(node)

    def _fail(self, message: str) -> None:
        self._cleanUp()
        self._onFailed(message)

    def _endCancelled(self) -> None:
        self._cleanUp()
        self._onCancelled()

    def _cleanUp(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def startSegment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    roiNode: slicer.vtkMRMLMarkupsROINode | None = None,
    samCheckpoint: str | None = None,
    confidenceMap: bool = False,
    onProgress: OnProgress = lambda stage, done, total, eta: None,
    onFinished: Callable[[slicer.vtkMRMLSegmentationNode], None] = lambda node: None,
    onFailed: Callable[[str], None] = logger.error,
    onCancelled: Callable[[], None] = lambda: None,
) -> SegmentationJob:
    """Segment in a child process and return at once; keep the job to cancel it. Raises an error of `errors.py`.

    One of onFinished(segmentation node), onFailed(message), onCancelled() is called at the end, on the main thread. The
    scene is untouched until then, and after the two last ones too. Other parameters: as `segment`.
    """
    request = Request.make(volumeNode, segmentationNode, model, roiNode)
    job = SegmentationJob(request, device, samCheckpoint, confidenceMap, onProgress, onFinished, onFailed, onCancelled)
    job.start()
    return job
