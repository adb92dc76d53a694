"""Which frames of a 4-D volume are segmented."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from ..base.progress import Silent
from ..base.watch import Watch
from ..formats.frames_writing import FRAMES_SUFFIXES, holds_frames
from ..formats.volumes import OUTPUT_SUFFIXES

ALL = "all"


@dataclass(frozen=True)
class FrameChoice:
    """The frames from `first`, counted from 0, to the one before `end`; None for the rest."""

    first: int = 0
    end: int | None = None

    def of(self, path: Path, count: int) -> range:
        """Numbers of the chosen ones of `count` frames. Raises InputError if some of them are not there."""
        end = count if self.end is None else self.end
        if end > count:
            raise InputError(
                f"--frames {self} are not all in {str(path)!r}, which has frames 0 to {count - 1}; choose others."
            )
        return range(self.first, end)

    def __str__(self) -> str:
        if self.end is None:
            return ALL
        return str(self.first) if self.end == self.first + 1 else f"{self.first}:{self.end}"


def parse_frames(text: str) -> FrameChoice:
    """ "all", "N", or "N:M" for N to M - 1. Raises InputError for anything else."""
    if text == ALL:
        return FrameChoice()
    match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text, re.ASCII)
    first, end = (int(match[1]), int(match[2] or int(match[1]) + 1)) if match else (0, 0)
    if end <= first:
        raise InputError(
            f"--frames {text!r} are not frames; give {ALL}, N, or N:M for those from N to M - 1, counted from 0, such "
            "as 0:10."
        )
    return FrameChoice(first, end)


def in_one_file(masks: Path, choice: FrameChoice, count: int) -> bool:
    """Whether the masks of `count` frames go into one file, not a folder. Raises InputError if it holds one only."""
    if holds_frames(masks) and not masks.is_dir():
        return True
    if masks.name.lower().endswith(OUTPUT_SUFFIXES) and not masks.is_dir():
        raise InputError(
            f"output {str(masks)!r} holds one volume, but --frames {choice} are {count}; use "
            f"{', '.join(FRAMES_SUFFIXES)}, or the name of a folder for a file of each."
        )
    return False


class Stack:
    """`arrays`: those of all frames, (T, K, J, I) uint8, which are put in one by one, so that none is there twice."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.arrays = np.empty(0, np.uint8)

    def put(self, number: int, array_kji: np.ndarray) -> bool:
        """From number 0 on; False for one of another shape than the first."""
        if number == 0:
            self.arrays = array_kji[None] if self._count == 1 else np.empty((self._count, *array_kji.shape), np.uint8)
        if array_kji.shape != self.arrays.shape[1:]:
            return False
        self.arrays[number] = array_kji
        return True


class _Share(Silent):
    """Shows the progress of the work on one of several frames as a part of the whole."""

    def __init__(self, watch: Watch, number: int, count: int) -> None:
        self._watch, self._number, self._count = watch, number, count

    def progress(self, stage: str, done: int, total: int) -> None:
        self._watch.progress(stage, self._number * total + done, self._count * total)

    def event(self, name: str, **values: object) -> None:
        self._watch.event(name, **values)


def share_of(watch: Watch, number: int, count: int) -> Watch:
    """A watch for the work on frame `number` of `count`, from 0."""
    return Watch(_Share(watch, number, count), watch.cancelled, watch.finishing)
