"""Slices that DICOM places one by one, as one volume: their order, their grid, and what keeps them from being one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..base.errors import InputError
from ..geometry import matrix_from_lps
from .dicom_frames import Frame

TOLERANCE = 0.05  # of the distance between slices, and of unit direction vectors
SAME_PLACE = 1e-3  # of a pixel's size: how far apart frames are at one position


def stack(frames: Sequence[Frame], source: str) -> tuple[list[Frame], np.ndarray]:
    """The frames in the order of their positions, and ijk_to_ras (4, 4).

    source: what they are of, for messages. Raises InputError unless they are a stack of one slice a position.
    """
    axes = _axes(frames, source)
    ordered = sorted(frames, key=lambda frame: float(frame.position @ axes[:, 2]))
    gaps, shifts = _steps(ordered, axes[:, 2])
    distance = _distance(gaps, ordered[0], source)
    _check_straight(shifts, distance, source)
    return ordered, _matrix(ordered[0], axes, distance)


def stack_with_gaps(
    frames: Sequence[Frame], source: str, stated: float | None = None
) -> tuple[list[int], int, np.ndarray]:
    """Of each frame its number k from 0, the count of slices, and ijk_to_ras; several frames may be at one position.

    stated: the distance between slices according to the file, which counts if it fits. Slices may be missing between
    others, as in a segmentation without its empty frames. Raises InputError unless all lie on one regular grid.
    """
    axes = _axes(frames, source)
    heights = np.array([frame.position @ axes[:, 2] for frame in frames])
    order = np.argsort(heights, kind="stable")
    first = frames[order[0]]
    gaps, shifts = _steps([frames[number] for number in order], axes[:, 2])
    gaps[gaps <= SAME_PLACE * first.pixel_spacing.min()] = 0
    if not gaps.any():
        return [0] * len(frames), 1, _matrix(first, axes, stated or _distance(gaps[:0], first, source))
    apart = gaps[gaps > 0]
    candidates = filter(None, (stated, float(apart.min())))
    distance = next((one for one in candidates if _are_multiples(apart, one)), None)
    if distance is None:
        raise InputError(
            f"{source} has frames {apart.min():.2f} to {apart.max():.2f} mm apart, which are on no regular grid; "
            "export it again on the slices of its image."
        )
    _check_straight(shifts, distance, source)
    numbers = np.zeros(len(frames), int)
    numbers[order[1:]] = np.cumsum(np.rint(gaps / distance))  # step by step, as positions are rounded
    last = int(numbers.max())
    return numbers.tolist(), last + 1, _matrix(first, axes, float(gaps.sum()) / last)


def _are_multiples(gaps: np.ndarray, distance: float) -> bool:
    steps = gaps / distance
    return bool((np.rint(steps) >= 1).all() and np.abs(steps - np.rint(steps)).max() <= TOLERANCE)


def _axes(frames: Sequence[Frame], source: str) -> np.ndarray:
    """Unit directions (LPS) of rows, columns and slices as columns (3, 3). Raises InputError if they differ."""
    if len(sizes := {frame.size for frame in frames}) > 1:
        raise InputError(f"{source} mixes slices of the sizes {sorted(sizes)}; keep one stack only.")
    orientations = np.array([frame.orientation for frame in frames])
    if np.ptp(orientations, axis=0).max() > TOLERANCE:
        raise InputError(f"{source} mixes slices of several orientations; keep one stack only.")
    spacings = np.array([frame.pixel_spacing for frame in frames])
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        raise InputError(f"{source} mixes slices of several pixel sizes; keep one stack only.")
    row, column = orientations[0, :3], orientations[0, 3:]
    if abs(np.linalg.norm(row) - 1) > 1e-2 or abs(np.linalg.norm(column) - 1) > 1e-2 or abs(row @ column) > 1e-2:
        raise InputError(
            f"{source} has ImageOrientationPatient {orientations[0].tolist()}, which is not a rotation; "
            "export the series again."
        )
    return np.column_stack([row, column, np.cross(row, column)])


def _matrix(first: Frame, axes: np.ndarray, distance: float) -> np.ndarray:
    between_rows, between_columns = first.pixel_spacing
    return matrix_from_lps(first.position, np.array([between_columns, between_rows, distance]), axes)


def _steps(ordered: Sequence[Frame], normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From each frame to the next, in mm: the distance along the normal, and how far it is shifted sideways."""
    steps = np.diff(np.array([frame.position for frame in ordered]), axis=0)
    gaps = steps @ normal
    return gaps, np.linalg.norm(steps - np.outer(gaps, normal), axis=1)


def _check_straight(shifts: np.ndarray, distance: float, source: str) -> None:
    if shifts.max(initial=0.0) > TOLERANCE * distance:
        raise InputError(
            f"{source} was acquired with a tilted gantry; load it in 3D Slicer, harden its acquisition "
            "transform, and give the volume that Slicer saves."
        )


def _distance(gaps: np.ndarray, first: Frame, source: str) -> float:
    """Distance between slices in mm. Raises InputError unless it is the same for all."""
    if len(gaps) == 0:
        if first.thickness is None:
            raise InputError(
                f"{str(first.path)!r} has one slice without a valid thickness (DICOM tag 0018,0050, SliceThickness); "
                "export the series again."
            )
        return first.thickness
    smallest, largest = float(gaps.min()), float(gaps.max())
    if largest - smallest > TOLERANCE * largest or largest == 0:
        raise InputError(
            f"{source} has slices {smallest:.2f} to {largest:.2f} mm apart: some are missing, or several "
            "acquisitions are mixed; export one complete series."
        )
    return float(gaps.mean())
