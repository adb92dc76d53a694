"""Label maps from DICOM structure sets (RTSTRUCT): closed contours, filled on the grid of the image they are drawn on.

PS3.3: A.19 (RT Structure Set), C.8.8.5 (ROIs), C.8.8.6 (contours). Read by pydicom alone. The rules:

- A contour belongs to the slice from whose plane none of its points is more than half a slice away. On slices without
  a contour a structure is not: nothing is interpolated between contours.
- A pixel belongs to a structure if its centre lies within an odd number of the structure's contours of that slice
  (XOR): a contour in another one is a hole, one in the hole an island. A keyhole, one contour that runs to its hole and
  back along the same line, is a hole too. A contour that is stored twice counts once.
- Of the centres on the border itself, to a thousandth of a pixel, those are inside that have the area at the side of
  the higher column, or along a row at that of the higher row. So of two structures that share a border each pixel
  belongs to one, and a rectangle has as many pixels as its area.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ..base.errors import InputError
from ..geometry import RAS_FROM_LPS, Grid
from .dicom_seg import GREY, LARGEST_NUMBER, add_to_layers
from .dicom_stack import TOLERANCE
from .dicom_tags import quoted, read_dataset, tag_decimals, tag_items, tag_number, tag_numbers, tag_text
from .segments import Segment

logger = logging.getLogger(__name__)

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_HALF = 0.5  # a slice, or a pixel
_DIGITS = 3  # of pixels: what is closer to a centre lies on it, as positions in files are rounded


@dataclass(frozen=True)
class _Roi:
    """A structure: its closed contours, each (N, 3) in mm, LPS."""

    name: str
    color: tuple[int, int, int]
    contours: tuple[np.ndarray, ...]

    def segment(self, value: int, layer: int = 0) -> Segment:
        return Segment(self.name, value, layer, self.color, None, None, None)


def read_segments(path: Path) -> tuple[Segment, ...]:
    """The structures that have closed contours; contours have no values, so they are all 0. Raises InputError."""
    return tuple(roi.segment(0) for roi in _read_rois(path))


def read_structure_set(path: Path, grid: Grid) -> tuple[np.ndarray, tuple[Segment, ...]]:
    """Layers (L, K, J, I) uint8 on the grid, and the structures, numbered from 1, that have closed contours.

    Structures that overlap are in different layers. Contours that are open are left out with a warning. Raises
    InputError with one line that says what to do, also for a contour that lies on no slice of the grid.
    """
    rois = _read_rois(path)
    shape, ijk_to_ras = grid
    of_rois = [[_in_voxels(contour, ijk_to_ras) for contour in roi.contours] for roi in rois]
    axis = _axis_across([contour for contours in of_rois for contour in contours])
    layers: list[np.ndarray] = []
    segments = []
    for value, (roi, contours) in enumerate(zip(rois, of_rois), 1):
        mask = np.zeros(shape, bool)
        slices = np.moveaxis(mask, 2 - axis, 0)
        in_plane = [other for other in (2, 1, 0) if other != axis]  # of i, j, k: along the rows' order, the columns'
        source = f"{str(path)!r}: the structure {roi.name!r}"
        for number, of_slice in _by_slice(contours, axis, len(slices), source).items():
            inside = [contour[:, in_plane] for contour in of_slice]
            slices[number] = fill(inside, slices.shape[1:])
            _check_inside(inside, slices.shape[1:], source)
        segments.append(roi.segment(value, add_to_layers(layers, mask, value)))
    return np.stack(layers), tuple(segments)


def fill(contours: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Boolean (rows, columns): the pixels whose centres lie within an odd number of closed contours.

    contours: (N, 2) rows and columns, where whole numbers are centres. The border is as at the top of this file.
    """
    rows, columns = shape
    edges = [np.stack([points, np.roll(points, -1, axis=0)], axis=1) for points in contours]
    ends = np.concatenate([np.zeros((0, 2, 2)), *edges])
    ends = np.where((ends[:, 0, 0] > ends[:, 1, 0])[:, None, None], ends[:, ::-1], ends)
    (low, from_column), (high, to_column) = ends[:, 0].T, ends[:, 1].T
    first, end = (np.clip(np.ceil(row), 0, rows).astype(int) for row in (low, high))
    edge = np.repeat(np.arange(len(ends)), end - first)  # once for each row that it crosses
    row = first[edge] + np.arange(len(edge)) - np.searchsorted(edge, edge)
    crossed = from_column[edge] + (row - low[edge]) * ((to_column - from_column)[edge] / (high - low)[edge])
    column = np.clip(np.ceil(np.round(crossed, _DIGITS)), 0, columns).astype(int)
    crossings = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1)).reshape(rows, columns + 1)
    return crossings.cumsum(axis=1)[:, :-1] % 2 == 1


def _in_voxels(points_lps: np.ndarray, ijk_to_ras: np.ndarray) -> np.ndarray:
    """Points (N, 3) in mm as i, j, k."""
    matrix = np.linalg.inv(ijk_to_ras) @ RAS_FROM_LPS
    return np.round(points_lps @ matrix[:3, :3].T + matrix[:3, 3], _DIGITS)


