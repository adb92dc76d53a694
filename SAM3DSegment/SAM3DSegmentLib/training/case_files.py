"""Labelled volumes on disk: the files of each case, and what a folder of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..base.errors import InputError
from ..formats.channels import ChannelFile
from ..formats.segments import name_key
from .description import DESCRIPTION
from .patients import frame_name


@dataclass(frozen=True)
class CaseFiles:
    """A case's name, its image, and its label map or segmentation.

    series_uid: which series of the folder `image`, if that is a folder of DICOM files. parts: the channels, if they
    have names; `image` is then the file of the first. frame: which one, from 0, of images and a label map over time.
    """

    name: str
    image: Path
    label_map: Path
    series_uid: str | None = None
    parts: tuple[ChannelFile, ...] = ()
    frame: int | None = None

    @property
    def channels(self) -> tuple[ChannelFile, ...]:
        """At least one."""
        return self.parts or (ChannelFile("", self.image, series_uid=self.series_uid),)

    @property
    def files(self) -> tuple[Path, ...]:
        """All that are read."""
        return (*dict.fromkeys(channel.path for channel in self.channels), self.label_map)

    def with_channels(self, names: Sequence[str]) -> CaseFiles:
        """Only those of these names that it has, in the order of the names."""
        own = {name_key(part.name): part for part in self.parts}
        parts = tuple(replace(own[key], name=name) for name in names if (key := name_key(name)) in own)
        return replace(self, image=parts[0].path, parts=parts) if parts else self


@dataclass(frozen=True)
class Dataset:
    """Cases on disk, what `dataset.json` says of them, and what was left out (`notices`, one line each).

    ignore: the value, from `dataset.json`, of voxels of which nothing is known. channels: the names of those that a
    case should have; (): it has one, without a name. patients: by case, where that is known, of whom it is; cases of
    one patient are never on both sides of a split.
    """

    folder: Path
    cases: tuple[CaseFiles, ...]
    names: dict[int, str]  # of the labels' values, from dataset.json; empty without it
    modality: str
    licence: str
    notices: tuple[str, ...]
    ignore: int | None = None
    channels: tuple[str, ...] = ()
    patients: dict[str, str] = field(default_factory=dict)

    def with_channels(self, names: Sequence[str]) -> Dataset:
        """With only these channels of each case. Raises InputError for one that no case has."""
        known = {name_key(name) for name in self.channels}
        if missing := [name for name in names if name_key(name) not in known]:
            has = f"they have {', '.join(self.channels)}" if self.channels else "they have one, without a name"
            raise InputError(f"no case of {str(self.folder)!r} has a channel {missing[0]!r}; {has}.")
        return replace(self, cases=tuple(case.with_channels(names) for case in self.cases), channels=tuple(names))

    def check_channels(self, case: CaseFiles) -> None:
        """Raises InputError unless a case has all channels."""
        has = [part.name for part in case.parts]
        if has != list(self.channels):
            raise InputError(
                f"the channels of {case.name} are {', '.join(filter(None, has)) or 'one without a name'}, but "
                f"{', '.join(self.channels)} are wanted; add the missing file, or take the case out."
            )


def channels_of(cases: tuple[CaseFiles, ...]) -> tuple[str, ...]:
    """The names of all channels that cases have; () if no case has more than one."""
    if all(len(case.parts) < 2 for case in cases):
        return ()
    return tuple(dict.fromkeys(part.name for case in cases for part in case.parts if part.name))


def with_frames(cases: tuple[CaseFiles, ...], frames: dict[str, tuple[int, ...]]) -> tuple[CaseFiles, ...]:
    """The cases; of each that has frames these instead."""
    found: list[CaseFiles] = []
    for case in cases:
        numbers = frames.get(case.name)
        if numbers is not None and any(part.place is not None for part in case.parts):
            raise InputError(
                f"{DESCRIPTION} gives {case.name!r} frames and several channels, which both are its last axis; "
                "keep one."
            )
        found += [case] if numbers is None else [replace(case, name=frame_name(case.name, n), frame=n) for n in numbers]
    return tuple(found)
