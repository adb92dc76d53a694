"""What labels a file holds, matched by name where it has names, and brought to the grid of an image.

A Slicer segmentation (`.seg.nrrd`) names its segments, may spread them over layers that overlap, and is often cropped
to what it shows. A plain label map has values only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..card import Label, Terminology
from ..errors import InputError
from ..files import last_line
from ..geometry import is_same_grid, matrix_from_lps
from ..volume_io import Volume, image_on_grid, read_volume

SEGMENTATION_SUFFIXES = (".seg.nrrd", ".seg.nhdr")
BACKGROUND = "background"


@dataclass(frozen=True)
class Segment:
    """One structure as a Slicer segmentation stores it: where it is (`value` in `layer`), and what it is."""

    name: str
    value: int
    layer: int
    color: tuple[int, int, int]
    category: Terminology | None
    type: Terminology | None
    modifier: Terminology | None

    @property
    def key(self) -> str:
        return name_key(self.name)


@dataclass(frozen=True)
class LabelMap:
    """Layers (L, K, J, I) of integers on a grid; `segments` names the values, and is None for a plain label map."""

    layers: np.ndarray
    ijk_to_ras: np.ndarray
    segments: tuple[Segment, ...] | None
    path: Path

    def values(self) -> set[int]:
        """Of a plain label map: all but 0."""
        return {int(value) for value in np.unique(self.layers)} - {0}

    def present(self) -> list[Segment]:
        """The segments that have at least one voxel."""
        return [s for s in self.segments or () if np.any(self.layers[s.layer] == s.value)]


def name_key(name: str) -> str:
    """Names that agree up to case and blanks are one."""
    return " ".join(name.lower().split())


def is_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(SEGMENTATION_SUFFIXES)


def read_label_map(path: Path) -> LabelMap:
    """Raises InputError where `path` is no label map of whole numbers in 0..255 (or of a segmentation)."""
    if not is_segmentation(path):
        volume = read_volume(path)
        return LabelMap(_as_integers(volume.array_kji, path)[None], volume.ijk_to_ras, None, path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{str(path)!r} cannot be read ({last_line(error)}); save it again in Slicer.") from error
    if image.GetDimension() != 3:
        raise InputError(f"{str(path)!r} has {image.GetDimension()} dimensions; save the segmentation again in Slicer.")
    layers = sitk.GetArrayFromImage(image)
    layers = layers[None] if layers.ndim == 3 else np.moveaxis(layers, -1, 0)
    metadata = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    segments = _read_segments(metadata, path)
    if any(segment.layer >= len(layers) for segment in segments):
        raise InputError(f"{str(path)!r} names a layer that it does not have; save the segmentation again in Slicer.")
    return LabelMap(
        _as_integers(layers, path),
        matrix_from_lps(image.GetOrigin(), image.GetSpacing(), np.reshape(image.GetDirection(), (3, 3))),
        segments,
        path,
    )


def class_indices(label_map: LabelMap, labels: tuple[Label, ...]) -> np.ndarray:
    """Indices 0..C-1 into (background, *labels), (K, J, I) uint8, on the label map's own grid.

    Raises InputError for a structure that `labels` do not have, and for segments that overlap.
    """
    if label_map.segments is None:
        return _indices_of_values(label_map, labels)
    index_of = {name_key(label.name): index + 1 for index, label in enumerate(labels)}
    indices = np.zeros(label_map.layers.shape[1:], np.uint8)
    names = ("", *(label.name for label in labels))
    for segment in label_map.present():
        if segment.key == BACKGROUND:
            continue
        if segment.key not in index_of:
            raise InputError(
                f"{str(label_map.path)!r} has the segment {segment.name!r}, which is none of "
                f"{', '.join(names[1:])}; rename or remove it, or add it to `labels`."
            )
        mask = label_map.layers[segment.layer] == segment.value
        taken = indices[mask]
        if taken.any():
            other = names[int(taken[taken > 0][0])]
            raise InputError(
                f"{str(label_map.path)!r}: the segments {other!r} and {segment.name!r} overlap in "
                f"{int(np.count_nonzero(taken))} voxels, and a voxel can have one label only; remove the overlap "
                "(Segment Editor: Logical operators, Subtract)."
            )
        indices[mask] = index_of[segment.key]
    return indices


def on_grid_of(image: Volume, indices: np.ndarray, label_map: LabelMap, resample: bool) -> np.ndarray:
    """Class indices on the grid of `image`, (K, J, I) uint8.

    What lies on the same grid, or on a box of it (a cropped segmentation), is placed as it is; anything else is
    resampled by nearest neighbour if `resample`, else refused with InputError.
    """
    shape = image.array_kji.shape
    if is_same_grid(shape, image.ijk_to_ras, indices.shape, label_map.ijk_to_ras):
        return indices
    box = _box_within(image, indices.shape, label_map.ijk_to_ras)
    if box is not None and label_map.segments is not None:
        whole = np.zeros(shape, np.uint8)
        target = tuple(slice(max(0, o), max(0, min(n, o + m))) for o, n, m in zip(box, shape, indices.shape))
        source = tuple(slice(max(0, -o), max(0, min(n - o, m))) for o, n, m in zip(box, shape, indices.shape))
        whole[target] = indices[source]
        return whole
    if not resample:
        raise InputError(
            f"label map {str(label_map.path)!r} is not on the grid of its image {str(image.path)!r}; export it with "
            "the image as reference, or add --resample."
        )
    moving = image_on_grid(indices, label_map.ijk_to_ras)
    fixed = image_on_grid(np.zeros(shape, np.uint8), image.ijk_to_ras)
    return sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkNearestNeighbor, 0))


def labels_of_segments(label_maps: Iterable[LabelMap]) -> tuple[Label, ...]:
    """The labels of all segments, in the order of their first appearance, numbered from 1; names decide which are one.

    Colour and codes are those of the first file that has the segment.
    """
    found: dict[str, Segment] = {}
    for label_map in label_maps:
        for segment in label_map.present():
            if segment.key != BACKGROUND:
                found.setdefault(segment.key, segment)
    tissue = Terminology("SCT", "85756007", "Tissue")
    return tuple(
        Label(index + 1, s.name, s.color, s.category or tissue, s.type or tissue, s.modifier)
        for index, s in enumerate(found.values())
    )


def _indices_of_values(label_map: LabelMap, labels: tuple[Label, ...]) -> np.ndarray:
    table = {0: 0, **{label.value: index + 1 for index, label in enumerate(labels)}}
    unknown = sorted(label_map.values() - set(table))
    if unknown:
        raise InputError(
            f"label map {str(label_map.path)!r} has the values {unknown[:5]} without a name; add them to `labels`."
        )
    lookup = np.zeros(256, np.uint8)
    for value, index in table.items():
        lookup[value] = index
    return lookup[label_map.layers[0]]


def _as_integers(values: np.ndarray, path: Path) -> np.ndarray:
    """uint8 of the same values."""
    if np.issubdtype(values.dtype, np.floating):
        broken = values[~np.isfinite(values) | (values != np.floor(values))]
        if broken.size:
            raise InputError(f"{str(path)!r} has values such as {broken[0]:.4g}; give a label map of whole numbers.")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        raise InputError(f"label map {str(path)!r} has values from {low} to {high}, outside 0..255; renumber them.")
    return values.astype(np.uint8)


def _box_within(image: Volume, shape: tuple[int, ...], ijk_to_ras: np.ndarray) -> tuple[int, int, int] | None:
    """Where (k, j, i) in the image's grid the first voxel lies, if the two grids differ in nothing but extent."""
    offset = np.linalg.solve(image.ijk_to_ras, ijk_to_ras)[:3, 3].round()
    moved = image.ijk_to_ras.copy()
    moved[:3, 3] = (image.ijk_to_ras @ (*offset, 1))[:3]
    if not is_same_grid(shape, moved, shape, ijk_to_ras):
        return None
    i, j, k = (int(o) for o in offset)
    return k, j, i


