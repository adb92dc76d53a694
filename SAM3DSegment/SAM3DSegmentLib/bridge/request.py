"""What is to be segmented, and how: nodes of the scene as arrays, and the result back into the scene."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..base.errors import InputError
from ..card import ModelCard
from ..geometry import Crop
from ..model_store import DEFAULT_MODEL, find_model, read_card
from ..quality import BEST, check_quality
from . import preferences
from .scene import segmentations, volumes


@dataclass(frozen=True)
class Choices:
    """How to segment a volume.

    model: a name of `models list`, or the path of a model file.
    quality: a name of `quality.QUALITIES`, or "auto" for the best that takes at most a minute.
    device: "cpu", "cuda" or "mps"; "auto" for the fastest that there is.
    roiNode: the region to segment; None for the whole volume.
    samCheckpoint: the file of SAM's weights; None for the one chosen in the panel, else that of the weights folder.
    confidenceMap: whether the scene also gets a volume of the probability of each voxel's label, in percent.
    """

    model: str = DEFAULT_MODEL
    quality: str = BEST
    device: str = "auto"
    roiNode: slicer.vtkMRMLMarkupsROINode | None = None
    samCheckpoint: str | None = None
    confidenceMap: bool = False


@dataclass(frozen=True)
class Request:
    """A segmentation to be computed. Nodes are kept by ID: they may be removed from the scene meanwhile.

    arrayKji and ijkToWorld: the volume, or the part of it that `crop` takes. choices: checked, and without a node.
    """

    volumeId: str
    segmentationId: str | None
    card: ModelCard
    modelPath: Path
    arrayKji: np.ndarray
    ijkToWorld: np.ndarray
    crop: Crop | None
    choices: Choices

    @classmethod
    def make(
        cls,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode | None,
        choices: Choices,
    ) -> Request:
        """Raises an error of `errors.py` if this cannot be segmented."""
        if volumeNode is None:
            raise InputError("no volume is chosen; choose one.")
        path = find_model(choices.model)
        volume = volumes.readVolume(volumeNode)
        array, matrix, crop = volume.arrayKji, volume.ijkToWorld, None
        if choices.roiNode is not None:
            crop = Crop.around(volumes.roiCorners(choices.roiNode), matrix, array.shape)
            array, matrix = crop.take(array), crop.move(matrix)
        return cls(
            volumeId=volumeNode.GetID(),
            segmentationId=segmentationNode.GetID() if segmentationNode is not None else None,
            card=read_card(path),
            modelPath=path,
            arrayKji=array,
            ijkToWorld=matrix,
            crop=crop,
            choices=replace(
                choices,
                quality=check_quality(choices.quality),
                roiNode=None,
                samCheckpoint=choices.samCheckpoint or preferences.samCheckpoint(),
            ),
        )

    def deliver(
        self, labelsKji: np.ndarray, confidenceKji: np.ndarray | None, record: dict[str, Any]
    ) -> slicer.vtkMRMLSegmentationNode:
        """Write the result into the scene; InputError if its nodes were removed or changed meanwhile.

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
            "Misfits": " ".join(record["misfits"]),
            "Volume": volumeNode.GetName(),
        }
        confidences = {segment["name"]: segment["mean_confidence"] for segment in record["segments"]}
        segmentationNode = segmentations.writeSegments(
            labelsKji, self.card.labels, volumeNode, segmentationNode, provenance, confidences
        )
        if confidenceKji is not None:
            if self.crop is not None:
                confidenceKji = self.crop.put_back(confidenceKji)
            volumes.addConfidenceVolume(confidenceKji, volumeNode)
        return segmentationNode
