"""Training cases: write nodes of the scene into a folder, in Slicer's own formats, and survey such a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import slicer
from slicer.i18n import tr as _

import qt

from ...base.errors import InputError, Sam3dError
from ...card import Label
from ...geometry import voxel_ml
from .segmentations import BINARY_LABELMAP, orientedImage, readMask
from .volumes import readGrid

if TYPE_CHECKING:
    from ...training.classes import CaseFacts, Look
    from ...training.dataset import CaseFiles, Dataset

_DETACHED_HEADERS = (".nhdr", ".mhd")
_Stamp = tuple[tuple[Path, int, int], ...]  # file, size, time of change
_looks: dict[tuple[CaseFiles, _Stamp], Look] = {}  # of the folder that was surveyed last


@dataclass(frozen=True)
class CaseRow:
    """One case of a folder. sizes: its labels with their mL; missing: labels that only other cases have."""

    name: str
    files: tuple[Path, ...]
    sizes: str = ""
    missing: tuple[str, ...] = ()
    problem: str = ""

    def describe(self) -> str:
        """For the user: the problem, else sizes and missing labels."""
        if self.problem:
            return f"\u26a0 {self.problem}"
        missing = [_("no {name}").format(name=name) for name in self.missing]
        return ", ".join([text for text in (self.sizes, *missing) if text])


@dataclass(frozen=True)
class Survey:
    """The cases of a folder. problem: why they cannot be examined; notices: what was left out."""

    rows: tuple[CaseRow, ...] = ()
    labels: tuple[Label, ...] = ()
    problem: str = ""
    notices: tuple[str, ...] = ()

    def whyNotReady(self) -> str:
        """Why the cases cannot be trained on, for the user; empty if they can."""
        if self.problem:
            return self.problem
        if any(row.problem for row in self.rows):
            return _("Some cases cannot be used; repair or remove them.")
        if not self.rows:
            return _("No cases yet; add 5 to 20.")
        return _("There is one case; at least 2 are needed, 5 to 20 are good.") if len(self.rows) == 1 else ""


def surveyCases(folder: Path) -> Survey:
    """Reads the label maps of the folder that are new or have changed since the last survey.

    Uses neither nodes nor Qt, so that it can run in a thread.
    """
    from ...training.classes import agree_on_labels  # these bring SimpleITK
    from ...training.dataset import find_dataset

    rows: tuple[CaseRow, ...] = ()
    notices: tuple[str, ...] = ()
    try:
        dataset = find_dataset(folder, least=0)
        rows, notices = (
            tuple(CaseRow(case.name, (case.image, case.label_map)) for case in dataset.cases),
            dataset.notices,
        )
        labels, facts = agree_on_labels(dataset, _lookAtCases(dataset)) if rows else ((), ())
    except Sam3dError as error:
        return Survey(rows, problem=str(error), notices=notices)
    described = tuple(_describe(case, labels) for case in facts)
    return Survey(described, labels, notices=notices)


def _lookAtCases(dataset: Dataset) -> tuple[Look, ...]:
    from ...training.classes import LabelRules
    from ...training.look import look_at_cases

    rules = LabelRules(ignore=dataset.ignore)
    former = dict(_looks)
    _looks.clear()
    found = []
    for case in dataset.cases:
        key = case, _stamp(case)
        look = former.get(key) or look_at_cases(replace(dataset, cases=(case,)), rules)[0]
        if not look.problem:  # which may be gone without a change of the files
            _looks[key] = look
        found.append(look)
    return tuple(found)


def _stamp(case: CaseFiles) -> _Stamp:
    found = [(path, path.stat()) for path in withVoxelFiles((case.image, case.label_map)) if path.exists()]
    return tuple((path, info.st_size, info.st_mtime_ns) for path, info in found)


def withVoxelFiles(paths: Iterable[Path]) -> tuple[Path, ...]:
    """These files, and those beside them in which the headers among them (.nhdr, .mhd) keep their voxels."""
    from ...formats.images import read_header

    found: list[Path] = []
    for path in paths:
        found.append(path)
        if path.suffix.lower() not in _DETACHED_HEADERS:
            continue
        with contextlib.suppress(Sam3dError, OSError):  # of a header that cannot be read nothing more is known
            data = read_header(path).data
            if data.parent == path.parent and data not in found:
                found.append(data)
    return tuple(found)


def _describe(facts: CaseFacts, labels: tuple[Label, ...]) -> CaseRow:
    ml = voxel_ml(facts.ijk_to_ras)
    sizes = ", ".join(f"{name} {count * ml:.2f}" for name, count in facts.voxels.items())
    missing = tuple(label.name for label in labels if label.name not in facts.voxels)
    return CaseRow(facts.files.name, (facts.files.image, facts.files.label_map), sizes, missing, facts.problem)


@dataclass(frozen=True)
class NewCase:
    """Where a case will be written, and the existing files of that name, which it replaces."""

    name: str
    image: Path
    label: Path
    replaced: tuple[Path, ...]

    @classmethod
    def within(cls, folder: Path, name: str) -> NewCase:
        """In the folder's own layout. Raises InputError for a missing folder or an unusable name."""
        from ...training.dataset import files_of_case, new_case_files

        if not folder.is_dir():
            raise InputError(_("folder {path!r} does not exist; choose another.").format(path=str(folder)))
        files = new_case_files(folder, name)
        return cls(files.name, files.image, files.label_map, withVoxelFiles(files_of_case(files)))


