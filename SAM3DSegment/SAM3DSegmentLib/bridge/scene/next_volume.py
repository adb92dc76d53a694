"""The next volume of a folder of images: one that is no training case yet, and has no segmentation beside it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import slicer


def findNext(images: Path, cases: Collection[str], after: Path | None) -> Path | None:
    """The next volume file of the folder by its name, from the first again after the last one; None if all are drawn.

    cases: names of the training cases, without nnU-Net's number of a channel. after: the file that was opened last.
    Raises InputError for a folder that is gone, or in which it is not clear which segmentation is of which image.
    """
    from ...formats.channels import NUMBER
    from ...formats.volumes import volume_name  # these bring SimpleITK
    from ...training.dataset import images_without_labels

    left = [
        path
        for path in images_without_labels(images)
        if not {usableName(volume_name(path)), usableName(NUMBER.sub("", volume_name(path)))} & set(cases)
    ]
    further = [path for path in left if after is None or path.name > after.name]
    return next(iter(further or left), None)


def openVolume(path: Path) -> slicer.vtkMRMLScalarVolumeNode:
    """Load the volume, or take the one that was loaded from this file, and show it in the slice views.

    Raises RuntimeError for a file that Slicer cannot read.
    """
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        storage = node.GetStorageNode()
        if storage is not None and storage.GetFileName() and Path(storage.GetFileName()) == path:
            slicer.util.setSliceViewerLayers(background=node, fit=True)
            return node
    return slicer.util.loadVolume(str(path))


def usableName(volumeName: str) -> str:
    """The name of a case of this volume: with characters that a file name cannot have replaced."""
    return re.sub(r"[^\w .-]", "_", volumeName).strip(" .-")
