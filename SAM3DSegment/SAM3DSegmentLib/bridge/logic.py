"""Segment a volume node: at once for scripts, or in a child process for the panel. Both give the same voxels."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..base.errors import InputError
from ..base.stop import FOLDER_PREFIX
from ..card import ModelCard
from ..geometry import Crop
from ..model_store import find_model, read_card
from ..quality import BEST, check_quality
from . import preferences as settings
from .problems import explain
from .scene import nodes
from .worker import BackgroundCall, CommandProcess, ignore, progressReader, removeFolder

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "hippocampus-mri"
VOLUME, LABELS, CONFIDENCE, REPORT = "volume.nrrd", "labels.nrrd", "confidence.nrrd", "report.json"
OnProgress = Callable[[str, int, int, float | None], None]  # stage, slices done, slices in all, seconds to go
OnChoice = Callable[[str, float], None]  # the quality that "auto" has chosen, seconds that it is expected to take
Result = tuple[np.ndarray, np.ndarray | None, dict[str, Any]]  # labels, confidence, record of how they were made


@dataclass(frozen=True)
class Request:
    """What is to be segmented, and how. Nodes are held by ID: a scene may lose them while a child computes."""

    volumeId: str
    segmentationId: str | None
    card: ModelCard
    modelPath: Path
    arrayKji: np.ndarray
    ijkToWorld: np.ndarray
    crop: Crop | None
    quality: str
    device: str
    samCheckpoint: str | None
    confidenceMap: bool

    @classmethod
    def make(
        cls,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode | None,
        *,
        model: str,
        quality: str,
        device: str,
        roiNode: slicer.vtkMRMLMarkupsROINode | None,
        samCheckpoint: str | None,
        confidenceMap: bool,
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
        return cls(
            volumeId=volumeNode.GetID(),
            segmentationId=segmentationNode.GetID() if segmentationNode is not None else None,
            card=read_card(path),
            modelPath=path,
            arrayKji=array,
            ijkToWorld=matrix,
            crop=crop,
            quality=check_quality(quality),
            device=device,
            samCheckpoint=samCheckpoint or settings.samCheckpoint(),
            confidenceMap=confidenceMap,
        )

    def deliver(
        self, labelsKji: np.ndarray, confidenceKji: np.ndarray | None, record: dict[str, Any]
    ) -> slicer.vtkMRMLSegmentationNode:
        """Write the result into the scene; InputError if its nodes have gone or changed meanwhile.

        With `confidenceKji`, uint8 in percent like the labels on the grid of `arrayKji`, the scene gets a volume of it.
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
            "Quality": record["quality"],
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
    *,
    model: str = DEFAULT_MODEL,
    quality: str = BEST,
    device: str = "auto",
    roiNode: slicer.vtkMRMLMarkupsROINode | None = None,
    samCheckpoint: str | None = None,
    confidenceMap: bool = False,
    onProgress: Callable[[str, int, int], None] | None = None,
    shouldCancel: Callable[[], bool] | None = None,
) -> slicer.vtkMRMLSegmentationNode:
    """Segment in this process and return the segmentation node; for scripts and self-tests, as it blocks.

    quality: a name of `quality.QUALITIES`, or "auto" for the best that takes at most a minute. samCheckpoint: by
    default the file chosen in the panel, else the one in the weights folder. With `confidenceMap` the scene also gets a
    volume with the probability of each voxel's label in percent. onProgress(stage, slices done, slices in all);
    shouldCancel() -> bool is asked between batches of slices.
    Raises an error of `errors.py`, `Cancelled` among them; the scene is then as before.
    """
    request = Request.make(
        volumeNode,
        segmentationNode,
        model=model,
        quality=quality,
        device=device,
        roiNode=roiNode,
        samCheckpoint=samCheckpoint,
        confidenceMap=confidenceMap,
    )
    # These import torch, so not before it is needed.
    from ..inference import Segmenter, watch_of
    from ..model_file import load_model
    from ..results import segment_array

    loaded = load_model(request.modelPath)
    segmenter = Segmenter.load(loaded, request.device, sam_checkpoint=request.samCheckpoint, quality=request.quality)
    labels, confidence, record = segment_array(
        segmenter, loaded, request.arrayKji, request.ijkToWorld, watch_of(onProgress, shouldCancel)
    )
    return request.deliver(labels, confidence if confidenceMap else None, record)


