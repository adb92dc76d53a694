"""Sequences of nodes, as of a beating heart: the frames of a volume out of one, their segmentations into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer

from ...base.errors import InputError
from ...geometry import Crop
from .volumes import ijkToRas, placeBeside, readGrid, roiCorners


def browserOf(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSequenceBrowserNode | None:
    """The browser that shows the frames of a sequence in this node; None if it is no frame of one."""
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    return next((browser for browser in browsers if browser.GetSequenceNode(volumeNode) is not None), None)


@dataclass(frozen=True)
class Frames:
    """The frames of a sequence: voxels (K, J, I) of each, which are the scene's own and not copied; of each when they
    were modified last; their common ijkToWorld; and the part of the grid that is taken of each, if not all.
    """

    arraysKji: tuple[np.ndarray, ...]
    imageTimes: tuple[int, ...]
    ijkToWorld: np.ndarray
    crop: Crop | None

    @classmethod
    def read(
        cls, volumeNode: slicer.vtkMRMLScalarVolumeNode, roiNode: slicer.vtkMRMLMarkupsROINode | None = None
    ) -> Frames:
        """Those of which the node shows one. Raises InputError if there are none, or they are on different grids."""
        browser = browserOf(volumeNode)
        if browser is None:
            raise InputError(f"volume {volumeNode.GetName()!r} is not a frame of a sequence; segment it alone.")
        ijkToWorld, shapeKji = readGrid(volumeNode)
        nodes = _nodesOf(browser.GetSequenceNode(volumeNode))
        for number, node in enumerate(nodes):
            image = node.GetImageData() if node.IsA("vtkMRMLScalarVolumeNode") else None
            isAlike = (
                image is not None
                and image.GetDimensions()[::-1] == shapeKji
                and image.GetNumberOfScalarComponents() == 1
                and np.allclose(ijkToRas(node), ijkToRas(volumeNode), atol=1e-6)
            )
            if not isAlike:
                raise InputError(
                    f"frame {number} of {volumeNode.GetName()!r} is on another grid than the one that is shown; "
                    "segment the frames one by one."
                )
        arrays = tuple(slicer.util.arrayFromVolume(node) for node in nodes)
        times = tuple(node.GetImageData().GetMTime() for node in nodes)
        if roiNode is None:
            return cls(arrays, times, ijkToWorld, None)
        crop = Crop.around(roiCorners(roiNode), ijkToWorld, shapeKji)
        return cls(tuple(map(crop.take, arrays)), times, crop.move(ijkToWorld), crop)

    def areThoseOf(self, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> bool:
        """Whether the node still shows these frames, in the same place."""
        browser = browserOf(volumeNode)
        nodes = _nodesOf(browser.GetSequenceNode(volumeNode)) if browser is not None else []
        images = [node.GetImageData() for node in nodes]
        if None in images or tuple(image.GetMTime() for image in images) != self.imageTimes:
            return False
        ijkToWorld = readGrid(volumeNode)[0]
        return np.array_equal(self.crop.move(ijkToWorld) if self.crop else ijkToWorld, self.ijkToWorld)


def addSequence(
    segmentationNodes: Sequence[slicer.vtkMRMLSegmentationNode], volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLSegmentationNode:
    """Put segmentations, one of each frame of a volume and in no scene, as a sequence beside it into its browser.

    Returns the node in which the browser shows the one of the present frame. What is painted there is kept when another
    frame is shown.
    """
    scene, browser = slicer.mrmlScene, browserOf(volumeNode)
    assert browser is not None
    frames = browser.GetSequenceNode(volumeNode)
    name = scene.GenerateUniqueName(f"{volumeNode.GetName()} segmentation")
    sequence = slicer.vtkMRMLSequenceNode()
    sequence.SetName(name)
    sequence.SetIndexName(frames.GetIndexName())
    sequence.SetIndexUnit(frames.GetIndexUnit())
    sequence.SetIndexType(frames.GetIndexType())
    for number, node in enumerate(segmentationNodes):
        node.SetName(name)
        sequence.SetDataNodeAtValue(node, frames.GetNthIndexValue(number))
    shown = None
    try:
        scene.AddNode(sequence)
        browser.AddSynchronizedSequenceNode(sequence)
        browser.SetSaveChanges(sequence, True)  # else a correction would be lost with the next frame
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        shown = browser.GetProxyNode(sequence)
        shown.CreateDefaultDisplayNodes()
        shown.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        placeBeside(shown, volumeNode)
    except BaseException:
        browser.RemoveSynchronizedSequenceNode(sequence.GetID())
        for node in (shown, sequence):
            if node is not None:
                scene.RemoveNode(node)
        raise
    return shown


def _nodesOf(sequence: slicer.vtkMRMLSequenceNode) -> list[slicer.vtkMRMLNode]:
    return [sequence.GetNthDataNode(number) for number in range(sequence.GetNumberOfDataNodes())]