def _axis_across(contours: list[np.ndarray]) -> int:
    """Along which of i, j, k the slices follow each other on which contours (N, 3) are drawn."""
    thickness = np.median([np.ptp(contour, axis=0) for contour in contours], axis=0)
    return 2 - int(thickness[::-1].argmin())


def _by_slice(contours: list[np.ndarray], axis: int, count: int, source: str) -> dict[int, list[np.ndarray]]:
    """The contours of each of `count` slices, each once. Raises InputError where one is on none, or they contradict."""
    found: dict[int, dict[bytes, np.ndarray]] = {}
    heights: dict[int, float] = {}
    for contour in contours:
        height = float(contour[:, axis].mean().round(_DIGITS))
        number = int(np.floor(height + _HALF))
        if np.abs(contour[:, axis] - number).max() > _HALF:
            raise InputError(
                f"{source} has a contour that is not in the plane of one slice, but goes from slice "
                f"{contour[:, axis].min():.2f} to {contour[:, axis].max():.2f}; give the series that it was drawn on."
            )
        if not 0 <= number < count:
            raise InputError(
                f"{source} has a contour at slice {height:.2f}, outside of its image with the slices 0 to {count - 1}; "
                "give the whole series that it was drawn on."
            )
        if abs(heights.setdefault(number, height) - height) > TOLERANCE:
            raise InputError(
                f"{source} has contours at {heights[number]:.2f} and {height:.2f}, which are one slice of its image; "
                "give the series that it was drawn on."
            )
        found.setdefault(number, {})[contour.tobytes()] = contour
    return {number: list(of_slice.values()) for number, of_slice in found.items()}


def _check_inside(contours: list[np.ndarray], shape: tuple[int, ...], source: str) -> None:
    """Raises InputError for a contour, as `fill` takes it, that is nowhere on the slice."""
    for contour in contours:
        low, high = contour.min(0), contour.max(0)
        if (high < -_HALF).any() or (low > np.array(shape) - _HALF).any():
            raise InputError(
                f"{source} has a contour outside of its image, in the rows {low[0]:.1f} to {high[0]:.1f} and the "
                f"columns {low[1]:.1f} to {high[1]:.1f}; give the series that it was drawn on."
            )


def _read_rois(path: Path) -> list[_Roi]:
    """Those with closed contours, in the file's order. Raises InputError if there are none, or too many."""
    data = read_dataset(path, force=True)  # also without preamble
    described = {tag_text(item, "ROINumber"): item for item in tag_items(data, "StructureSetROISequence")}
    found, frames, left_out = [], set(), {}
    for item in tag_items(data, "ROIContourSequence"):
        number = tag_text(item, "ReferencedROINumber")
        roi = described.get(number, Dataset())
        name = " ".join(tag_text(roi, "ROIName").split()) or f"ROI {number}"
        contours = []
        for contour in tag_items(item, "ContourSequence"):
            kind = tag_text(contour, "ContourGeometricType")
            points = _points(contour, f"{str(path)!r}: the structure {name!r}")
            if kind in _CLOSED and len(points) > 2:
                contours.append(points)
            else:
                left_out[name] = kind
        if contours:
            found.append(_Roi(name, _color(item), tuple(contours)))
            frames.add(tag_text(roi, "ReferencedFrameOfReferenceUID"))
    if left_out:
        names = ", ".join(f"{name} ({kind or 'no kind'})" for name, kind in list(left_out.items())[:5])
        logger.warning("%s: contours that enclose nothing are left out: %s.", path, names)
    if not found:
        raise InputError(f"{str(path)!r} has no closed contours; draw some, or export it again.")
    if len(found) > LARGEST_NUMBER:
        raise InputError(f"{str(path)!r} has {len(found)} structures; keep at most {LARGEST_NUMBER}.")
    if len(frames) > 1:
        raise InputError(f"{str(path)!r} is drawn in {len(frames)} frames of reference; export those of one series.")
    return found


def _points(contour: Dataset, source: str) -> np.ndarray:
    """(N, 3) in mm, LPS."""
    numbers = tag_decimals(contour, "ContourData")
    if numbers is None:
        raise InputError(
            f"{source} has a contour without valid points ({quoted(contour, 'ContourData')}); export it again."
        )
    stated = tag_number(contour, "NumberOfContourPoints")
    if len(numbers) % 3 or stated not in (None, len(numbers) / 3):
        raise InputError(
            f"{source} has a contour of {len(numbers)} numbers, not three for each of its points "
            f"({quoted(contour, 'NumberOfContourPoints')}); export it again."
        )
    return numbers.reshape(-1, 3)


def _color(item: Dataset) -> tuple[int, int, int]:
    """The display colour in 0..255, grey without a valid one."""
    stored = tag_numbers(item, "ROIDisplayColor")
    if stored is None or len(stored) != 3 or not ((stored >= 0) & (stored <= 255)).all():
        return GREY
    red, green, blue = (round(part) for part in stored.tolist())
    return red, green, blue