def _read_segments(metadata: dict[str, str], path: Path) -> tuple[Segment, ...]:
    """The `Segment<n>_*` fields of the header (Slicer's vtkMRMLSegmentationStorageNode)."""
    numbers = sorted({int(m[1]) for key in metadata if (m := re.match(r"Segment(\d+)_ID$", key))})
    if not numbers:
        raise InputError(f"{str(path)!r} names no segments; save the segmentation again in Slicer.")
    return tuple(_read_segment(metadata, number) for number in numbers)


def _read_segment(metadata: dict[str, str], number: int) -> Segment:
    def field(name: str, default: str) -> str:
        return metadata.get(f"Segment{number}_{name}", default)

    red, green, blue = (round(255 * float(part)) for part in field("Color", "0.5 0.5 0.5").split())
    category, kind, modifier = _read_terminology(field("Tags", ""))
    return Segment(
        field("Name", field("ID", "")),
        int(field("LabelValue", "1")),
        int(field("Layer", str(number))),  # before there were layers, each segment had its own
        (red, green, blue),
        category,
        kind,
        modifier,
    )


def _read_terminology(tags: str) -> tuple[Terminology | None, Terminology | None, Terminology | None]:
    """Category, type and modifier of a TerminologyEntry tag; see `label_maps.terminology_entry`."""
    entry = re.search(r"TerminologyEntry:([^|]*)", tags)
    parts = entry[1].split("~")[1:4] if entry else []
    concepts = [_read_concept(part) for part in parts] + [None] * (3 - len(parts))
    return concepts[0], concepts[1], concepts[2]


def _read_concept(text: str) -> Terminology | None:
    scheme, code, meaning = (*text.split("^"), "", "")[:3]
    return Terminology(scheme, code, meaning) if code else None
