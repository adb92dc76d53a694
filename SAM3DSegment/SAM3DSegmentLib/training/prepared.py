"""Cases prepared once for a training and kept on disk: only the slices that a sample asks for are in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.files import write_json, written_whole
from ..card import UNKNOWN, Label
from ..geometry import Crop
from ..preparation import Preparation, SquareFit
from .case_files import CaseFiles
from .classes import LabelRules
from .reading import read_case

SLICES_AT_A_TIME = 16
GREY_BYTES = 4  # of a pixel of each channel: float32, so that it is what inference sees to the bit
CLASS_BYTES = 1


@dataclass(frozen=True)
class PreparedCase:
    """One case, memory-mapped: grey (M, D, *fit.grid) float32 in 0..255, classes (D, *fit.grid) uint8, some UNKNOWN.

    spacing_mm is that of the grid, d first; classes_in_slice (D, C) says which classes each slice has;
    left_right_axis is the axis of (D, H, W) that runs between the patient's sides; is_partly_known: whether a class is
    UNKNOWN.
    """

    name: str
    grey: np.ndarray
    classes: np.ndarray
    fit: SquareFit
    spacing_mm: tuple[float, float, float]
    left_right_axis: int
    classes_in_slice: np.ndarray
    is_partly_known: bool = False

    @property
    def depth(self) -> int:
        return len(self.classes)

    def close(self) -> None:
        """Let go of the files, which Windows does not remove before. Nothing can be read afterwards."""
        for name in ("grey", "classes"):
            vars(self).pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which opens the files itself: a map would become a copy of all that is in its file."""
        maps = {name: Path(value.filename) for name, value in vars(self).items() if _is_map(value)}
        return {**vars(self), **maps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _open(value) if isinstance(value, Path) else value for name, value in state.items()})


def _is_map(value: Any) -> bool:
    return isinstance(value, np.memmap) and value.filename is not None


def _open(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def prepare_case(
    files: CaseFiles,
    labels: tuple[Label, ...],
    preparation: Preparation,
    rules: LabelRules,
    folder: Path,
    boxes: Sequence[Crop] = (),
) -> tuple[PreparedCase, ...]:
    """Prepare a case as inference does, or open what is in `folder` from before: whole, or each of some boxes of it."""
    names = [f"{files.name}@{number}" for number in range(len(boxes))] or [files.name]
    if not all(_facts_file(name, folder).is_file() for name in names):
        image, classes_kji = read_case(files, labels, rules)
        for name, box in zip(names, boxes or [Crop.whole(classes_kji.shape)]):
            prepared = preparation.prepare(tuple(map(box.take, image.channels)), box.move(image.ijk_to_ras))
            classes = prepared.classes(box.take(classes_kji), 0, prepared.depth)
            fit = prepared.fit
            facts = {
                "fit": [fit.height, fit.width, fit.size, list(fit.inner)],
                "spacing_mm": list(prepared.slicing.spacing_mm),
                "left_right_axis": prepared.slicing.left_right_axis,
                "is_partly_known": bool((classes == UNKNOWN).any()),
                "has_class": [[bool((piece == index).any()) for index in range(len(labels) + 1)] for piece in classes],
            }
            with written_whole(_file_of(name, folder, "grey")) as partial:
                shape = (prepared.channels, prepared.depth, *fit.grid)
                grey = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
                for start in range(0, prepared.depth, SLICES_AT_A_TIME):
                    stop = min(start + SLICES_AT_A_TIME, prepared.depth)
                    grey[:, start:stop] = prepared.grey(start, stop).transpose(0, 1).numpy()
                grey.flush()
                del grey  # Windows renames no file that is mapped
            with written_whole(_file_of(name, folder, "classes")) as partial:
                np.save(partial, classes.numpy())
            write_json(_facts_file(name, folder), facts)  # last, so that a case with facts is complete
    return tuple(_open_case(name, folder) for name in names)


def plain_view(case: PreparedCase, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Slices [start, stop) as they are: grey (M, n, *grid) float32 in 0..255, class indices (n, *grid) uint8."""
    return torch.tensor(case.grey[:, start:stop]), torch.tensor(case.classes[start:stop])


def _file_of(name: str, folder: Path, what: str) -> Path:
    return folder / f"{name}.{what}.npy"


def _facts_file(name: str, folder: Path) -> Path:
    return folder / f"{name}.json"


def _open_case(name: str, folder: Path) -> PreparedCase:
    facts: dict[str, Any] = json.loads(_facts_file(name, folder).read_text(encoding="utf-8"))
    height, width, size, inner = facts["fit"]
    fit = SquareFit(height, width, size, (inner[0], inner[1]))
    d_mm, h_mm, w_mm = facts["spacing_mm"]
    return PreparedCase(
        name,
        _open(_file_of(name, folder, "grey")),
        _open(_file_of(name, folder, "classes")),
        fit,
        (d_mm, h_mm * height / fit.grid[0], w_mm * width / fit.grid[1]),
        facts["left_right_axis"],
        np.array(facts["has_class"]),
        facts["is_partly_known"],
    )
