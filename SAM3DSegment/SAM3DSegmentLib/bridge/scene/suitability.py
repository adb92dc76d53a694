"""The facts of a volume node by which the core judges whether it suits a model."""

from __future__ import annotations

from collections.abc import Sequence

import slicer
from slicer.i18n import tr as _

from ...base.errors import Sam3dError
from ...card import ModelCard
from ...suitability import VolumeFacts, find_channel_misfits, looks_like_labels
from .channels import checkGrid
from .sequences import browserOf
from .volumes import readGrid, roiCorners


def findMisfits(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    card: ModelCard,
    roiNode: slicer.vtkMRMLMarkupsROINode | None,
    allFrames: bool = False,
    others: Sequence[slicer.vtkMRMLScalarVolumeNode | None] = (),
) -> list[str]:
    """Sentences for the user, most with a remedy; none if the volume suits the model.

    allFrames: whether the volume stands for all frames of its sequence. others: of the model's channels after the
    first, as far as they are chosen.
    """
    try:
        facts = [_readFacts(node, roiNode) if node is not None else None for node in (volumeNode, *others)]
        misfits = find_channel_misfits(card, facts, _)
        for node in filter(None, others):
            checkGrid(node, volumeNode)
    except Sam3dError as error:
        return [str(error)]
    if browserOf(volumeNode) is not None and not allFrames:
        return [_("This is one frame of a sequence; only the frame that is shown will be segmented."), *misfits]
    return misfits


def _readFacts(volumeNode: slicer.vtkMRMLScalarVolumeNode, roiNode: slicer.vtkMRMLMarkupsROINode | None) -> VolumeFacts:
    """Raises InputError as `readGrid`."""
    ijkToWorld, shapeKji = readGrid(volumeNode)
    least, greatest = volumeNode.GetImageData().GetScalarRange()
    isLabelMap = volumeNode.IsA("vtkMRMLLabelMapVolumeNode")
    return VolumeFacts(
        ijkToWorld,
        shapeKji,
        least,
        greatest,
        modality=dicomModality(volumeNode),
        region_ras=roiCorners(roiNode) if roiNode is not None else None,
        is_label_map=isLabelMap or looks_like_labels(slicer.util.arrayFromVolume(volumeNode), least, greatest),
        name=volumeNode.GetName(),
    )


def dicomModality(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The DICOM modality that the subject hierarchy stores for the volume ("CT", "MR"), else an empty text."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volumeNode)
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""
