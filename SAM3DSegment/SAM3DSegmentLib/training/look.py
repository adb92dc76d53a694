"""One look at every case of a data set: its grid, its structures and its hash, read once and kept."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np

from ..base.errors import Sam3dError
from ..base.watch import UNWATCHED, Watch
from ..card import UNKNOWN, Label
from ..formats.channels import check_grids
from ..formats.content import visible_files
from ..formats.header import check_frame
from ..formats.images import read_header, read_matrix
from ..formats.label_maps import read_label_map
from ..formats.painted import PaintedSlices, looks_painted
from ..formats.volumes import Volume
from ..geometry import Crop
from ..places.blocks import MOST_BLOCKS, Blocks
from ..places.boxes import boxes_around, hull, places_of
from .case_files import CaseFiles, Dataset
from .classes import COMPLETE, LabelRules, Look, Painting, classes_on, own_labels

_DETACHED_HEADERS = (".nhdr", ".mhd")  # whose voxels are in a file beside them


def look_at_cases(
    dataset: Dataset, rules: LabelRules = COMPLETE, hashed: bool = False, watch: Watch = UNWATCHED
) -> tuple[Look, ...]:
    """Reads the headers of images, label maps, and if `hashed` all files to their end. Raises Cancelled."""
    cases = watch.each("look", dataset.cases)
    return tuple(_look(case, dataset, rules, hashed) for case in cases)


def _look(case: CaseFiles, dataset: Dataset, rules: LabelRules, hashed: bool) -> Look:
    own: tuple[Label, ...] = ()
    by_name = False
    read_image = cache(lambda: _read_grids(case, dataset, rules.resample))
    try:
        label_map = read_label_map(case.label_map, case.frame, lambda: read_image().grid)
        own, by_name = own_labels(label_map, rules.ignore), label_map.segments is not None
        image = read_image()
        indices, painted = classes_on(image, label_map, own, rules)
    except Sam3dError as error:
        return Look(case, own=own, by_name=by_name, problem=str(error))
    return Look(
        case,
        image.array_kji.shape,
        image.ijk_to_ras,
        own,
        by_name,
        voxels=tuple(_count(indices, len(own)).tolist()),
        sides=_sides(indices, image.ijk_to_ras, len(own)),
        painted=painted,
        painting=_look_at_painting(indices, painted, len(own)) if painted else None,
        seems_painted=None if painted else looks_painted(indices),
        places=_places(indices, image.ijk_to_ras),
        is_partly_known=bool((indices == UNKNOWN).any()),
        sha256=_hash_files(case) if hashed else "",
    )


def _count(indices: np.ndarray, count: int) -> np.ndarray:
    """Voxels of each of the structures 1 to `count`."""
    return np.bincount(indices.ravel(), minlength=count + 1)[1 : count + 1]


def _places(indices_kji: np.ndarray, ijk_to_ras: np.ndarray) -> tuple[Crop, ...]:
    """Boxes around the structures; those of which less than a block of a coarse grid lies between are one.

    Where voxels are unknown there is one box: what lies between painted slices may be a structure, too.
    """
    is_structure = (indices_kji > 0) & (indices_kji != UNKNOWN)
    blocks = Blocks.of_at_most(MOST_BLOCKS, indices_kji.shape, ijk_to_ras)
    boxes = boxes_around(places_of(blocks.any(is_structure)), blocks, 0.0, ijk_to_ras)
    if boxes and (indices_kji == UNKNOWN).any():
        boxes = (hull(boxes),)
    return tuple(box.shrunk_to(is_structure) for box in boxes)


def _look_at_painting(indices_kji: np.ndarray, painted: PaintedSlices, count: int) -> Painting:
    slices = np.moveaxis(indices_kji, painted.axis, 0)[list(painted.numbers)]
    has = np.array([_count(piece, count) > 0 for piece in slices])
    skipping = tuple(bool(len(there)) and len(there) <= there[-1] - there[0] for there in map(np.flatnonzero, has.T))
    first, last = painted.numbers[0], painted.numbers[-1]
    before, after = first > 0 and has[0].any(), last < painted.total - 1 and has[-1].any()
    return Painting(skipping, bool(before or after))


def _sides(indices_kji: np.ndarray, ijk_to_ras: np.ndarray, count: int) -> tuple[float, ...]:
    """Of each of the structures 1 to `count`: the share of it right of the image's middle less that left of it."""
    along = ijk_to_ras[0, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    axis = int(np.abs(along).argmax())
    slices = np.moveaxis(indices_kji, 2 - axis, 0)
    half = len(slices) // 2
    low, high = (_count(part, count) for part in (slices[:half], slices[len(slices) - half :]))
    return tuple((np.sign(along[axis]) * (high - low) / np.maximum(low + high, 1)).tolist())


def _read_grids(case: CaseFiles, dataset: Dataset, resample: bool) -> Volume:
    """The grid of a case's image. Raises InputError for a channel that lies on another, unless `resample`, or lacks."""
    dataset.check_channels(case)
    grids = [_read_grid(channel.path, case.series_uid, channel.on_last_axis(case.frame)) for channel in case.channels]
    if not resample:
        check_grids(case.channels, grids)
    return grids[0]


def _read_grid(path: Path, series_uid: str | None, frame: int | None) -> Volume:
    """The grid of an image by its header; the voxels are a single one, repeated."""
    if path.is_dir():
        from ..formats.dicom import read_series_grid  # pydicom is loaded where there is DICOM

        shape, matrix = read_series_grid(path, series_uid, frame)
    else:
        header = read_header(path)
        check_frame(path, header, frame)
        shape, matrix = header.shape, read_matrix(path, header)
    return Volume(np.broadcast_to(np.uint8(0), shape), matrix, path)


def _hash_files(case: CaseFiles) -> str:
    digest = hashlib.sha256()
    for path in case.files:
        files = visible_files(path) if path.is_dir() else [path]
        if path.suffix.lower() in _DETACHED_HEADERS:
            files += sorted(p for p in path.parent.glob(path.stem + ".*") if p.is_file() and p != path)
        for file in files:
            digest.update(os.fsencode(f"{file.name} {file.stat().st_size} "))
            with file.open("rb") as content:
                while block := content.read(2**20):
                    digest.update(block)
    return digest.hexdigest()
