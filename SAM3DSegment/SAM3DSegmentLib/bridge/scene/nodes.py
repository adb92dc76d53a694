"""MRML nodes in, arrays out, and back. Everything here runs on the main thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ...base.errors import InputError
from ...card import Label

ATTRIBUTE_PREFIX = "SAM3DSegment."
CONFIDENCE_TAG = "SAM3DSegment.Confidence"
BINARY_LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


SEGMENT_CHANGES = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)
VOXEL_CHANGES = (
    slicer.vtkSegmentation.SourceRepresentationModified,
    slicer.vtkSegmentation.RepresentationModified,
)


class SegmentationWatch:
    """onChanged() is called at these events of one segmentation at a time.

    addObserver and removeObserver are those of VTKObservationMixin.
    """

    def __init__(
        self,
        addObserver: Callable[..., Any],
        removeObserver: Callable[..., Any],
        events: tuple[int, ...],
        onChanged: Callable[[], None],
    ) -> None:
        self._addObserver = addObserver
        self._removeObserver = removeObserver
        self._events = events
        self._onChanged = onChanged
        self._node: slicer.vtkMRMLSegmentationNode | None = None

    def watch(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """This one from now on, or none."""
        if node is self._node:
            return
        for observe, observed in ((self._removeObserver, self._node), (self._addObserver, node)):
            if observed is not None:
                for event in self._events:
                    observe(observed.GetSegmentation(), event, self._changed)
        self._node = node

    def _changed(self, caller: Any, event: Any) -> None:
        self._onChanged()


@dataclass(frozen=True)
class VolumeArray:
    """A volume node's voxels (K, J, I), copied, and the 4x4 matrix from voxel indices to world RAS in mm.

    The matrix has the volume's parent transform in it, so that a model sees the patient and not the scanner's frame. It
    is made rigid where that transform shears: file formats hold no sheared axes, and slicing needs none.
    """

    arrayKji: np.ndarray
    ijkToWorld: np.ndarray


def readVolume(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> VolumeArray:
    """Raises InputError for an empty, colour or vector volume, or one under a transform that is not linear."""
    matrix, _shape = readGrid(volumeNode)
    return VolumeArray(slicer.util.arrayFromVolume(volumeNode).copy(), matrix)


def readGrid(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> tuple[np.ndarray, tuple[int, int, int]]:
    """ijkToWorld and the shape (K, J, I), without touching voxels; errors as `readVolume`."""
    name, image = volumeNode.GetName(), volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise InputError(f"volume {name!r} is empty; load its image first.")
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            f"volume {name!r} has {components} values per voxel (colour or vectors); choose a scalar volume."
        )
    ijkToRas = _toArray(_ijkToRasMatrix(volumeNode))
    transformNode = volumeNode.GetParentTransformNode()
    if transformNode is not None:
        if not transformNode.IsTransformToWorldLinear():
            raise InputError(f"volume {name!r} is under a transform that is not linear; harden the transform first.")
        toWorld = vtk.vtkMatrix4x4()
        transformNode.GetMatrixTransformToWorld(toWorld)
        ijkToRas = _toArray(toWorld) @ ijkToRas
    i, j, k = image.GetDimensions()
    return _withRigidAxes(ijkToRas), (k, j, i)


def writeSegments(
    labelsKji: np.ndarray,
    labels: tuple[Label, ...],
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None,
    provenance: Mapping[str, Any],
    confidences: Mapping[str, float | None],
) -> slicer.vtkMRMLSegmentationNode:
    """Put each label into the segment of its name, on the volume's grid, transform and place in the hierarchy.

    Without a segmentation node a new one is made. In an existing one segments of other names are left as they are,
    and so is its transform, which they depend on; the new voxels are brought into its frame.
    """
    from ...formats.segments import terminology_entry  # brings SimpleITK, which takes a quarter of a second

    keepsFrame = segmentationNode is not None and segmentationNode.GetSegmentation().GetNumberOfSegments() > 0
    ijkToSegmentation = _toArray(_ijkToRasMatrix(volumeNode))
    if keepsFrame:
        ijkToSegmentation = _transformBetween(volumeNode, segmentationNode) @ ijkToSegmentation
    if segmentationNode is None:
        name = slicer.mrmlScene.GenerateUniqueName(f"{volumeNode.GetName()} segmentation")
        segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    wasModifying = segmentationNode.StartModify()
    try:
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        segmentationNode.SetNodeReferenceID(
            slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole(), volumeNode.GetID()
        )
        if not keepsFrame:
            segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        segmentation = segmentationNode.GetSegmentation()
        for label in labels:
            segmentId = segmentation.GetSegmentIdBySegmentName(label.name) or segmentation.AddEmptySegment(
                "", label.name
            )
            if keepsFrame:  # on a shared grid, others' voxels would be resampled to that of these
                segmentation.SeparateSegmentLabelmap(segmentId)
            segment = segmentation.GetSegment(segmentId)
            segment.SetColor(*(component / 255 for component in label.color))
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology_entry(label))
            segment.SetTag(CONFIDENCE_TAG, _percentText(confidences.get(label.name)))
            _writeMask((labelsKji == label.value).astype(np.uint8), segmentationNode, segmentId, ijkToSegmentation)
        for key, value in provenance.items():
            segmentationNode.SetAttribute(ATTRIBUTE_PREFIX + key, str(value))
    finally:
        segmentationNode.EndModify(wasModifying)
    _placeBeside(segmentationNode, volumeNode)
    return segmentationNode


def addConfidenceVolume(
    confidenceKji: np.ndarray, volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLScalarVolumeNode:
    """A new scalar volume with the confidence in percent, on the grid, transform and beside `volumeNode`."""
    name = slicer.mrmlScene.GenerateUniqueName(f"{volumeNode.GetName()} confidence")
    matrix = _ijkToRasMatrix(volumeNode)
    confidenceNode = slicer.util.addVolumeFromArray(confidenceKji, ijkToRAS=_toArray(matrix), name=name)
    confidenceNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    _placeBeside(confidenceNode, volumeNode)
    return confidenceNode


@dataclass(frozen=True)
class SegmentFigures:
    """One row of a table of results. Confidence is the model's own mean probability, empty where it made none."""

    name: str
    color: tuple[float, float, float]
    volumeMl: float
    confidence: str


