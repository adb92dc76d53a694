"""The files that are the channels of one volume: given by name, or numbered as nnU-Net does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..base.errors import InputError, require
from ..card import ModelCard
from ..formats.channels import NUMBER, ChannelFile
from ..formats.content import check_exists
from ..formats.segments import name_key
from .inputs import Source
from .studies import channel_of, join_studies


def parse_channels(given: Sequence[str]) -> dict[str, Path]:
    """ "T2=FILE" and the like, by name. Raises InputError for anything else, or a name that is given twice."""
    found: dict[str, Path] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not (name.strip() and sign and path):
            raise InputError(
                f"--channel {text!r} is not NAME=FILE; give a channel's name and its file, as in T2=t2.nii.gz."
            )
        if name_key(name) in map(name_key, found):
            raise InputError(f"--channel {name!r} is given twice; give each channel one file.")
        found[name] = Path(path)
    return found


def join_channels(
    sources: list[Source], card: ModelCard, given: Mapping[str, Path], series_uid: str | None = None
) -> list[Source]:
    """The sources of one input as the volumes that the model reads, which may be of several files each.

    given: by name, the other channels of the only source, of which series_uid chooses a DICOM series. Raises InputError
    where these are not those of the model; `check_channels` tells it of files that are grouped by their numbers, and of
    studies.
    """
    if given:
        return [_with_others(sources, card, given, series_uid)]
    if len(card.inputs) == 1:
        return sources
    folders = [source for source in sources if source.path.is_dir()]
    files = [source for source in sources if not source.path.is_dir()]
    return [*_join_files(files, card), *(join_studies(folders, card) if folders else ())]


def _join_files(sources: Sequence[Source], card: ModelCard) -> list[Source]:
    groups: dict[str, dict[int | None, Source]] = {}
    for source in sources:
        match = NUMBER.search(source.case)
        case, number = (source.case[: match.start()], int(match[1])) if match else (source.case, None)
        other = groups.setdefault(case, {}).setdefault(number, source)
        if other is not source:
            raise InputError(f"{str(other.path)!r} and {str(source.path)!r} would be the same channel; rename one.")
    return [_join(case, group, card) for case, group in groups.items()]


def check_channels(source: Source, card: ModelCard) -> None:
    """Raises InputError unless a source has the channels that the model reads."""
    require(not source.hindrance, source.hindrance)
    wanted = [channel.name for channel in card.channels]
    has = [channel.name for channel in source.channels]
    if len(card.inputs) == 1 or has == wanted:
        return
    reads = f"the model {card.name!r} reads {', '.join(wanted)}"
    if not has:
        raise InputError(
            f"{str(source.path)!r} is one channel, but {reads}; add --channel NAME=FILE for the others, or name the "
            f"files of a folder {source.case}_0000, {source.case}_0001 and so on."
        )
    missing, surplus = ([n for n in one if n not in other] for one, other in ((wanted, has), (has, wanted)))
    told = [f"the channel {', '.join(missing)} is missing"] if missing else []
    told += [f"the channel {', '.join(surplus)} is too many"] if surplus else []
    raise InputError(f"{str(source.path)!r}: {' and '.join(told)}; {reads}.")


def _with_others(sources: list[Source], card: ModelCard, given: Mapping[str, Path], series_uid: str | None) -> Source:
    wanted = [channel.name for channel in card.channels]
    reads = f"the model {card.name!r} reads {', '.join(wanted) or 'one channel, without a name'}"
    by_key = {name_key(name): path for name, path in given.items()}
    if unknown := [name for name in given if name_key(name) not in map(name_key, wanted)]:
        raise InputError(f"--channel {unknown[0]!r} is none that the model knows: {reads}.")
    own = [name for name in wanted if name_key(name) not in by_key]
    if len(own) != 1:
        raise InputError(
            f"{len(given)} channels are given by --channel beside the input, but {reads}; give all of them but one."
        )
    if len(sources) != 1:
        raise InputError(f"--channel is for one volume, and there are {len(sources)}; give a single file.")
    source = sources[0]
    for path in given.values():
        check_exists(path)
    channels = []
    for name in wanted:
        path = by_key.get(name_key(name), source.path)
        if path.is_dir() and (series_uid is None or path != source.path):
            channels.append(channel_of(path, name, card))
        else:
            channels.append(ChannelFile(name, path, series_uid=series_uid if path == source.path else None))
    _check_different(channels)
    return replace(source, channels=tuple(channels))


def _check_different(channels: Sequence[ChannelFile]) -> None:
    """Raises InputError where one file would be two channels, of which one must be another."""
    seen: dict[tuple[str, str | None], ChannelFile] = {}
    for channel in channels:
        other = seen.setdefault((os.path.realpath(channel.path), channel.series_uid), channel)
        require(
            other is channel,
            f"the channels {other.name} and {channel.name} would both be {str(channel.path)!r}; give each its own "
            "volume.",
        )


def _join(case: str, group: dict[int | None, Source], card: ModelCard) -> Source:
    """The files of one case, by their numbers; or the one whose last axis is the channel."""
    numbers = [number for number in group if number is not None]
    if not numbers:
        return _with_places(group[None], card)
    require(
        None not in group,
        f"{case!r} is the name of a file, and of others that end in a channel's number; keep the one or the others.",
    )
    channels = tuple(ChannelFile(_name(number, card), group[number].path) for number in sorted(numbers))
    first = group[min(numbers)]
    relative = first.relative.with_name(first.relative.name.replace(f"_{min(numbers):04d}.", ".", 1))
    return replace(first, relative=relative, channels=channels)


def _with_places(source: Source, card: ModelCard) -> Source:
    if source.header is None or source.header.frames == 1:
        return source
    places = range(source.header.frames)
    return replace(source, channels=tuple(ChannelFile(_name(place, card), source.path, place) for place in places))


def _name(number: int, card: ModelCard) -> str:
    return card.channels[number].name if number < len(card.channels) else f"{number:04d}"
