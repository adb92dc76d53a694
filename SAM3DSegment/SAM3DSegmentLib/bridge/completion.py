"""The completion of a painting in a child process: the slices that nobody painted are filled from those around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..base.errors import InputError, Sam3dError
from ..card import UNKNOWN, Label
from ..formats.delivered import Drawn
from ..formats.painted import EMPTY
from ..formats.repainted import Repainted, find_repainted
from ..formats.segments import EMPTY as EMPTY_NAME
from ..formats.segments import IGNORE, NO_STRUCTURES, name_key
from ..model_store import find_model, read_card
from . import preferences
from .scene import volumes
from .scene.edits import ReplaceError, whyOfOther
from .scene.painting import copyCompleted, isOnlyPainted, writeCompletion
from .scene.segmentations import countVoxels, readDelivered, readMasks
from .scene.undo import undoable

VOLUME, PAINTED, COMPLETED = "volume.nrrd", "painted.seg.nrrd", "completed.seg.nrrd"
Result = tuple[np.ndarray, Drawn]  # labels on the volume's grid, and the slices that were painted so far


@dataclass(frozen=True)
class CompletionRequest:
    """A painting to be completed: the Work of the command `complete`, for a SceneJob.

    Nodes are kept by ID: they may be removed from the scene meanwhile. imageTime: when the volume's voxels were
    modified last. arrayKji and ijkToWorld: the volume; labelsKji: what is painted on its grid, uint8, where the segment
    `segmentIds[n]` is `labels[n]`, of the value n + 1. modelPath: of a model of these labels, if one is chosen.
    delivered: by label value, the notes of segments that were delivered before, and `repainted` what was changed since;
    none for a painting. isCopied: whether the result
    goes into a new segmentation.
    """

    volumeId: str
    imageTime: int
    segmentationId: str
    segmentIds: tuple[str, ...]
    labels: tuple[Label, ...]
    arrayKji: np.ndarray
    ijkToWorld: np.ndarray
    labelsKji: np.ndarray
    modelPath: Path | None
    device: str
    delivered: Mapping[int, str]
    repainted: Repainted | None
    isCopied: bool = False

    @classmethod
    def make(
        cls,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        model: str,
        device: str,
    ) -> CompletionRequest:
        """`model` is used if its labels are those that are painted. Raises InputError if this cannot be completed."""
        if reason := whyOfOther(segmentationNode, volumeNode):
            raise InputError(_("{reason}; choose that volume, or another segmentation.").format(reason=reason))
        volume = volumes.readVolume(volumeNode)
        masks = _paintedMasks(volumeNode, segmentationNode)
        segments = [segmentationNode.GetSegmentation().GetSegment(segmentId) for segmentId in masks]
        labels = tuple(_labelOf(segment, number + 1) for number, segment in enumerate(segments))
        labelsKji = _joined(masks)
        notes = {label.value: readDelivered(segment) for label, segment in zip(labels, segments)}
        delivered = {} if isOnlyPainted(segmentationNode) else {value: note for value, note in notes.items() if note}
        filled = tuple(label for label in labels if not delivered or label.value in delivered)
        return cls(
            volumeId=volumeNode.GetID(),
            imageTime=volumeNode.GetImageData().GetMTime(),
            segmentationId=segmentationNode.GetID(),
            segmentIds=tuple(masks),
            labels=labels,
            arrayKji=volume.arrayKji,
            ijkToWorld=volume.ijkToWorld,
            labelsKji=labelsKji,
            modelPath=_modelFor(filled, model),
            device=device,
            delivered=delivered,
            repainted=_repainted(labelsKji, labels, delivered, segmentationNode.GetName()) if delivered else None,
        )

    def arguments(self) -> list[str]:
        arguments = ["complete", VOLUME, PAINTED, "-o", COMPLETED, "--progress", "json", "--device", self.device]
        if self.modelPath is not None:
            arguments += ["--model", str(self.modelPath)]
            if checkpoint := preferences.samCheckpoint(read_card(self.modelPath).encoder.name):
                arguments += ["--sam-checkpoint", checkpoint]
        return arguments + preferences.remoteOption(preferences.remote())

    # These import SimpleITK, which takes a quarter of a second: not when Slicer starts, and not on the main thread.
    def writeFiles(self, folder: Path) -> None:
        from ..formats.label_maps import write_labels
        from ..formats.volumes import Volume, write_volume

        write_volume(folder / VOLUME, self.arrayKji, self.ijkToWorld)
        source = Volume(self.arrayKji, self.ijkToWorld, folder / VOLUME)
        write_labels(folder / PAINTED, self.labelsKji, source, self.labels, delivered=self.delivered)

    def readFiles(self, folder: Path) -> Result:
        from ..formats.label_maps import read_label_map
        from ..formats.painted import find_painted

        completed = read_label_map(folder / COMPLETED)
        if completed.layers.shape[1:] != self.labelsKji.shape:
            raise InputError("the completed segmentation is not on the volume's grid; please report it.")
        valueOf = {name_key(label.name): label.value for label in self.labels}
        labelsKji = np.zeros_like(self.labelsKji)
        for segment in completed.present():
            labelsKji[completed.layers[segment.layer] == segment.value] = valueOf.get(segment.key, 0)
        isIgnored = self.labelsKji == valueOf.get(IGNORE, UNKNOWN)
        labelsKji[isIgnored] = 0  # it is filled, too, and would overlap with the segment that says that nobody knows
        if self.repainted is not None:
            return labelsKji, self.repainted.drawn
        painted = find_painted(np.where(isIgnored, UNKNOWN, self.labelsKji))
        return labelsKji, {painted.axis: painted.numbers} if painted is not None else {}

    def deliver(self, result: Result) -> slicer.vtkMRMLSegmentationNode:
        """Write the result into the scene; InputError if its nodes were removed or changed meanwhile.

        Raises ReplaceError rather than replace segments that were edited meanwhile.
        """
        volumeNode = slicer.mrmlScene.GetNodeByID(self.volumeId)
        segmentationNode = slicer.mrmlScene.GetNodeByID(self.segmentationId)
        if volumeNode is None or segmentationNode is None:
            raise InputError("the volume or the segmentation was removed from the scene meanwhile; complete again.")
        if volumes.isOtherImage(volumeNode, self.imageTime, self.arrayKji, self.ijkToWorld):
            raise InputError(
                f"the image or the place of {volumeNode.GetName()!r} was changed meanwhile; complete again."
            )
        labelsKji, drawn = result
        structures = self._structures()
        masks = {i: (labelsKji == label.value).astype(np.uint8) for i, label in structures.items()}
        added = [i for i, label in structures.items() if self.delivered and label.value not in self.delivered]
        if self.isCopied:
            return copyCompleted(masks, drawn, volumeNode, segmentationNode, structures, added)
        if self._isEdited(volumeNode, segmentationNode):
            raise ReplaceError(_("segmentation {name!r} was edited meanwhile").format(name=segmentationNode.GetName()))
        with undoable(segmentationNode):
            writeCompletion(masks, drawn, volumeNode, segmentationNode, added)
        return segmentationNode

    def intoNewSegmentation(self) -> CompletionRequest:
        return replace(self, isCopied=True)

    def _structures(self) -> dict[str, Label]:
        return {i: label for i, label in zip(self.segmentIds, self.labels) if name_key(label.name) not in NO_STRUCTURES}

    def _isEdited(
        self, volumeNode: slicer.vtkMRMLScalarVolumeNode, segmentationNode: slicer.vtkMRMLSegmentationNode
    ) -> bool:
        """Whether other voxels, or other segments, are painted now."""
        try:
            masks = _paintedMasks(volumeNode, segmentationNode)
        except InputError:  # as of segments that overlap now
            return True
        return tuple(masks) != self.segmentIds or not np.array_equal(_joined(masks), self.labelsKji)


def _paintedMasks(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, segmentationNode: slicer.vtkMRMLSegmentationNode
) -> dict[str, np.ndarray]:
    """Of the segments with voxels, by their ID. Raises InputError where they would not come back as they are."""
    masks = readMasks(volumeNode, segmentationNode, list(segmentationNode.GetSegmentation().GetSegmentIDs()))
    for segmentId, mask in masks.items():
        if countVoxels(segmentationNode, segmentId) != np.count_nonzero(mask):
            raise InputError(
                _(
                    "segment {name!r} is not on the voxels of {volume!r}; choose the volume that it was drawn on."
                ).format(
                    name=segmentationNode.GetSegmentation().GetSegment(segmentId).GetName(), volume=volumeNode.GetName()
                )
            )
    return masks


def _joined(masks: dict[str, np.ndarray]) -> np.ndarray:
    """One label map (K, J, I) uint8 of masks that do not overlap; the values are 1, 2, ... in their order."""
    labelsKji = np.zeros_like(next(iter(masks.values())))
    for number, mask in enumerate(masks.values()):
        labelsKji[mask > 0] = number + 1
    return labelsKji


def _repainted(labelsKji: np.ndarray, labels: tuple[Label, ...], delivered: Mapping[int, str], name: str) -> Repainted:
    """As the command finds it, so that the question can name it. Raises InputError where it would."""
    empty = [label.value for label in labels if name_key(label.name) == EMPTY_NAME]
    return find_repainted(np.where(np.isin(labelsKji, empty), EMPTY, labelsKji).astype(np.uint8), delivered, repr(name))


def _labelOf(segment: slicer.vtkSegment, value: int) -> Label:
    red, green, blue = (round(255 * component) for component in segment.GetColor())
    return Label(value, " ".join(segment.GetName().split()), (red, green, blue))


def _modelFor(labels: tuple[Label, ...], model: str) -> Path | None:
    """The file of the model if it has these labels and no others."""
    try:
        path = find_model(model)
        ofModel = {name_key(label.name) for label in read_card(path).labels}
    except Sam3dError:  # no other model is of use either
        return None
    return path if ofModel == {name_key(label.name) for label in labels} - set(NO_STRUCTURES) else None
