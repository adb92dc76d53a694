"""Volume nodes and regions of interest: grid and voxels out of the scene, a confidence volume into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk

from ...base.errors import InputError
from ...geometry import Crop


@dataclass(frozen=True)
class VolumeArray:
    """A volume node's voxels (K, J, I), copied, and the 4x4 matrix from voxel indices to world RAS in mm.

    The matrix includes the volume's parent transform, so that a model sees the patient and not the scanner's frame. It
    is made rigid where that transform shears: file formats cannot store sheared axes, and slicing does not need them.
    """

    arrayKji: np.ndarray
    ijkToWorld: np.ndarray


def readVolume(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> VolumeArray:
    """Raises InputError for an empty, colour or vector volume, or one under a transform that is not linear."""
    matrix, _shape = readGrid(volumeNode)
    return VolumeArray(slicer.util.arrayFromVolume(volumeNode).copy(), matrix)


def readGrid(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> tuple[np.ndarray, tuple[int, int, int]]:
    """ijkToWorld and the shape (K, J, I), without reading voxels; errors as `readVolume`."""
    name, image = volumeNode.GetName(), volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise InputError(f"volume {name!r} is empty; load its image first.")
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            f"volume {name!r} has {components} values per voxel (colour or vectors); choose a scalar volume."
        )
    ijkToWorld = ijkToRas(volumeNode)
    transformNode = volumeNode.GetParentTransformNode()
    if transformNode is not None:
        if not transformNode.IsTransformToWorldLinear():
            raise InputError(f"volume {name!r} is under a transform that is not linear; harden the transform first.")
        toWorld = vtk.vtkMatrix4x4()
        transformNode.GetMatrixTransformToWorld(toWorld)
        ijkToWorld = slicer.util.arrayFromVTKMatrix(toWorld) @ ijkToWorld
    i, j, k = image.GetDimensions()
    return _withRigidAxes(ijkToWorld), (k, j, i)


def isOtherImage(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    imageTime: int,
    arrayKji: np.ndarray,
    ijkToWorld: np.ndarray,
    crop: Crop | None = None,
) -> bool:
    """Whether a volume's image or place is another one than it was when these were read; outside of `crop` none counts.

    imageTime: when its voxels were modified last at that time.
    """
    nowToWorld, shapeKji = readGrid(volumeNode)
    if crop is not None:
        nowToWorld = crop.move(nowToWorld)
    if shapeKji != (crop.shape_kji if crop is not None else arrayKji.shape):
        return True
    if not np.array_equal(nowToWorld, ijkToWorld):
        return True
    if volumeNode.GetImageData().GetMTime() == imageTime:
        return False
    nowKji = slicer.util.arrayFromVolume(volumeNode)
    if crop is not None:
        nowKji = crop.take(nowKji)
    return not np.array_equal(nowKji, arrayKji, equal_nan=True)


def ijkToRas(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """4x4 matrix from voxel indices to the frame of the volume's parent transform, in mm."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def shownImages() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The scene's volumes that users see, without label maps."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if not node.GetHideFromEditors() and not node.IsA("vtkMRMLLabelMapVolumeNode")]


def roiCorners(roiNode: slicer.vtkMRMLMarkupsROINode) -> np.ndarray:
    """The eight corners (8, 3) of a markups ROI in world RAS, in mm; InputError for one that is not drawn yet."""
    if min(roiNode.GetSize()) <= 0:
        raise InputError(f"region {roiNode.GetName()!r} has no size yet; draw it in a slice view.")
    half = np.array(roiNode.GetSize()) / 2
    signs = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    objectToWorld = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix())
    return (np.c_[signs * half, np.ones(8)] @ objectToWorld.T)[:, :3]


def addConfidenceVolume(
    confidenceKji: np.ndarray, volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLScalarVolumeNode:
    """A new scalar volume of the confidence in percent, on the grid and under the transform of `volumeNode`."""
    name = slicer.mrmlScene.GenerateUniqueName(f"{volumeNode.GetName()} confidence")
    confidenceNode = slicer.util.addVolumeFromArray(confidenceKji, ijkToRAS=ijkToRas(volumeNode), name=name)
    confidenceNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    placeBeside(confidenceNode, volumeNode)
    return confidenceNode


def placeBeside(node: slicer.vtkMRMLNode, neighbour: slicer.vtkMRMLNode) -> None:
    """Move a node under the study or folder of its neighbour in the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, besideItem = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(neighbour)
    if item and besideItem:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(besideItem))


def _withRigidAxes(matrix: np.ndarray) -> np.ndarray:
    """The nearest 4x4 matrix with orthogonal axes of the same spacing (polar decomposition); the same if they are."""
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    directions = matrix[:3, :3] / spacing
    if np.allclose(directions.T @ directions, np.eye(3), atol=1e-6):
        return matrix
    left, _, right = np.linalg.svd(directions)
    rigid = matrix.copy()
    rigid[:3, :3] = left @ right * spacing
    return rigid
