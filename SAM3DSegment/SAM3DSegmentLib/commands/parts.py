"""The share of a folder's cases that one of several processes does."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from ..base.errors import InputError

AUTO = "auto"
_ARRAY = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, from 1. Which part a case is in depends on its path alone, not on the other cases."""

    number: int = 1
    count: int = 1

    def has(self, relative: PurePath) -> bool:
        """relative: of the case to the folder that was given; on macOS its letters may be composed in another way."""
        if self.count == 1:
            return True
        name = unicodedata.normalize("NFC", relative.as_posix()).encode("utf-8", "surrogateescape")
        return int(hashlib.sha256(name).hexdigest(), 16) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class Which:
    """Of a folder's volumes: those of a part; of the whole tree, not of the folder alone; that match a pattern."""

    part: Part = Part()
    recursive: bool = False
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.pattern is not None and not self.recursive:
            raise InputError(f"--pattern {self.pattern!r} is for a tree of folders; add --recursive.")
        if self.pattern is not None and not self.pattern.strip("./"):
            raise InputError(f"--pattern {self.pattern!r} matches nothing; give one such as '*_T1w.nii.gz'.")


def parse_part(text: str, environment: Mapping[str, str]) -> Part:
    """ "K/N", or "auto" for the number of a task in a job array of Slurm. Raises InputError for anything else."""
    if text == AUTO:
        return _of_array(environment)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--part {text!r} is not a part; give K/N with K from 1 to N, such as 3/8, or {AUTO}.")
    return Part(int(match[1]), int(match[2]))


def _of_array(environment: Mapping[str, str]) -> Part:
    """The tasks first, first + step, ... are the parts 1, 2, ..."""
    given = {key: environment.get(_ARRAY + key, "") for key in ("ID", "MIN", "MAX", "COUNT", "STEP")}
    numbers = {key: int(value) for key, value in given.items() if value.isdecimal()}
    if "ID" not in numbers or not {"MAX", "COUNT"} & set(numbers):
        raise InputError(
            f"--part {AUTO} needs {_ARRAY}ID and {_ARRAY}COUNT or {_ARRAY}MAX, which are not set; start it in a job "
            "array (sbatch --array=1-8), or give --part K/N."
        )
    first, step = numbers.get("MIN", 1), max(1, numbers.get("STEP", 1))
    count = numbers.get("COUNT") or (numbers["MAX"] - first) // step + 1
    index, rest = divmod(numbers["ID"] - first, step)
    if rest or not 0 <= index < count:
        stated = ", ".join(f"{_ARRAY}{key}={value}" for key, value in given.items() if value)
        raise InputError(
            f"--part {AUTO} cannot number the tasks of this array ({stated}); use one without gaps, such as "
            "--array=1-8, or give --part K/N."
        )
    return Part(index + 1, count)
