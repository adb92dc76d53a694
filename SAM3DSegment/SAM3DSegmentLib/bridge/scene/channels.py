"""The volumes of the scene that are the channels of one case, besides the first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from ...base.errors import InputError
from ...card import ModelCard
from ...channel import channels_called, is_sure, match_channels, words_of
from ...geometry import Crop, describe_grid_difference
from .volumes import isOtherImage, readGrid, readVolume

_NAMES, _ROLE = "channels", "channel"  # of the parameter node: names as JSON; references to the nodes, by number


@dataclass(frozen=True)
class ChannelArray:
    """A channel by its name; the node is kept by ID. imageTime: when its voxels were modified last."""

    name: str
    volumeId: str
    imageTime: int
    arrayKji: np.ndarray
    ijkToWorld: np.ndarray

    def isChanged(self, crop: Crop | None) -> bool:
        """Whether the node was removed, or its image or place is another one now."""
        node = slicer.mrmlScene.GetNodeByID(self.volumeId)
        return node is None or isOtherImage(node, self.imageTime, self.arrayKji, self.ijkToWorld, crop)


def readChannels(
    card: ModelCard,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    nodes: Mapping[str, slicer.vtkMRMLScalarVolumeNode | None],
    crop: Crop | None,
) -> tuple[ChannelArray, ...]:
    """The channels of the model but the first, which is `volumeNode`, or the part of them that `crop` takes.

    Raises InputError for one that is missing, too many, or not on the grid of `volumeNode`.
    """
    wanted = [channel.name for channel in card.channels]
    chosen = {name: node for name, node in nodes.items() if node is not None}
    missing = [name for name in wanted[1:] if name not in chosen]
    surplus = [name for name in chosen if name not in wanted[1:]]
    if missing or surplus:
        problem = _("choose a volume for the channel {name!r}") if missing else _("leave out the channel {name!r}")
        reads = ", ".join(wanted) or _("one channel")
        raise InputError(
            _("{problem}; the model {model!r} reads {names}.").format(
                problem=problem.format(name=(missing or surplus)[0]), model=card.name, names=reads
            )
        )
    if reason := whyNotDifferent(volumeNode, chosen):
        raise InputError(reason)
    found = []
    for name in wanted[1:]:
        node = chosen[name]
        checkGrid(node, volumeNode)
        read = readVolume(node)
        array, matrix = read.arrayKji, read.ijkToWorld
        if crop is not None:
            array, matrix = crop.take(array), crop.move(matrix)
        found.append(ChannelArray(name, node.GetID(), node.GetImageData().GetMTime(), array, matrix))
    return tuple(found)


def whyNotDifferent(
    volumeNode: slicer.vtkMRMLScalarVolumeNode | None, nodes: Mapping[str, slicer.vtkMRMLScalarVolumeNode | None]
) -> str:
    """Why these cannot be the channels besides `volumeNode`: one is there twice; empty if none is."""
    seen = [volumeNode]
    for name, node in nodes.items():
        if node is not None and node in seen:
            return _(
                "the volume {volume!r} is chosen for the channel {name!r} and for another; choose one for each."
            ).format(volume=node.GetName(), name=name)
        seen.append(node)
    return ""


def checkGrid(node: slicer.vtkMRMLScalarVolumeNode, firstNode: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Raises InputError unless a volume is on the grid of the first one, in world coordinates."""
    (matrix, shape), (firstMatrix, firstShape) = readGrid(node), readGrid(firstNode)
    if apart := describe_grid_difference(firstShape, firstMatrix, shape, matrix):
        raise InputError(
            _(
                "the volume {name!r} is not on the grid of {first!r}: {apart}; resample it, for example with Resample "
                "Scalar/Vector/DWI Volume."
            ).format(name=node.GetName(), first=firstNode.GetName(), apart=apart)
        )


def nodesOfChannels(
    names: Sequence[str],
    volumeNode: slicer.vtkMRMLScalarVolumeNode | None,
    nodes: Iterable[slicer.vtkMRMLScalarVolumeNode],
) -> dict[str, slicer.vtkMRMLScalarVolumeNode | None]:
    """For each channel the only node that is called so, as `channel.match_channels` has it; None if there is none such.

    volumeNode: that of the first channel. The others are then of the same case: of the same DICOM study, or, without
    studies, with the same name but for that of the channel. Another patient's volume is never taken.
    """
    candidates = [node for node in nodes if volumeNode is None or _isOfOneCase(names, volumeNode, node)]
    if (
        volumeNode is not None
        and len(alike := [node for node in candidates if _isCalledAlike(names, volumeNode, node)]) > 1
    ):
        candidates = alike
    found = match_channels(names, [[node.GetName()] for node in candidates])
    return {name: candidates[found[name][0]] if is_sure(name, found) else None for name in names}


def _isOfOneCase(
    names: Sequence[str], one: slicer.vtkMRMLScalarVolumeNode, other: slicer.vtkMRMLScalarVolumeNode
) -> bool:
    studies = _studyOf(one), _studyOf(other)
    if all(studies):
        return studies[0] == studies[1]
    return one is other or _isCalledAlike(names, one, other)


def _isCalledAlike(
    names: Sequence[str], one: slicer.vtkMRMLScalarVolumeNode, other: slicer.vtkMRMLScalarVolumeNode
) -> bool:
    """Whether two nodes have one name, but for those of channels."""
    words = [_wordsWithout(channels_called([node.GetName()], names), node.GetName()) for node in (one, other)]
    return words[0] == words[1]


def _wordsWithout(channels: Iterable[str], name: str) -> list[str]:
    left = words_of(name)
    for channel in channels:
        words = words_of(channel)
        starts = [k for k in range(len(left)) if left[k : k + len(words)] == words]
        for start in reversed(starts):
            del left[start : start + len(words)]
    return left


def _studyOf(node: slicer.vtkMRMLScalarVolumeNode) -> int:
    """The item of the DICOM study in which a volume is; 0 for none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelStudy()
    return hierarchy.GetItemAncestorAtLevel(item, level) if item else 0


def keepChoice(
    parameterNode: slicer.vtkMRMLScriptedModuleNode,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    nodes: Mapping[str, slicer.vtkMRMLScalarVolumeNode | None],
) -> None:
    """Save with the scene which volumes are the channels besides `volumeNode`, by name."""
    if keptChoice(parameterNode, volumeNode) == dict(nodes):
        return
    with slicer.util.NodeModify(parameterNode):
        parameterNode.SetParameter(_NAMES, json.dumps(list(nodes)))
        for number, node in enumerate((volumeNode, *nodes.values())):
            parameterNode.SetNodeReferenceID(f"{_ROLE}{number}", node.GetID() if node is not None else None)


def keptChoice(
    parameterNode: slicer.vtkMRMLScriptedModuleNode, volumeNode: slicer.vtkMRMLScalarVolumeNode | None
) -> dict[str, slicer.vtkMRMLScalarVolumeNode | None]:
    """What `keepChoice` has saved, if it was for this volume; else empty."""
    text = parameterNode.GetParameter(_NAMES)
    if not text or volumeNode is None or parameterNode.GetNodeReference(f"{_ROLE}0") is not volumeNode:
        return {}
    return {name: parameterNode.GetNodeReference(f"{_ROLE}{number}") for number, name in enumerate(json.loads(text), 1)}
