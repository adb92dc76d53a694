"""What is to be segmented, and how: nodes of the scene as arrays, and the result back into the scene."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from ..base.errors import InputError
from ..card import ModelCard
from ..geometry import AUTO_REGION, WHOLE_REGION, Crop
from ..model_store import DEFAULT_MODEL, find_model, read_card
from ..quality import BEST, check_quality
from . import preferences
from .scene import segmentations, volumes
from .scene.channels import ChannelArray, readChannels
from .scene.edits import ReplaceError, markDelivered, whyNotReplace
from .scene.undo import undoable


@dataclass(frozen=True)
class Choices:
    """How to segment a volume.

    model: a name of `models list`, or the path of a model file.
    quality: a name of `quality.QUALITIES`, or "auto" for the best that takes at most a minute.
    device: "cpu", "cuda" or "mps"; "auto" for the fastest that there is.
    region: "auto", "whole" or voxels "I0:I1,J0:J1,K0:K1", as for `inference.segment_volume`.
    roiNode: the region to segment, in place of `region`.
    remote: another computer to compute on, as `ssh` takes it, if the work is not done in this process; empty for this
    one, None for what was chosen in the panel.
    samCheckpoint: the file of SAM's weights; None for the one chosen in the panel, else that of the weights folder.
    confidenceMap: whether the scene also gets a volume of the probability of each voxel's label, in percent.
    overwrite: whether segments may be replaced that were drawn or edited by hand, or belong to another volume.
    allFrames: of a volume that is a frame of a sequence, segment all of them, into a new sequence of segmentations in
    the same sequence browser; only with `startSegment`.
    channels: for a model of several, by their names, the volumes of those after the first.
    """

    model: str = DEFAULT_MODEL
    quality: str = BEST
    device: str = "auto"
    region: str = AUTO_REGION
    roiNode: slicer.vtkMRMLMarkupsROINode | None = None
    samCheckpoint: str | None = None
    remote: str | None = None
    confidenceMap: bool = False
    overwrite: bool = False
    allFrames: bool = False
    channels: Mapping[str, slicer.vtkMRMLScalarVolumeNode | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A segmentation to be computed. Nodes are kept by ID: they may be removed from the scene meanwhile.

    imageTime: when the volume's voxels were modified last. arrayKji and ijkToWorld: the volume, or the part of it that
    `crop` takes; channels: those after it, likewise. choices: checked, and without a node.
    """

    volumeId: str
    imageTime: int
    segmentationId: str | None
    card: ModelCard
    modelPath: Path
    arrayKji: np.ndarray
    ijkToWorld: np.ndarray
    channels: tuple[ChannelArray, ...]
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
        else:
            crop = Crop.named(choices.region, array.shape)
        if crop is not None:
            array, matrix = crop.take(array), crop.move(matrix)
        card = read_card(path)
        channels = readChannels(card, volumeNode, choices.channels, crop)
        if segmentationNode is not None and not choices.overwrite:
            _refuseToReplace(segmentationNode, volumeNode, card)
        return cls(
            volumeId=volumeNode.GetID(),
            imageTime=volumeNode.GetImageData().GetMTime(),
            segmentationId=segmentationNode.GetID() if segmentationNode is not None else None,
            card=card,
            modelPath=path,
            arrayKji=array,
            ijkToWorld=matrix,
            channels=channels,
            crop=crop,
            choices=replace(
                choices,
                quality=check_quality(choices.quality),
                region=choices.region if crop is None else WHOLE_REGION,  # of what is left
                roiNode=None,
                remote=preferences.remote() if choices.remote is None else choices.remote,
                channels={},
                samCheckpoint=choices.samCheckpoint or preferences.samCheckpoint(card.encoder.name),
            ),
        )

    @property
    def arraysKji(self) -> tuple[np.ndarray, ...]:
        """Of all channels, in the order of the card."""
        return (self.arrayKji, *(channel.arrayKji for channel in self.channels))

    def deliver(
        self, labelsKji: np.ndarray, confidenceKji: np.ndarray | None, record: dict[str, Any]
    ) -> slicer.vtkMRMLSegmentationNode:
        """Write the result into the scene; InputError if its nodes were removed or changed meanwhile.

        Raises ReplaceError rather than replace segments that were edited, unless the choices have `overwrite`.
        With `confidenceKji`, uint8 in percent like the labels on the grid of `arrayKji`, the scene gets a volume of it.
        """
        volumeNode = slicer.mrmlScene.GetNodeByID(self.volumeId)
        segmentationNode = slicer.mrmlScene.GetNodeByID(self.segmentationId) if self.segmentationId else None
        if volumeNode is None or (self.segmentationId and segmentationNode is None):
            raise InputError("the volume or the segmentation was removed from the scene meanwhile; segment again.")
        if volumes.isOtherImage(volumeNode, self.imageTime, self.arrayKji, self.ijkToWorld, self.crop):
            raise InputError(
                f"the image or the place of {volumeNode.GetName()!r} was changed meanwhile; segment again."
            )
        if changed := [channel.name for channel in self.channels if channel.isChanged(self.crop)]:
            raise InputError(
                f"the volume of the channel {changed[0]!r} was changed or removed meanwhile; segment again."
            )
        if segmentationNode is not None and not self.choices.overwrite:
            _refuseToReplace(segmentationNode, volumeNode, self.card)
        if self.crop is not None:
            labelsKji = self.crop.put_back(labelsKji)
        provenance = provenanceOf(record, volumeNode, self.crop)
        confidences = {segment["name"]: segment["mean_confidence"] for segment in record["segments"]}
        with undoable(segmentationNode):
            segmentationNode = segmentations.writeSegments(
                labelsKji, self.card.labels, volumeNode, segmentationNode, provenance, confidences
            )
            markDelivered(segmentationNode, [label.name for label in self.card.labels])
        if confidenceKji is not None:
            if self.crop is not None:
                confidenceKji = self.crop.put_back(confidenceKji)
            volumes.addConfidenceVolume(confidenceKji, volumeNode)
        return segmentationNode

    def intoNewSegmentation(self) -> Request:
        """The same, but for where the result goes."""
        return replace(self, segmentationId=None)


def provenanceOf(
    record: dict[str, Any], volumeNode: slicer.vtkMRMLScalarVolumeNode, crop: Crop | None
) -> dict[str, Any]:
    """What a segmentation notes of how it was made; crop: the part of the volume that the record is of."""
    return {
        "Model": record["model"],
        "ModelSha256": record["model_sha256"],
        "Versions": json.dumps(record["versions"]),
        "Quality": record["quality"],
        "Region": str(crop) if crop is not None else " ".join(record["boxes"]),
        "Device": record["device"],
        "Precision": record["precision"],
        "Seconds": record["seconds"],
        "Date": record["date"],
        "Misfits": " ".join(record["misfits"]),
        "Volume": volumeNode.GetName(),
    }


def _refuseToReplace(
    segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLScalarVolumeNode, card: ModelCard
) -> None:
    if reason := whyNotReplace(segmentationNode, volumeNode, [label.name for label in card.labels]):
        raise ReplaceError(f"{reason}; choose another segmentation, or give overwrite=True.")
