"""What is in a folder of training cases: their structures, what they cost, and why a case cannot be used."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from slicer.i18n import tr as _

from ...base.errors import Sam3dError
from ...card import UNKNOWN, Label
from ...geometry import voxel_ml
from .edits import MARK_TAG
from .painting import COMPLETED_TAG

if TYPE_CHECKING:
    from ...formats.painted import PaintedSlices
    from ...training.case_files import CaseFiles, Dataset
    from ...training.classes import CaseFacts, LabelRules, Look

_DETACHED_HEADERS = (".nhdr", ".mhd")
_Stamp = tuple[tuple[Path, int, int], ...]  # file, size, time of change
_seen: dict[tuple[CaseFiles, _Stamp], tuple[Look, Cost]] = {}  # of the folder that was surveyed last


@dataclass(frozen=True)
class Cost:
    """What a case has cost its painter. isOfModel: a model's result, of which nobody knows how much was corrected."""

    slices: int = 0
    isOfModel: bool = False


@dataclass(frozen=True)
class CaseRow:
    """One case of a folder. sizes: its labels with their mL; missing: labels that only other cases have.

    painted: the slices that are known, if not all are; seemsPainted: slices that are all that is painted as it seems,
    though all others are said to be known, too.
    """

    name: str
    files: tuple[Path, ...]
    cost: Cost = Cost()
    painted: PaintedSlices | None = None
    seemsPainted: PaintedSlices | None = None
    sizes: str = ""
    missing: tuple[str, ...] = ()
    problem: str = ""

    def describe(self) -> str:
        """For the user: the problem, else how much is painted where that is not all, sizes and missing labels."""
        if self.problem:
            return f"\u26a0 {self.problem}"
        slices = ""
        if self.painted is not None:
            slices = _("{count} of {total} slices").format(count=len(self.painted.numbers), total=self.painted.total)
        elif self.seemsPainted is not None:
            slices = _("\u26a0 {count} of {total} slices, but not marked as only painted").format(
                count=len(self.seemsPainted.numbers), total=self.seemsPainted.total
            )
        missing = [_("no {name}").format(name=name) for name in self.missing]
        return ", ".join([text for text in (slices, self.sizes, *missing) if text])


@dataclass(frozen=True)
class Survey:
    """The cases of a folder. problem: why they cannot be examined; notices: what was left out.

    channels: the names of the volumes that each case has, if there are several.
    """

    rows: tuple[CaseRow, ...] = ()
    labels: tuple[Label, ...] = ()
    problem: str = ""
    notices: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def whyNotReady(self) -> str:
        """Why the cases cannot be trained on, for the user; empty if they can."""
        if self.problem:
            return self.problem
        if any(row.problem for row in self.rows):
            return _("Some cases cannot be used; repair or remove them.")
        if not self.rows:
            return _("No cases yet; add 5 to 20.")
        return _("There is one case; at least 2 are needed, 5 to 20 are good.") if len(self.rows) == 1 else ""

    def describeCost(self) -> str:
        """What the cases have cost their painter, for the user; empty without cases."""
        costs = [row.cost for row in self.rows if not row.problem]
        if not costs:
            return ""
        slices, ofModel = sum(cost.slices for cost in costs), sum(cost.isOfModel for cost in costs)
        texts = [
            _("1 case") if len(costs) == 1 else _("{count} cases").format(count=len(costs)),
            _("1 painted slice") if slices == 1 else _("{count} painted slices").format(count=slices),
        ]
        if ofModel:
            texts.append(_("{count} made by a model").format(count=ofModel))
        return ", ".join(texts)


def surveyCases(folder: Path) -> Survey:
    """Reads the label maps of the folder that are new or have changed since the last survey.

    Uses neither nodes nor Qt, so that it can run in a thread.
    """
    from ...training.classes import agree_on_labels  # these bring SimpleITK
    from ...training.dataset import find_dataset

    rows: tuple[CaseRow, ...] = ()
    notices: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    try:
        dataset = find_dataset(folder, least=0)
        channels = dataset.channels
        rows, notices = (
            tuple(CaseRow(case.name, case.files) for case in dataset.cases),
            dataset.notices,
        )
        seen = _lookAtCases(dataset)
        labels, facts = agree_on_labels(dataset, tuple(look for look, _cost in seen)) if rows else ((), ())
    except Sam3dError as error:
        return Survey(rows, problem=str(error), notices=notices, channels=channels)
    described = tuple(_describe(case, cost, labels) for case, (_look, cost) in zip(facts, seen))
    return Survey(described, labels, notices=notices, channels=channels)


def _lookAtCases(dataset: Dataset) -> tuple[tuple[Look, Cost], ...]:
    from ...training.classes import LabelRules
    from ...training.look import look_at_cases

    rules = LabelRules(ignore=dataset.ignore)
    former = dict(_seen)
    _seen.clear()
    found = []
    for case in dataset.cases:
        key = case, _stamp(case)
        if key in former:
            seen = former[key]
        else:
            look = look_at_cases(replace(dataset, cases=(case,)), rules)[0]
            seen = look, Cost() if look.problem else _costOf(look, rules)
        if not seen[0].problem:  # which may be gone without a change of the files
            _seen[key] = seen
        found.append(seen)
    return tuple(found)


def _costOf(look: Look, rules: LabelRules) -> Cost:
    """Of a case that can be read: by what its segments' tags say of how they were made, else by its voxels.

    Who has painted all of it needed at least the slices of the direction with the fewest.
    """
    from ...formats.images import read_header
    from ...formats.label_maps import read_label_map
    from ...training.classes import class_indices

    path = look.files.label_map
    tags = [value for key, value in read_header(path).fields.items() if re.fullmatch(r"Segment\d+_Tags", key)]
    notes = dict(tag.partition(":")[::2] for tag in "|".join(tags).split("|"))
    if notes.get(COMPLETED_TAG, "").isdecimal():
        return Cost(int(notes[COMPLETED_TAG]))
    if MARK_TAG in notes:
        return Cost(isOfModel=True)
    if look.painted is not None:
        return Cost(len(look.painted.numbers))
    classes = class_indices(read_label_map(path), look.own, rules.ignore)
    isPainted = (classes > 0) & (classes != UNKNOWN)
    return Cost(min(int(np.count_nonzero(isPainted.any(others))) for others in ((1, 2), (0, 2), (0, 1))))


def _stamp(case: CaseFiles) -> _Stamp:
    found = [(path, path.stat()) for path in withVoxelFiles(case.files) if path.exists()]
    return tuple((path, info.st_size, info.st_mtime_ns) for path, info in found)


def withVoxelFiles(paths: Iterable[Path]) -> tuple[Path, ...]:
    """These files, and those beside them in which the headers among them (.nhdr, .mhd) keep their voxels."""
    from ...formats.images import read_header

    found: list[Path] = []
    for path in paths:
        found.append(path)
        if path.suffix.lower() not in _DETACHED_HEADERS:
            continue
        with contextlib.suppress(Sam3dError, OSError):  # of a header that cannot be read nothing more is known
            data = read_header(path).data
            if data.parent == path.parent and data not in found:
                found.append(data)
    return tuple(found)


def _describe(facts: CaseFacts, cost: Cost, labels: tuple[Label, ...]) -> CaseRow:
    ml = voxel_ml(facts.ijk_to_ras)
    sizes = ", ".join(f"{name} {count * ml:.2f}" for name, count in facts.voxels.items())
    missing = tuple(label.name for label in labels if label.name not in facts.voxels)
    files = facts.files
    return CaseRow(files.name, files.files, cost, facts.painted, facts.seems_painted, sizes, missing, facts.problem)
