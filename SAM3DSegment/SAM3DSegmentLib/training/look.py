"""One look at every case of a data set: its grid, its structures and its hash, read once and kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..base.errors import InputError, Sam3dError
from ..base.watch import UNWATCHED, Watch
from ..card import Label
from ..formats.header import read_header
from ..formats.label_maps import read_label_map
from ..formats.segments import name_key
from ..formats.volumes import Volume, read_matrix, read_volume
from .classes import class_indices, join_labels, match_labels, on_grid_of, own_labels, unnamed_label
from .dataset import DESCRIPTION, CaseFiles, Dataset

_DETACHED_HEADERS = (".nhdr", ".mhd")  # whose voxels are in a file beside them


@dataclass(frozen=True)
class Look:
    """What one case's files say: the image's grid, and the structures as the label map names them.

    voxels: of each of `own` on the image's grid; by_name: whether `own` are named. sha256: of the names and contents of
    the files, if it was asked for. problem: why it cannot be trained on, or "".
    """

    files: CaseFiles
    shape_kji: tuple[int, ...] = ()
    ijk_to_ras: np.ndarray = field(default_factory=lambda: np.eye(4))
    own: tuple[Label, ...] = ()
    by_name: bool = False
    voxels: tuple[int, ...] = ()
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class CaseFacts:
    """One case in the terms of all cases' labels; `voxels` of each label that it has, by name."""

    files: CaseFiles
    shape_kji: tuple[int, ...] = ()
    ijk_to_ras: np.ndarray = field(default_factory=lambda: np.eye(4))
    voxels: dict[str, int] = field(default_factory=dict)
    problem: str = ""


def look_at_cases(
    dataset: Dataset, resample: bool = False, hashed: bool = False, watch: Watch = UNWATCHED
) -> tuple[Look, ...]:
    """Reads the headers of images, label maps, and if `hashed` all files to their end. Raises Cancelled."""
    looks = []
    for number, case in enumerate(dataset.cases):
        watch.check()
        looks.append(_look(case, resample, hashed))
        watch.progress("look", number + 1, len(dataset.cases))
    return tuple(looks)


def find_labels(dataset: Dataset, looks: tuple[Look, ...]) -> tuple[Label, ...]:
    """The labels that the data have: by dataset.json, by the names of segments, else by their values.

    Colours and codes are those of the segments. Raises InputError if no label map has a structure.
    """
    named = [look for look in looks if look.own and look.by_name]
    unnamed = [look for look in looks if look.own and not look.by_name]
    if not named and not unnamed:
        if problem := next((look.problem for look in looks if look.problem), ""):
            raise InputError(problem)
        files = ", ".join(look.files.label_map.name for look in looks)
        raise InputError(f"no label map has a structure: {files}; draw one, or give other files.")
    of_segments = join_labels(look.own for look in named)
    if dataset.names:
        by_name = {name_key(label.name): label for label in of_segments}
        return tuple(
            Label(value, name, label.color, label.category, label.type, label.modifier)
            if (label := by_name.get(name_key(name)))
            else unnamed_label(index, value, name)
            for index, (value, name) in enumerate(sorted(dataset.names.items()))
        )
    if named and unnamed:
        raise InputError(
            f"{named[0].files.label_map.name} names its structures and {unnamed[0].files.label_map.name} does not, so "
            f"they cannot be matched; save all as .seg.nrrd, or name the values in {DESCRIPTION}."
        )
    if named:
        return of_segments
    values = sorted({label.value for look in unnamed for label in look.own})
    return tuple(unnamed_label(index, value) for index, value in enumerate(values))


def facts_of(look: Look, labels: tuple[Label, ...]) -> CaseFacts:
    """The case in terms of `labels`; a structure that these do not have is its problem."""
    if look.problem:
        return CaseFacts(look.files, problem=look.problem)
    try:
        matched = match_labels(look.files.label_map, look.own, labels, look.by_name)
    except InputError as error:
        return CaseFacts(look.files, problem=str(error))
    voxels = {labels[index].name: look.voxels[number] for number, index in matched.items() if look.voxels[number]}
    in_order = {label.name: voxels[label.name] for label in labels if label.name in voxels}
    return CaseFacts(look.files, look.shape_kji, look.ijk_to_ras, in_order)


def read_case(case: CaseFiles, labels: tuple[Label, ...], resample: bool) -> tuple[Volume, np.ndarray]:
    """The image, and class indices (K, J, I) uint8 on its grid. Raises InputError where they do not fit."""
    image = read_volume(case.image)
    label_map = read_label_map(case.label_map)
    return image, on_grid_of(image, class_indices(label_map, labels), label_map, resample)


def _look(case: CaseFiles, resample: bool, hashed: bool) -> Look:
    own: tuple[Label, ...] = ()
    by_name = False
    try:
        label_map = read_label_map(case.label_map)
        own, by_name = own_labels(label_map), label_map.segments is not None
        image = _read_grid(case.image)
        indices = on_grid_of(image, class_indices(label_map, own), label_map, resample)
    except Sam3dError as error:
        return Look(case, own=own, by_name=by_name, problem=str(error))
    voxels = np.bincount(indices.ravel(), minlength=len(own) + 1)[1:].tolist()
    sha256 = _hash_files(case) if hashed else ""
    return Look(case, image.array_kji.shape, image.ijk_to_ras, own, by_name, tuple(voxels), sha256)


def _read_grid(path: Path) -> Volume:
    """An image's grid by its header; its voxels are a single one, repeated."""
    header = read_header(path)
    return Volume(np.broadcast_to(np.uint8(0), header.shape), read_matrix(path, header), path)


def _hash_files(case: CaseFiles) -> str:
    digest = hashlib.sha256()
    for path in (case.image, case.label_map):
        files = [path]
        if path.suffix.lower() in _DETACHED_HEADERS:
            files += sorted(p for p in path.parent.glob(path.stem + ".*") if p.is_file() and p != path)
        for file in files:
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()
