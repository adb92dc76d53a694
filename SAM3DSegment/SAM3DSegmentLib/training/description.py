"""What `dataset.json` of the Medical Segmentation Decathlon and of nnU-Net says of a folder of labelled volumes."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..formats.segments import BACKGROUND, IGNORE, name_key

DESCRIPTION = "dataset.json"


@dataclass(frozen=True)
class Description:
    """What a folder's `dataset.json` says of its cases; nothing without the file.

    labels: the names of the structures' values, 0 not among them; background: that of 0. ignore: the value of voxels
    of which nothing is known. channels: names by their numbers. frames: by case over time, those that are cases of
    their own. patients: by case, of whom it is.
    """

    labels: dict[int, str]
    background: str
    ignore: int | None
    channels: dict[int, str]
    modality: str
    licence: str
    frames: dict[str, tuple[int, ...]]
    patients: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Description:
        """Raises InputError for what cannot be understood."""
        given = read_description(path)
        labels = label_names(given, path)
        ignore = _pop_ignored(labels)
        return cls(
            background=labels.pop(0, BACKGROUND),
            labels=labels,
            ignore=ignore,
            channels=channel_names(given),
            modality=_as_text(given.get("modality") or given.get("channel_names")),
            licence=_as_text(given.get("licence") or given.get("license")),
            frames=_frames(given, path),
            patients=_patients(given, path),
        )


def names_of_values(folders: Iterable[Path]) -> dict[int, str]:
    """Of the labels, from the first of the folders with a `dataset.json`; empty without it. Raises InputError."""
    for folder in folders:
        if names := label_names(read_description(folder / DESCRIPTION), folder):
            return names
    return {}


def regions_of(folders: Iterable[Path]) -> dict[str, tuple[int | str, ...]]:
    """What is evaluated together: from the first of the folders whose `dataset.json` says so; else nothing.

    As nnU-Net has it, lists among its "labels", or a list for each name under "regions". Raises InputError.
    """
    for folder in folders:
        description = read_description(folder / DESCRIPTION)
        labels = description.get("labels")
        listed = (
            {name: value for name, value in labels.items() if isinstance(value, list)}
            if isinstance(labels, dict)
            else {}
        )
        if given := description.get("regions") or listed:
            return as_regions(given, folder / DESCRIPTION)
    return {}


def as_regions(given: Any, path: Path) -> dict[str, tuple[int | str, ...]]:
    """Values or names of structures, by the name of what they are together. Raises InputError."""
    whole = isinstance(given, dict) and all(
        isinstance(members, list)
        and members
        and all(isinstance(member, (int, str)) and not isinstance(member, bool) for member in members)
        for members in given.values()
    )
    if not whole:
        raise InputError(
            f'regions of {str(path)!r} cannot be read; give values for each name, as in {{"WT": [1, 2, 3]}}.'
        )
    return {" ".join(name.split()): tuple(members) for name, members in given.items()}


def read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{str(path)!r} is not valid JSON ({error}); fix or remove it.") from error
    if not isinstance(description, dict):
        raise InputError(f"{str(path)!r} is not a JSON object; fix or remove it.")
    return description


def channel_names(description: dict[str, Any]) -> dict[int, str]:
    """Number to name, from nnU-Net's `channel_names` or Decathlon's `modality`; only names that tell channels apart."""
    given = description.get("channel_names") or description.get("modality")
    items = given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, list) else ()
    names = {int(number): str(name) for number, name in items if str(number).isdecimal()}
    return names if len(set(map(name_key, names.values()))) == len(names) else {}


def label_names(description: dict[str, Any], path: Path) -> dict[int, str]:
    """Value to name, from {"1": "Anterior"} (Decathlon, nnU-Net v1) or {"Anterior": 1} (nnU-Net v2).

    A list is a region of nnU-Net's, such as {"whole tumour": [1, 2, 3]}; of one value it names that, if nothing else
    does. Raises InputError where a value means something else than one structure.
    """
    given = description.get("labels") or {}
    names: dict[int, str] = {}
    alone: dict[int, str] = {}  # the values of regions that have one
    joined: dict[int, str] = {}  # and of those that have several, which do not name them
    try:
        for key, value in given.items():
            if isinstance(value, list):
                named = {operator.index(number): key if len(value) == 1 else f"Label {number}" for number in value}
                (alone if len(value) == 1 else joined).update(named)
                continue
            number, name = (int(key), value) if str(key).isdecimal() else (value, key)
            if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str):
                raise TypeError(f"{key!r}: {value!r}")
            if number in names:
                raise ValueError(f"{names[number]!r} and {name!r} are both {number}")
            names[number] = name
        names = {**joined, **alone, **names}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} has labels that cannot be read ({error}); give one value for each name, as in "
            '{"background": 0, "liver": 1}.'
        ) from error
    value_of: dict[str, int] = {}
    for number, name in names.items():
        key = name_key(name)
        if key == IGNORE and number == 0:
            raise InputError(f"{str(path)!r} names 0 {name!r}, but the background is 0; renumber the labels.")
        if (key == BACKGROUND) != (number == 0) and BACKGROUND in map(name_key, names.values()):
            raise InputError(f"{str(path)!r} names {number} {name!r}, but the background is 0; renumber the labels.")
        if value_of.setdefault(key, number) != number:
            raise InputError(f"{str(path)!r} gives {name!r} the values {value_of[key]} and {number}; keep one of them.")
    return names


def _pop_ignored(names: dict[int, str]) -> int | None:
    """The value that is named "ignore", as in nnU-Net's data; it is no structure, and taken out of `names`."""
    value = next((number for number, name in names.items() if name_key(name) == IGNORE), None)
    if value is not None:
        del names[value]
    return value


def _as_text(value: Any) -> str:
    """ "MRI", ["MRI"] and {"0": "MRI"} are all "MRI"."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value or "")


def _patients(description: Mapping[str, Any], path: Path) -> dict[str, str]:
    """By case, from the entry "patients"; nothing without it. Raises InputError."""
    given = description.get("patients", {})
    example = 'as in {"patients": {"case_1": "P7", "case_2": "P7"}}.'
    if not isinstance(given, dict):
        raise InputError(f"{str(path)!r} has patients {given!r}; name one for each case, {example}")
    for case, patient in given.items():
        if not isinstance(patient, str | int) or not str(patient).strip():
            raise InputError(
                f"{str(path)!r} names {patient!r} as the patient of the case {case!r}; give a text, {example}"
            )
    return {case: str(patient) for case, patient in given.items()}


def _frames(description: Mapping[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """By case over time, from the entry "frames", those that are cases of their own, from 0."""
    given = description.get("frames", {})
    example = 'as in {"frames": {"case_1": [0, 9]}}.'
    if not isinstance(given, dict):
        raise InputError(f"{str(path)!r} has frames {given!r}; list some for each case, {example}")
    for case, numbers in given.items():
        are_numbers = isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
        if not are_numbers or not 0 < len(numbers) == len(set(numbers)):
            raise InputError(
                f"{str(path)!r} has the frames {numbers!r} of the case {case!r}; list their numbers, from 0, {example}"
            )
    return {case: tuple(numbers) for case, numbers in given.items()}
