"""Whether a volume looks like what a model was trained on; asked before anything is computed."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from ...base.errors import Sam3dError
from ...card import ModelCard
from ...geometry import slicing_of
from .nodes import readGrid, roiCorners

FAR = 2.0  # times as large or as small as in the training data
AIR_HU = -500  # below it there is air in a CT, and nothing in other modalities


def findMisfits(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, card: ModelCard, roiNode: slicer.vtkMRMLMarkupsROINode | None
) -> list[str]:
    """Sentences for the user, each with what to do; empty if nothing speaks against the volume."""
    try:
        matrix, shapeKji = readGrid(volumeNode)
        slicing = slicing_of(matrix, card.slicing)
    except Sam3dError as error:
        return [str(error)]
    found = []
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        found.append(_("This is a label map; choose the image that it belongs to."))
    if _isFrameOfSequence(volumeNode):
        found.append(_("This is one frame of a sequence; only the frame that is shown will be segmented."))
    found += _modalityMisfits(volumeNode, card)
    spacing = np.array(slicing.spacing_mm)
    if card.spacing_mm and _isFar(spacing, card.spacing_mm):
        found.append(
            _("Its spacing, {here} mm, is far from the training data's {there} mm; expect a worse result.").format(
                here=joined(spacing), there=joined(card.spacing_mm)
            )
        )
    extent = np.array([shapeKji[axis] for axis in slicing.kji_axes]) * spacing
    if roiNode is not None:
        # The region lies along the volume's axes, so that this is its size in slices, rows and columns.
        local = np.c_[roiCorners(roiNode), np.ones(8)] @ np.linalg.inv(matrix).T
        sizeKji = np.ptp(local[:, 2::-1], axis=0)
        extent = np.minimum(extent, sizeKji[list(slicing.kji_axes)] * spacing)
    if card.extent_mm and _isFar(extent, card.extent_mm):
        found.append(
            _(
                "It covers {here} mm, but the model was trained on volumes of {there} mm around the structure; "
                "choose a region of that size in Advanced."
            ).format(here=joined(extent, 0), there=joined(card.extent_mm, 0))
        )
    return found


def _modalityMisfits(volumeNode: slicer.vtkMRMLScalarVolumeNode, card: ModelCard) -> list[str]:
    wanted = card.modality.upper()
    stated = _dicomModality(volumeNode)
    if stated and wanted and not wanted.startswith(stated):
        return [
            _("Its modality is {here}, but the model is for {there}; choose another model.").format(
                here=stated, there=card.modality
            )
        ]
    low = volumeNode.GetImageData().GetScalarRange()[0]
    if not stated and wanted.startswith("MR") and low < AIR_HU:
        return [
            _("Its values go down to {low:g}, as in a CT, but the model is for {there}; choose another model.").format(
                low=low, there=card.modality
            )
        ]
    if not stated and wanted == "CT" and low >= 0:
        return [_("It has no negative values, so it is hardly a CT in Hounsfield units, which the model is for.")]
    return []


def _dicomModality(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The DICOM modality that the subject hierarchy keeps for the volume ("CT", "MR"), or an empty text."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volumeNode)
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""


def _isFrameOfSequence(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> bool:
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    return any(browser.GetSequenceNode(volumeNode) is not None for browser in browsers)


def _isFar(values: np.ndarray, usual: tuple[float, float, float]) -> bool:
    ratio = values / np.array(usual)
    return bool((ratio > FAR).any() or (ratio < 1 / FAR).any())


def joined(values: np.ndarray | tuple[float, float, float], decimals: int = 1) -> str:
    """Lengths along three axes, as in "35 x 36 x 50"."""
    return " x ".join(f"{value:.{decimals}f}" for value in values)
