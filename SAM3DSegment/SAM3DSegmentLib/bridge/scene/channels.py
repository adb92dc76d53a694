"""The volumes of the scene that are the channels of one case, besides the first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from ...base.errors import InputError
from ...card import ModelCard
from ...geometry import Crop, describe_grid_difference
from .volumes import isOtherImage, readGrid, readVolume


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


def nodeOfChannel(name: str, nodes: Iterable[slicer.vtkMRMLScalarVolumeNode]) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The only node whose name is that of the channel, or has it as a word of its own; None if there is none such."""
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", re.IGNORECASE)
    found = [node for node in nodes if word.search(node.GetName())]
    named = [node for node in found if node.GetName().casefold() == name.casefold()]
    return (named or found)[0] if len(named or found) == 1 else None
