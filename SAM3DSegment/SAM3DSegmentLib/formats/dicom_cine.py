"""A DICOM series with several slices at each position, taken one after the other: as a beating heart is imaged."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.errors import InputError
from .dicom_frames import Frame

DECIMALS = 2  # of mm, by which positions are the same


def movie(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The slices of each time, in the order of the times; one list of all unless each position has several slices.

    The n-th time is that of the n-th slice of each position, because scanners trigger each position anew. Slices of
    which nothing says when they were taken are no frames over time.
    """
    at: dict[tuple[float, ...], list[Frame]] = {}
    for frame in frames:
        at.setdefault(tuple(round(float(x), DECIMALS) + 0.0 for x in frame.position), []).append(frame)
    positions = list(at.values())
    for kind in range(len(frames[0].times)):
        times = [[frame.times[kind] for frame in slices] for slices in positions]
        are_known = all(None not in of_position and len(set(of_position)) == len(of_position) for of_position in times)
        if len({len(slices) for slices in positions}) == 1 and are_known:
            ordered = [sorted(slices, key=lambda frame: frame.times[kind] or 0.0) for slices in positions]
            return [list(slices) for slices in zip(*ordered)]
    return [list(frames)]


def check_is_one_volume(frames: list[list[Frame]], source: str) -> None:
    """Raises InputError for frames over time of which none was chosen."""
    if len(frames) > 1:
        raise InputError(
            f"{source} has {len(frames)} frames over time, of {len(frames[0])} slices each; `segment` takes all or "
            "some of them with --frames all, N or N:M, from 0; else export one volume of it."
        )