class SegmentationJob:
    """One segmentation in a child process. Exactly one of the three last callbacks is called, on the main thread."""

    def __init__(
        self,
        request: Request,
        *,
        onProgress: OnProgress,
        onChoice: OnChoice,
        onFinished: Callable[[slicer.vtkMRMLSegmentationNode], None],
        onFailed: Callable[[str], None],
        onCancelled: Callable[[], None],
    ) -> None:
        self._request: Request | None = request
        self._onFinished = onFinished
        self._onFailed = onFailed
        self._onCancelled = onCancelled
        self._cancelled = False
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=slicer.app.temporaryPath))
        arguments = ["segment", VOLUME, "-o", LABELS, "--report", REPORT, "--progress", "json"]
        arguments += ["--model", str(request.modelPath), "--quality", request.quality, "--device", request.device]
        if request.confidenceMap:
            arguments += ["--confidence", CONFIDENCE]
        if request.samCheckpoint:
            arguments += ["--sam-checkpoint", request.samCheckpoint]
        self._process = CommandProcess(
            arguments,
            progressReader(onProgress, lambda event: _tellChoice(event, onChoice)),
            self._readResult,
            self._fail,
            self._endCancelled,
            self._folder,
        )
        path, array, matrix = self._folder / VOLUME, request.arrayKji, request.ijkToWorld
        self._call = BackgroundCall(lambda: _write(path, array, matrix), self._startProcess, self._failWith)

    def cancel(self) -> None:
        """The child ends within PATIENCE_MS of worker.py; onCancelled() is called then."""
        self._cancelled = True
        self._process.cancel()

    def abandon(self) -> None:
        """Stop, without any callback, and return when nothing is left; for when the module is closed."""
        self._end()

    def childId(self) -> int:
        """Process id of the child that computes; 0 before it runs."""
        return self._process.childId()

    def _startProcess(self, _written: None) -> None:
        if self._cancelled:
            self._endCancelled()
        else:
            self._process.start()

    def _readResult(self) -> None:
        folder, withConfidence = self._folder, self._request is not None and self._request.confidenceMap
        self._call = BackgroundCall(lambda: _readFiles(folder, withConfidence), self._deliver, self._failWith)

    def _deliver(self, result: Result) -> None:
        request = self._request
        if self._cancelled or request is None:
            self._endCancelled()
            return
        try:
            node = request.deliver(*result)
        except Exception as error:  # Slicer would only print it, and the panel would wait for ever
            self._failWith(error)
            return
        onFinished = self._onFinished
        self._end()
        onFinished(node)

    def _failWith(self, error: BaseException) -> None:
        self._fail(explain(error))

    def _fail(self, message: str) -> None:
        onFailed = self._onFailed
        self._end()
        onFailed(message)

    def _endCancelled(self) -> None:
        onCancelled = self._onCancelled
        self._end()
        onCancelled()

    def _end(self) -> None:
        """Let go of all arrays, files and callbacks, whoever still holds this job."""
        self._call.abandon()
        self._process.abandon()
        self._request = None
        self._onFinished = self._onFailed = self._onCancelled = ignore
        removeFolder(self._folder)


def _tellChoice(event: dict[str, Any], onChoice: OnChoice) -> None:
    if event["event"] == "quality":
        onChoice(event["quality"], event["seconds"])


# These import SimpleITK, which takes a quarter of a second: not when Slicer starts, and not on the main thread.
def _write(path: Path, arrayKji: np.ndarray, ijkToWorld: np.ndarray) -> None:
    from ..formats.volumes import write_volume

    write_volume(path, arrayKji, ijkToWorld)


def _readFiles(folder: Path, withConfidence: bool) -> Result:
    from ..formats.volumes import read_volume

    labels = read_volume(folder / LABELS).array_kji
    confidence = read_volume(folder / CONFIDENCE).array_kji if withConfidence else None
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return labels, confidence, report["segmented"][0]


def startSegment(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    *,
    model: str = DEFAULT_MODEL,
    quality: str = BEST,
    device: str = "auto",
    roiNode: slicer.vtkMRMLMarkupsROINode | None = None,
    samCheckpoint: str | None = None,
    confidenceMap: bool = False,
    onProgress: OnProgress = ignore,
    onChoice: OnChoice = ignore,
    onFinished: Callable[[slicer.vtkMRMLSegmentationNode], None] = lambda node: None,
    onFailed: Callable[[str], None] = logger.error,
    onCancelled: Callable[[], None] = lambda: None,
) -> SegmentationJob:
    """Segment in a child process and return at once; keep the job to cancel it. Raises an error of `errors.py`.

    onChoice(quality, seconds) is called with `quality` "auto", before it computes: what was chosen, and how long it is
    expected to take. One of onFinished(segmentation node), onFailed(message), onCancelled() is called at the end. All
    are called on the main thread. The scene is untouched until the end, and after the two last ones too. Other
    parameters: as `segment`.
    """
    request = Request.make(
        volumeNode,
        segmentationNode,
        model=model,
        quality=quality,
        device=device,
        roiNode=roiNode,
        samCheckpoint=samCheckpoint,
        confidenceMap=confidenceMap,
    )
    return SegmentationJob(
        request,
        onProgress=onProgress,
        onChoice=onChoice,
        onFinished=onFinished,
        onFailed=onFailed,
        onCancelled=onCancelled,
    )
