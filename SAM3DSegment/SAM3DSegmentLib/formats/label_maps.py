"""Label maps: plain images of whole numbers, and the segmentations of Slicer and of DICOM, which name their segments.

A segmentation (`.seg.nrrd`, DICOM SEG or RTSTRUCT) may spread its segments over layers that overlap, and is often
cropped to what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from ..base.files import check_new_file, written_whole
from ..card import Label
from ..geometry import Grid, turn_like
from .content import is_dicom_segmentation, is_structure_set
from .delivered import NOTHING_DRAWN, Drawn, describe_labels
from .images import checked_matrix, read_header, read_image, write_image
from .segments import NOBODY, OWN_FIELD, PROGRAM, Provenance, Segment, read_segments, segmentation_fields
from .volumes import DICOM_SUFFIX, OUTPUT_SUFFIXES, SEGMENTATION_SUFFIX, Volume, check_axes, image_on_grid

ROUNDING = 1e-3  # how far a label may lie from a whole number


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

    def along(self, ijk_to_ras: np.ndarray) -> LabelMap:
        """A segmentation with its axes in the order and the directions of another grid's, where they are parallel.

        A plain label map stays as it is.
        """
        if self.segments is None:
            return self
        layers, matrix = turn_like(self.layers, self.ijk_to_ras, ijk_to_ras)
        return replace(self, layers=layers, ijk_to_ras=matrix)

    def present(self) -> list[Segment]:
        """The segments that have at least one voxel."""
        return [s for s in self.segments or () if np.any(self.layers[s.layer] == s.value)]


def read_label_map(path: str | Path, frame: int | None = None, grid: Callable[[], Grid] | None = None) -> LabelMap:
    """A label map of whole numbers in 0..255, or a segmentation. Raises InputError for anything else.

    frame: which one, from 0, of a label map over time; the only one of any other. grid: gives that of its image, on
    which contours (RTSTRUCT) are filled; it is not asked for anything else.
    """
    path = Path(path)
    if is_dicom_segmentation(path):
        return _read_dicom(path, grid)
    header = read_header(path)
    voxels, matrix = read_image(path, header, frame if header.frames > 1 else None)
    layers = np.moveaxis(voxels, -1, 0)
    if not header.is_segmentation or not header.fields:
        if len(layers) > 1:
            raise InputError(f"{str(path)!r} has {len(layers)} values per voxel (colour or vectors); give a label map.")
        return LabelMap(_as_integers(layers, path), matrix, None, path)
    segments = read_segments(header.fields, path)
    if any(not 0 <= segment.layer < len(layers) for segment in segments):
        raise InputError(
            f"{str(path)!r} refers to a layer that it does not have; save the segmentation again in Slicer."
        )
    return LabelMap(_as_integers(layers, path), matrix, segments, path)


def _read_dicom(path: Path, grid: Callable[[], Grid] | None) -> LabelMap:
    from .dicom_rtstruct import read_structure_set  # pydicom is loaded where there is DICOM
    from .dicom_seg import read_dicom_segmentation

    if not is_structure_set(path):
        layers, matrix, named = read_dicom_segmentation(path)
        return LabelMap(layers, checked_matrix(path, matrix), named, path)
    if grid is None:
        raise InputError(f"{str(path)!r} holds contours, which have voxels on an image only; give its image, too.")
    shape, matrix = grid()
    layers, named = read_structure_set(path, (shape, matrix))
    return LabelMap(layers, matrix, named, path)


def segments_of(path: Path) -> tuple[Segment, ...]:
    """What a segmentation names, by its header; nothing for a plain label map. Raises InputError.

    Those of contours have the value 0, as they have none.
    """
    if is_dicom_segmentation(path):
        from . import dicom_rtstruct, dicom_seg

        return (dicom_rtstruct if is_structure_set(path) else dicom_seg).read_segments(path)
    header = read_header(path)
    return read_segments(header.fields, path) if header.is_segmentation and header.fields else ()


def was_written_here(path: Path) -> bool:
    """Whether this program wrote a segmentation, and nobody has saved it in Slicer since."""
    if is_dicom_segmentation(path):
        from .dicom_tags import manufacturer

        return manufacturer(path) == PROGRAM
    try:
        return OWN_FIELD in read_header(path).fields
    except InputError:
        return False


def write_delivered(
    path: Path,
    labels_kji: np.ndarray,
    source: Volume,
    labels: tuple[Label, ...],
    drawn: Drawn = NOTHING_DRAWN,
    added: tuple[Label, ...] = (),
    provenance: Provenance = NOBODY,
    when_whole: Callable[[], None] = lambda: None,
) -> None:
    """As `write_labels`; segments but those `added` by hand note their slices, to tell later which were repainted."""
    is_segmentation = path.name.lower().endswith(SEGMENTATION_SUFFIX)
    values = [label.value for label in labels if label not in added]
    delivered = describe_labels(labels_kji, values, drawn) if is_segmentation else None
    write_labels(path, labels_kji, source, labels, provenance=provenance, when_whole=when_whole, delivered=delivered)


def check_label_output(path: Path, overwrite: bool = False, inputs: Iterable[Path] = ()) -> None:
    """Raises InputError unless a label map can be written at `path`; see `check_new_file`."""
    if not path.name.lower().endswith(OUTPUT_SUFFIXES):
        raise InputError(f"output {str(path)!r} has an unknown ending; use {', '.join(OUTPUT_SUFFIXES)}.")
    check_new_file(path, overwrite, inputs)


def check_dicom_output(path: Path, is_series: bool) -> None:
    """Raises InputError if `path` is to be a DICOM segmentation of no series, DependencyError if nothing writes it."""
    if not path.name.lower().endswith(DICOM_SUFFIX):
        return
    if not is_series:
        raise InputError(
            f"output {str(path)!r} is a DICOM segmentation, which belongs to a DICOM series; give the folder of the "
            f"series, or an output that ends in {SEGMENTATION_SUFFIX}."
        )
    from .dicom_seg_writing import check_highdicom

    check_highdicom()


def check_fits(path: Path, source: Volume, labels: tuple[Label, ...], provenance: Provenance) -> None:
    """Raises InputError if the format of `path` cannot hold a label map for `source`; called before the work starts."""
    check_axes(path, source.ijk_to_ras)
    check_dicom_output(path, bool(source.slices))
    if path.name.lower().endswith(DICOM_SUFFIX):
        from .dicom_seg_writing import check_series

        check_series(source, labels, provenance)


def write_labels(
    path: str | Path,
    labels_kji: np.ndarray,
    source: Volume,
    labels: tuple[Label, ...],
    only_painted: bool = False,
    provenance: Provenance = NOBODY,
    when_whole: Callable[[], None] = lambda: None,
    delivered: Mapping[int, str] | None = None,
) -> None:
    """Write a label map on the source's grid: a segmentation for `.seg.nrrd` and `.dcm`, else a plain image.

    only_painted: whether the segments say that nothing is known of slices on which nothing is painted; delivered: by
    label value, what they say of what was delivered (both in `.seg.nrrd`); provenance: for DICOM. The file appears
    whole or not at all; when_whole: called just before. Raises InputError if it cannot be written.
    """
    path = Path(path)
    check_label_output(path, overwrite=True)
    check_axes(path, source.ijk_to_ras)
    if path.name.lower().endswith(DICOM_SUFFIX):
        _write_dicom(path, labels_kji, source, labels, provenance, when_whole)
        return
    image = image_on_grid(labels_kji, source.ijk_to_ras)
    if path.name.lower().endswith(SEGMENTATION_SUFFIX):
        for key, value in segmentation_fields(labels_kji.shape, labels, only_painted, delivered).items():
            image.SetMetaData(key, value)
    with written_whole(path) as partial:
        write_image(image, partial, compressed=True)
        when_whole()


def _write_dicom(
    path: Path,
    labels_kji: np.ndarray,
    source: Volume,
    labels: tuple[Label, ...],
    provenance: Provenance,
    when_whole: Callable[[], None],
) -> None:
    check_dicom_output(path, bool(source.slices))
    from .dicom_seg_writing import encode

    segmentation = encode(labels_kji, source, labels, provenance)
    with written_whole(path) as partial:
        segmentation.save_as(partial)
        when_whole()


def _as_integers(values: np.ndarray, path: Path) -> np.ndarray:
    """uint8 of the same values, rounded: a scale in a header seldom gives whole numbers to the last digit."""
    if np.issubdtype(values.dtype, np.floating):
        strange = ~np.isfinite(values)
        if not strange.any():
            strange = np.abs(values - np.rint(values)) > ROUNDING
        if strange.any():
            example = values[strange][0]
            raise InputError(f"{str(path)!r} has values such as {example:.6g}; give a label map of whole numbers.")
        values = np.rint(values)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 255:
        raise InputError(f"label map {str(path)!r} has values from {low} to {high}, outside 0..255; renumber them.")
    return values.astype(np.uint8)