def writeCase(
    case: NewCase,
    folder: Path,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentIds: list[str],
) -> None:
    """Write the volume and these segments, on the volume's grid in world coordinates; both files, or none.

    The case's `replaced` files are deleted. Raises InputError; the folder is then as before.
    """
    ijkToWorld, _shape = readGrid(volumeNode)
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(_("{name!r} is a label map; choose its image.").format(name=volumeNode.GetName()))
    masks = _readMasks(volumeNode, segmentationNode, segmentIds)
    try:
        written = Path(tempfile.mkdtemp(prefix=".adding-", dir=folder))
    except OSError as error:
        raise _cannotWrite(folder, error.strerror) from error
    try:
        image, label = written / case.image.name, written / case.label.name
        _writeVolume(image, volumeNode, ijkToWorld)
        _writeSegmentation(label, segmentationNode, masks, ijkToWorld)
        away = [(path, written / f"old{number}") for number, path in enumerate(case.replaced)]
        _moveAll([*away, (image, case.image), (label, case.label)])
    finally:
        shutil.rmtree(written, ignore_errors=True)


def removeCase(row: CaseRow, folder: Path) -> None:
    """Move the case's files to the trash, and remove its own folder if nothing is left in it. Raises InputError.

    Where there is no trash, as on some network drives, they are deleted.
    """
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


def _readMasks(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentIds: list[str],
) -> dict[str, np.ndarray]:
    """Masks (K, J, I) of 0 and 1 on the volume's grid, by segment ID; segments without voxels are left out."""
    segmentation = segmentationNode.GetSegmentation()
    masks: dict[str, np.ndarray] = {}
    taken: np.ndarray | None = None
    for segmentId in segmentIds:
        name = segmentation.GetSegment(segmentId).GetName()
        mask = readMask(segmentationNode, segmentId, volumeNode)
        if mask is None:
            continue
        if not mask.any():
            raise InputError(
                _("segment {name!r} lies outside of the volume; choose the volume that it was drawn on.").format(
                    name=name
                )
            )
        if name in (segmentation.GetSegment(other).GetName() for other in masks):
            raise InputError(_("two segments are named {name!r}; rename one of them.").format(name=name))
        if taken is not None and (count := int(np.count_nonzero(taken & mask))):
            others = [segmentation.GetSegment(i).GetName() for i, other in masks.items() if (other & mask).any()]
            raise InputError(
                _(
                    "the segments {first!r} and {second!r} overlap in {count} voxels, and a voxel can have only "
                    "one label; remove the overlap (Segment Editor: Logical operators, Subtract)."
                ).format(first=others[0], second=name, count=count)
            )
        masks[segmentId] = mask
        taken = mask if taken is None else taken | mask
    if not masks:
        raise InputError(_("no chosen segment has voxels; draw one, or select others."))
    return masks


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
) -> None:
    copied = slicer.vtkMRMLSegmentationNode()
    for segmentId, mask in masks.items():
        segment = slicer.vtkSegment()
        segment.DeepCopyMetadata(segmentationNode.GetSegmentation().GetSegment(segmentId))  # name, colour, codes
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