class SegmentMeter:
    """Sizes of segments; voxels are counted again only where they have changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], float] = {}  # (modification time, segment ID) -> mL

    def volumesMl(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> dict[str, float]:
        """mL of every segment, by its ID."""
        segmentation = segmentationNode.GetSegmentation()
        keys = {}
        for segmentId in segmentation.GetSegmentIDs():
            # Times are unique in a process, so that nothing of another segmentation is taken for this one's.
            image = segmentation.GetSegmentRepresentation(segmentId, BINARY_LABELMAP)
            keys[segmentId] = (image.GetMTime() if image is not None else segmentationNode.GetMTime(), segmentId)
        self._known = {
            key: self._known[key] if key in self._known else _segmentVolumeMl(segmentationNode, segmentId)
            for segmentId, key in keys.items()
        }
        return {segmentId: self._known[key] for segmentId, key in keys.items()}


def readSegments(segmentationNode: slicer.vtkMRMLSegmentationNode, meter: SegmentMeter) -> list[SegmentFigures]:
    """Name, colour (0..1), size now, and confidence when segmented, of every segment."""
    segmentation = segmentationNode.GetSegmentation()
    rows = []
    for segmentId, volumeMl in meter.volumesMl(segmentationNode).items():
        segment = segmentation.GetSegment(segmentId)
        confidence = vtk.reference("")
        segment.GetTag(CONFIDENCE_TAG, confidence)
        rows.append(SegmentFigures(segment.GetName(), segment.GetColor(), volumeMl, str(confidence)))
    return rows


def _segmentVolumeMl(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> float:
    labelmap = slicer.vtkOrientedImageData()
    segmentationNode.GetBinaryLabelmapRepresentation(segmentId, labelmap)
    if labelmap.GetNumberOfPoints() == 0:
        return 0.0
    # All of its voxels: slicer.util's array ends where the reference volume does.
    voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars())
    return float(np.count_nonzero(voxels)) * float(np.prod(labelmap.GetSpacing())) / 1000


def _percentText(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f} %"


def readProvenance(segmentationNode: slicer.vtkMRMLSegmentationNode) -> dict[str, str]:
    """How the segments were made, as `writeSegments` noted it; empty for a segmentation that is not ours."""
    names = segmentationNode.GetAttributeNames() or ()
    return {
        name[len(ATTRIBUTE_PREFIX) :]: segmentationNode.GetAttribute(name)
        for name in names
        if name.startswith(ATTRIBUTE_PREFIX)
    }


def _writeMask(
    maskKji: np.ndarray, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str, ijkToSegmentation: np.ndarray
) -> None:
    """Replace a segment's voxels. slicer.util's function does so too, but leaves transforms out of account."""
    image = orientedImage(maskKji, ijkToSegmentation)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    if not logic.SetBinaryLabelmapToSegment(image, segmentationNode, segmentId, logic.MODE_REPLACE):
        raise InputError(
            f"segment {segmentId!r} of {segmentationNode.GetName()!r} could not be written; use a new one."
        )


def orientedImage(maskKji: np.ndarray, ijkToFrame: np.ndarray) -> slicer.vtkOrientedImageData:
    """A mask (K, J, I) uint8 as segments hold it."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*maskKji.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(maskKji.ravel(), deep=True))
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToFrame))
    return image


