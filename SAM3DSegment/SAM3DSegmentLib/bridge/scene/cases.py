"""Training cases: write nodes of the scene into a folder, in Slicer's own formats, and remove them from there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

import qt

from ...base.errors import InputError
from .channels import checkGrid
from .painting import tagOnlyPainted
from .segmentations import BINARY_LABELMAP, orientedImage, readMasks
from .survey import CaseRow, withVoxelFiles
from .volumes import readGrid


@dataclass(frozen=True)
class NewCase:
    """Where a case will be written, and the existing files of that name, which it replaces.

    images: of each channel.
    """

    name: str
    images: tuple[Path, ...]
    label: Path
    replaced: tuple[Path, ...]

    @classmethod
    def within(cls, folder: Path, name: str, channels: Sequence[str] = ()) -> NewCase:
        """In the folder's own layout; channels: their names, if there are several.

        Raises InputError for a missing folder or an unusable name.
        """
        from ...training.new_case import files_of_case, new_case_files

        if not folder.is_dir():
            raise InputError(_("folder {path!r} does not exist; choose another.").format(path=str(folder)))
        files = new_case_files(folder, name, channels)
        images = tuple(channel.path for channel in files.channels)
        return cls(files.name, images, files.label_map, withVoxelFiles(files_of_case(files)))


def writeCase(
    case: NewCase,
    folder: Path,
    volumeNodes: Sequence[slicer.vtkMRMLScalarVolumeNode],
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentIds: list[str],
    isOnlyPainted: bool,
) -> None:
    """Write the volume and these segments, on the volume's grid in world coordinates; all files, or none.

    volumeNodes: of each channel, on one grid. isOnlyPainted: whether only the slices with segments are complete, which
    the file of the segments notes. The case's `replaced` files are deleted. Raises InputError; the folder is then as
    before.
    """
    ijkToWorld, _shape = readGrid(volumeNodes[0])
    for volumeNode in volumeNodes:
        if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
            raise InputError(_("{name!r} is a label map; choose its image.").format(name=volumeNode.GetName()))
        checkGrid(volumeNode, volumeNodes[0])
    masks = readMasks(volumeNodes[0], segmentationNode, segmentIds)
    try:
        written = Path(tempfile.mkdtemp(prefix=".adding-", dir=folder))
    except OSError as error:
        raise _cannotWrite(folder, error.strerror) from error
    try:
        label = written / case.label.name
        images = [(written / path.name, path) for path in case.images]
        for (image, _path), volumeNode in zip(images, volumeNodes):
            _writeVolume(image, volumeNode, ijkToWorld)
        _writeSegmentation(label, segmentationNode, masks, ijkToWorld, isOnlyPainted)
        away = [(path, written / f"old{number}") for number, path in enumerate(case.replaced)]
        _moveAll([*away, *images, (label, case.label)])
    finally:
        shutil.rmtree(written, ignore_errors=True)


def removeCase(row: CaseRow, folder: Path) -> None:
    """Move the case's files to the trash, and remove its own folder if nothing is left in it. Raises InputError.

    Where there is no trash, as on some network drives, they are deleted.
    """
    if any(path.is_dir() for path in row.files):
        raise InputError(
            _("{name!r} is a folder of DICOM files, which may hold more than this case; remove it yourself.").format(
                name=row.name
            )
        )
    try:
        for path in withVoxelFiles(row.files):
            if not qt.QFile(str(path)).moveToTrash():
                path.unlink(missing_ok=True)
        ownFolder = row.files[0].parent
        if ownFolder != folder and ownFolder.name == row.name and not any(ownFolder.iterdir()):
            ownFolder.rmdir()
    except OSError as error:
        raise InputError(
            _("{name!r} cannot be removed ({reason}); check its permissions.").format(
                name=row.name, reason=error.strerror
            )
        ) from error


def _writeVolume(path: Path, volumeNode: slicer.vtkMRMLScalarVolumeNode, ijkToWorld: np.ndarray) -> None:
    copied = slicer.vtkMRMLScalarVolumeNode()  # outside of the scene, so that the user's node keeps its own file name
    copied.SetAndObserveImageData(volumeNode.GetImageData())
    copied.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToWorld))
    _write(path, copied, slicer.vtkMRMLVolumeArchetypeStorageNode())


def _writeSegmentation(
    path: Path,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    masks: dict[str, np.ndarray],
    ijkToWorld: np.ndarray,
    isOnlyPainted: bool,
) -> None:
    copied = slicer.vtkMRMLSegmentationNode()
    for segmentId, mask in masks.items():
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(segmentationNode.GetSegmentation().GetSegment(segmentId))  # name, colour, codes
        tagOnlyPainted(segment, isOnlyPainted)
        segment.SetLabelValue(1)
        segment.AddRepresentation(BINARY_LABELMAP, orientedImage(mask, ijkToWorld))
        copied.GetSegmentation().AddSegment(segment, segmentId)
    _write(path, copied, slicer.vtkMRMLSegmentationStorageNode())


def _write(path: Path, node: slicer.vtkMRMLStorableNode, storage: slicer.vtkMRMLStorageNode) -> None:
    storage.SetFileName(str(path))
    storage.SetUseCompression(True)
    if not storage.WriteData(node) or not path.is_file():  # a writer may fail and report success
        raise _cannotWrite(path, _("Slicer's writer failed"))


def _moveAll(moves: list[tuple[Path, Path]]) -> None:
    """All of the files, or none."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            done.append((source, target))
    except OSError as error:
        for moved, movedTo in reversed(done):
            os.replace(movedTo, moved)
        raise _cannotWrite(target, error.strerror) from error


def _cannotWrite(path: Path, reason: str | None) -> InputError:
    return InputError(
        _("{path!r} cannot be written ({reason}); check disk space and permissions.").format(
            path=str(path), reason=reason
        )
    )
