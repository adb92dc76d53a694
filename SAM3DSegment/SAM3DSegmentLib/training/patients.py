"""Of whom the cases of a data set are, so that nobody is judged on a patient who was learned from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import require

_FRAME = re.compile(r"(?<=.)_frame\d+$")


def read_patients(description: Mapping[str, Any], path: Path) -> dict[str, str]:
    """By case, from the entry "patients" of the file `path`; nothing without it. Raises InputError."""
    given = description.get("patients", {})
    example = 'as in {"patients": {"case_1": "P7", "case_2": "P7"}}.'
    require(isinstance(given, dict), f"{str(path)!r} has patients {given!r}; name one for each case, {example}")
    for case, patient in given.items():
        require(
            isinstance(patient, str | int) and str(patient).strip() != "",
            f"{str(path)!r} names {patient!r} as the patient of the case {case!r}; give a text, {example}",
        )
    return {case: str(patient) for case, patient in given.items()}


def frame_name(case: str, number: int) -> str:
    """How a frame of a case is called as a case of its own."""
    return f"{case}_frame{number:03d}"


def patients_of(cases: Iterable[str], stated: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Of whom each case is, and names in `stated` that are of no case.

    Cases that are called as frames are of one patient, whom `stated` may name by the name that they share.
    """
    found, used = {}, set()
    for case in cases:
        movie = _FRAME.sub("", case)
        name = case if case in stated else movie
        if name in stated or movie != case:
            found[case] = stated.get(name, movie)
            used.add(name)
    return found, sorted(stated.keys() - used)


def by_patient(cases: Iterable[str], patients: Mapping[str, str]) -> list[list[str]]:
    """The cases of each patient, in their order; patients in the order of their first cases.

    A case that `patients` does not name is of a patient of its own.
    """
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in cases:
        groups.setdefault((name in patients, patients.get(name, name)), []).append(name)
    return list(groups.values())


def read_frames(description: Mapping[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """By case over time, from the entry "frames" of the file `path`, those that are cases of their own, from 0."""
    given = description.get("frames", {})
    example = 'as in {"frames": {"case_1": [0, 9]}}.'
    require(isinstance(given, dict), f"{str(path)!r} has frames {given!r}; list some for each case, {example}")
    for case, numbers in given.items():
        are_numbers = isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
        require(
            are_numbers and 0 < len(numbers) == len(set(numbers)),
            f"{str(path)!r} has the frames {numbers!r} of the case {case!r}; list their numbers, from 0, {example}",
        )
    return {case: tuple(numbers) for case, numbers in given.items()}