def readMask(
    segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str, volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> np.ndarray | None:
    """A segment's voxels (K, J, I), uint8 of 0 and 1, on the volume's grid; None if it has none anywhere.

    What lies on another grid is resampled (nearest neighbour), and transforms of both nodes are taken into account.
    Raises InputError for a segment that is no labelmap, and under a transform that is not linear.
    """
    name = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
    segment = slicer.vtkOrientedImageData()
    if not segmentationNode.GetBinaryLabelmapRepresentation(segmentId, segment):
        raise InputError(
            f"segment {name!r} has no binary labelmap; create one in the Segmentations module (Representations)."
        )
    if segment.GetNumberOfPoints() == 0 or segment.GetScalarRange()[1] == 0:
        return None
    volumeToSegmentation = _transformBetween(volumeNode, segmentationNode)
    imageToSegmentation = vtk.vtkMatrix4x4()
    segment.GetImageToWorldMatrix(imageToSegmentation)
    toVolume = np.linalg.inv(volumeToSegmentation) @ _toArray(imageToSegmentation)
    segment.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(toVolume))
    shapeKji = readGrid(volumeNode)[1]
    grid = orientedImage(np.zeros(shapeKji, np.uint8), _toArray(_ijkToRasMatrix(volumeNode)))
    resampled = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    if not resample(segment, grid, resampled, False, False):
        raise InputError(f"segment {name!r} cannot be brought to the grid of the volume; export it with its volume.")
    voxels = vtk_to_numpy(resampled.GetPointData().GetScalars()).reshape(shapeKji)
    return (voxels > 0).astype(np.uint8)


def referenceVolume(segmentationNode: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume on which a segmentation was drawn, as far as it says so."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return segmentationNode.GetNodeReference(role)


def _transformBetween(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, segmentationNode: slicer.vtkMRMLSegmentationNode
) -> np.ndarray:
    """4x4 matrix from the frame of one node's parent transform to that of the other; InputError if it is curved."""
    matrix = vtk.vtkMatrix4x4()
    here, there = volumeNode.GetParentTransformNode(), segmentationNode.GetParentTransformNode()
    if here is not there and not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(here, there, matrix):
        raise InputError(
            f"segmentation {segmentationNode.GetName()!r} is under a transform that is not linear; use a new one."
        )
    return _toArray(matrix)


def _placeBeside(node: slicer.vtkMRMLNode, neighbour: slicer.vtkMRMLNode) -> None:
    """Under the same study or folder of the subject hierarchy."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, besideItem = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(neighbour)
    if item and besideItem:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(besideItem))


def _ijkToRasMatrix(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> vtk.vtkMatrix4x4:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrix


def _toArray(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def _withRigidAxes(ijkToRas: np.ndarray) -> np.ndarray:
    """The nearest matrix with orthogonal axes of the same spacing (polar decomposition); unchanged if they are."""
    spacing = np.linalg.norm(ijkToRas[:3, :3], axis=0)
    directions = ijkToRas[:3, :3] / spacing
    if np.allclose(directions.T @ directions, np.eye(3), atol=1e-6):
        return ijkToRas
    left, _, right = np.linalg.svd(directions)
    rigid = ijkToRas.copy()
    rigid[:3, :3] = left @ right * spacing
    return rigid


def roiCorners(roiNode: slicer.vtkMRMLMarkupsROINode) -> np.ndarray:
    """The eight corners (8, 3) of a markups ROI in world RAS, in mm."""
    size, objectToWorld = roiNode.GetSize(), _toArray(roiNode.GetObjectToWorldMatrix())
    half = np.array(size) / 2
    signs = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    return (np.c_[signs * half, np.ones(8)] @ objectToWorld.T)[:, :3]
