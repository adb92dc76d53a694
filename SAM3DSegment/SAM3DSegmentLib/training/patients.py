"""Of whom the cases of a data set are, so that nobody is judged on a patient who was learned from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_FRAME = re.compile(r"(?<=.)_frame\d+$")


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
