"""Training cases: nodes of the scene into a folder on disk, in Slicer's own formats; and what such a folder has."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..card import Label
from ..errors import InputError, Sam3dError
from . import nodes


@dataclass(frozen=True)
class CaseRow:
    """One case of a folder: its files, its labels with their sizes, and what is odd ("" if nothing is)."""

    name: str
    files: tuple[Path, ...]
    labels: str = ""
    oddity: str = ""
    isUsable: bool = True


@dataclass(frozen=True)
class Survey:
    """What a folder of cases has; `problem` is why it cannot be trained on, or ""."""

    rows: tuple[CaseRow, ...] = ()
    labels: tuple[Label, ...] = ()
    problem: str = ""
    notices: tuple[str, ...] = ()


def surveyCases(folder: Path) -> Survey:
    """Reads all label maps of the folder. Touches no node, so that it may run in a thread."""
    from ..training.dataset import examine, find_dataset, find_labels  # these bring SimpleITK

    try:
        dataset = find_dataset(folder, least=0)
    except Sam3dError as error:
        return Survey(problem=str(error))
    rows = tuple(CaseRow(case.name, (case.image, case.label)) for case in dataset.cases)
    if not rows:
        return Survey(problem=_("No cases yet; add 5 to 20."), notices=dataset.notices)
    try:
        labels = find_labels(dataset)
    except Sam3dError as error:
        return Survey(rows, problem=str(error), notices=dataset.notices)
    described = []
    for facts in examine(dataset, labels, resample=False):
        ml = abs(float(np.linalg.det(facts.ijk_to_ras[:3, :3]))) / 1000
        sizes = ", ".join(f"{name} {count * ml:.2f}" for name, count in facts.voxels.items())
        lacking = [label.name for label in labels if label.name not in facts.voxels]
        odd = facts.problem or (_("no {names}").format(names=", ".join(lacking)) if lacking else "")
        files = facts.files.image, facts.files.label
        described.append(CaseRow(facts.files.name, files, sizes, odd, not facts.problem))
    problem = "" if len(rows) > 1 else _("One case is there; at least 2 are needed, 5 to 20 are good.")
    if not all(row.isUsable for row in described):
        problem = _("Some cases cannot be used; mend or remove them.")
    return Survey(tuple(described), labels, problem, dataset.notices)


@dataclass(frozen=True)
class NewCase:
    """Where a case will be written, and the files of a case of that name that are there already."""

    name: str
    image: Path
    label: Path
    replaced: tuple[Path, ...]

    @classmethod
    def plan(cls, folder: Path, name: str) -> NewCase:
        """In the layout that the folder has. Raises InputError for a folder or a name that will not do."""
        from ..training.dataset import files_of_case, new_case_files

        if not folder.is_dir():
            raise InputError(_("folder {path!r} does not exist; choose another.").format(path=str(folder)))
        files = new_case_files(folder, name)
        return cls(files.name, files.image, files.label, tuple(files_of_case(files)))


def writeCase(
    case: NewCase,
    folder: Path,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentIds: list[str],
) -> None:
    """Write the volume and these segments, on the volume's grid in world coordinates; both files, or none.

    The case's `replaced` files go. Raises InputError, and then the folder is as before.
    """
    ijkToWorld, _shape = nodes.readGrid(volumeNode)
    if volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(_("{name!r} is a label map; choose its image.").format(name=volumeNode.GetName()))
    masks = _readMasks(volumeNode, segmentationNode, segmentIds)
    try:
        written = Path(tempfile.mkdtemp(prefix=".adding-", dir=folder))
    except OSError as error:
        raise _cannotWrite(folder, error) from error
    try:
        image, label = written / case.image.name, written / case.label.name
        _writeVolume(image, volumeNode, ijkToWorld)
        _writeSegmentation(label, segmentationNode, masks, ijkToWorld)
        for path in (image, label):
            if not path.is_file():  # Slicer's writers do not say so
                raise InputError(_("{path!r} cannot be written; check space and rights.").format(path=str(path)))
        away = [(path, written / f"old{number}") for number, path in enumerate(case.replaced)]
        _moveAll([*away, (image, case.image), (label, case.label)])
    finally:
        shutil.rmtree(written, ignore_errors=True)


def removeCase(row: CaseRow, folder: Path) -> None:
    """Delete the case's two files, and its own folder if nothing is left in it. Raises InputError."""
    try:
        for path in row.files:
            path.unlink(missing_ok=True)
        home = row.files[0].parent
        if home != folder and home.name == row.name and not any(home.iterdir()):
            home.rmdir()
    except OSError as error:
        raise InputError(
            _("{name!r} cannot be removed ({reason}); check its rights.").format(name=row.name, reason=error.strerror)
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
        mask = nodes.readMask(segmentationNode, segmentId, volumeNode)
        if mask is None:
            continue
        if not mask.any():
            raise InputError(_("segment {name!r} lies outside of the volume; choose its own volume.").format(name=name))
        if name in (segmentation.GetSegment(other).GetName() for other in masks):
            raise InputError(_("two segments are named {name!r}; rename one of them.").format(name=name))
        if taken is not None and (count := int(np.count_nonzero(taken & mask))):
            others = [segmentation.GetSegment(i).GetName() for i, other in masks.items() if (other & mask).any()]
            raise InputError(
                _(
                    "the segments {first!r} and {second!r} overlap in {count} voxels, and a voxel can have one label "
                    "only; remove the overlap (Segment Editor: Logical operators, Subtract)."
                ).format(first=others[0], second=name, count=count)
            )
        masks[segmentId] = mask
        taken = mask if taken is None else taken | mask
    if not masks:
        raise InputError(_("no chosen segment has voxels; draw one, or tick others."))
    return masks


def _writeVolume(path: Path, volumeNode: slicer.vtkMRMLScalarVolumeNode, ijkToWorld: np.ndarray) -> None:
    copied = slicer.vtkMRMLScalarVolumeNode()  # in no scene: the user's node keeps its own file name
    copied.SetAndObserveImageData(volumeNode.GetImageData())
    copied.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToWorld))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(True)
    if not storage.WriteData(copied):
        raise InputError(_("{path!r} cannot be written; check space and rights.").format(path=str(path)))


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
        segment.AddRepresentation(nodes.BINARY_LABELMAP, nodes.orientedImage(mask, ijkToWorld))
        copied.GetSegmentation().AddSegment(segment, segmentId)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(True)
    if not storage.WriteData(copied):
        raise InputError(_("{path!r} cannot be written; check space and rights.").format(path=str(path)))


def _moveAll(moves: list[tuple[Path, Path]]) -> None:
    """All of the files, or none."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            done.append((source, target))
    except OSError as error:
        for source, target in reversed(done):
            os.replace(target, source)
        raise _cannotWrite(target, error) from error


def _cannotWrite(path: Path, error: OSError) -> InputError:
    return InputError(
        _("{path!r} cannot be written ({reason}); check space and rights.").format(
            path=str(path), reason=error.strerror
        )
    )
