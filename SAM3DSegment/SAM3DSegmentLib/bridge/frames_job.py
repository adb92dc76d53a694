"""All frames of a sequence, segmented in one child process; the result is a sequence in the same browser."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..base.errors import InputError
from ..card import ModelCard
from ..geometry import WHOLE_REGION
from ..model_store import find_model, read_card
from ..quality import check_quality
from . import preferences
from .job import Callbacks, SceneJob, computingArguments
from .request import Choices, provenanceOf
from .scene.edits import markDelivered
from .scene.segmentations import fillSegments, referToVolume, writeProvenance
from .scene.sequences import Frames, addSequence
from .scene.volumes import ijkToRas

FRAMES, RESULTS, REPORT = "frames", "labels", "report.json"
Result = tuple[list[np.ndarray], list[dict[str, Any]]]  # of each frame: labels, record of how they were made


@dataclass(frozen=True)
class FramesRequest:
    """The Work of the command `segment` on a folder with a volume of each frame."""

    volumeId: str
    card: ModelCard
    modelPath: Path
    frames: Frames
    choices: Choices

    @classmethod
    def make(cls, volumeNode: slicer.vtkMRMLScalarVolumeNode, choices: Choices) -> FramesRequest:
        """Raises an error of `errors.py` if this cannot be segmented."""
        if volumeNode is None:
            raise InputError("no volume is chosen; choose one.")
        if choices.confidenceMap:
            raise InputError("a confidence map is made of one frame only; leave it out for all frames.")
        path = find_model(choices.model)
        card = read_card(path)
        if len(card.inputs) > 1:
            raise InputError(
                f"the model {card.name!r} reads {len(card.inputs)} channels, and all frames are of one; segment the "
                "frames one by one."
            )
        return cls(
            volumeId=volumeNode.GetID(),
            card=card,
            modelPath=path,
            frames=Frames.read(volumeNode, choices.roiNode),
            choices=replace(
                choices,
                quality=check_quality(choices.quality),
                region=choices.region if choices.roiNode is None else WHOLE_REGION,  # of what is left
                roiNode=None,
                channels={},
                samCheckpoint=choices.samCheckpoint or preferences.samCheckpoint(card.encoder.name),
            ),
        )

    def arguments(self) -> list[str]:
        computing = computingArguments(self.choices, self.modelPath)
        return ["segment", FRAMES, "-o", RESULTS, "--report", REPORT, "--progress", "json", *computing]

    # These import SimpleITK, which takes a quarter of a second: not when Slicer starts, and not on the main thread.
    def writeFiles(self, folder: Path) -> None:
        from ..formats.volumes import write_volume

        (folder / FRAMES).mkdir()
        for number, array in enumerate(self.frames.arraysKji):
            write_volume(folder / FRAMES / f"{number:06d}.nrrd", array, self.frames.ijkToWorld)

    def readFiles(self, folder: Path) -> Result:
        from ..formats.volumes import read_volume

        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        records = sorted(report["segmented"], key=lambda record: record["input"])
        return [read_volume(folder / record["output"]).array_kji for record in records], records

    def deliver(self, result: Result) -> slicer.vtkMRMLSegmentationNode:
        """A new sequence of segmentations into the browser of the volume; the node that shows one of them.

        Raises InputError, and leaves the scene as it is, if the frames were removed or changed meanwhile.
        """
        volumeNode = slicer.mrmlScene.GetNodeByID(self.volumeId)
        if volumeNode is None:
            raise InputError("the volume was removed from the scene meanwhile; segment again.")
        if not self.frames.areThoseOf(volumeNode):
            raise InputError(
                f"the frames or the place of {volumeNode.GetName()!r} were changed meanwhile; segment again."
            )
        shown = addSequence([self._segmentation(volumeNode, *frame) for frame in zip(*result)], volumeNode)
        writeProvenance(shown, provenanceOf(result[1][-1], volumeNode, self.frames.crop))
        referToVolume(shown, volumeNode)
        return shown

    def intoNewSegmentation(self) -> FramesRequest:
        return self  # it always is one

    def _segmentation(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode, labelsKji: np.ndarray, record: dict[str, Any]
    ) -> slicer.vtkMRMLSegmentationNode:
        """Of one frame, in no scene."""
        if self.frames.crop is not None:
            labelsKji = self.frames.crop.put_back(labelsKji)
        node = slicer.vtkMRMLSegmentationNode()
        confidences = {segment["name"]: segment["mean_confidence"] for segment in record["segments"]}
        fillSegments(node, labelsKji, self.card.labels, ijkToRas(volumeNode), confidences)
        markDelivered(node, [label.name for label in self.card.labels])
        writeProvenance(node, provenanceOf(record, volumeNode, self.frames.crop))
        referToVolume(node, volumeNode)
        return node


def startAllFrames(volumeNode: slicer.vtkMRMLScalarVolumeNode, choices: Choices, callbacks: Callbacks) -> SceneJob:
    request = FramesRequest.make(volumeNode, choices)
    whole = _ofAllFrames(callbacks.onProgress, len(request.frames.arraysKji))
    return SceneJob(request, replace(callbacks, onProgress=whole))


def _ofAllFrames(onProgress: Callable[..., None], count: int) -> Callable[..., None]:
    """The progress of each frame, which begins again with the next, as that of the whole."""
    finished, last, began = 0, 0, time.monotonic()

    def report(stage: str, done: int, total: int, secondsToGo: float | None) -> None:
        nonlocal finished, last
        if done < last:
            finished += 1
        last = done
        ofAll = (finished * total + done) / (count * total)
        if ofAll > 0:
            secondsToGo = (time.monotonic() - began) * (1 - ofAll) / ofAll
        onProgress(stage, finished * total + done, count * total, secondsToGo)

    return report
