"""The files that are the channels of one volume: given by name, or numbered as nnU-Net does."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..base.errors import InputError, require
from ..card import ModelCard
from ..formats.channels import NUMBER, ChannelFile
from ..formats.content import check_exists
from ..formats.segments import name_key
from ..training.description import DESCRIPTION, channel_names, read_description
from .inputs import Source
from .studies import channel_of, join_studies

logger = logging.getLogger(__name__)


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
    if not card.channels:
        return sources
    folders = [source for source in sources if source.path.is_dir()]
    files = [source for source in sources if not source.path.is_dir()]
    if len(card.channels) == 1:
        return [*_without_others(files, card), *folders]
    return [*_join_files(files, card), *(join_studies(folders, card) if folders else ())]


def numbered_names(folder: Path) -> Mapping[int, str]:
    """The names of channels by nnU-Net's numbers, or by their places on a file's last axis; empty if nobody says them.

    They stand in `dataset.json` in the folder of the images, or in the one above.
    """
    folders = (folder, folder.absolute().parent)
    return next(filter(None, (channel_names(read_description(path / DESCRIPTION)) for path in folders)), {})


def _without_others(sources: Sequence[Source], card: ModelCard) -> list[Source]:
    """Without the files that are, as `dataset.json` says, other channels than the one that the model reads."""
    names = {folder: numbered_names(folder) for folder in {source.path.parent for source in sources}}
    others = []
    for source in sources:
        named = {number: name_key(name) for number, name in names[source.path.parent].items()}
        own, match = name_key(card.channels[0].name), NUMBER.search(source.case)
        if match and own in named.values() and named.get(int(match[1]), own) != own:
            others.append(source)
    if others:
        told = ", ".join(str(source.path) for source in others[:5])
        logger.info("left out, because they are not the channel %s: %s.", card.channels[0].name, told)
    return [source for source in sources if source not in others] if len(others) < len(sources) else list(sources)


def _join_files(sources: Sequence[Source], card: ModelCard) -> list[Source]:
    names = {folder: numbered_names(folder) for folder in {source.path.parent for source in sources}}
    groups: dict[str, dict[int | None, Source]] = {}
    for source in sources:
        match = NUMBER.search(source.case)
        case, number = (source.case[: match.start()], int(match[1])) if match else (source.case, None)
        other = groups.setdefault(case, {}).setdefault(number, source)
        if other is not source:
            raise InputError(f"{str(other.path)!r} and {str(source.path)!r} would be the same channel; rename one.")
    return [_join(case, group, card, names[next(iter(group.values())).path.parent]) for case, group in groups.items()]


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
        raise InputError(f"--channel {unknown[0]!r} is not one of the model's: {reads}.")
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


def _join(case: str, group: dict[int | None, Source], card: ModelCard, names: Mapping[int, str]) -> Source:
    """The files of one case, by their numbers; or the one whose last axis is the channel."""
    numbers = [number for number in group if number is not None]
    if not numbers:
        return _with_places(group[None], card, names)
    require(
        None not in group,
        f"{case!r} is the name of a file, and of others that end in a channel's number; keep the one or the others.",
    )
    channels = tuple(ChannelFile(name, group[n].path) for n, name in _names_of(sorted(numbers), card, names).items())
    first = group[min(numbers)]
    relative = first.relative.with_name(first.relative.name.replace(f"_{min(numbers):04d}.", ".", 1))
    return replace(first, relative=relative, channels=channels)


def _with_places(source: Source, card: ModelCard, names: Mapping[int, str]) -> Source:
    if source.header is None or source.header.frames == 1:
        return source
    found = _names_of(range(source.header.frames), card, names)
    return replace(source, channels=tuple(ChannelFile(name, source.path, place) for place, name in found.items()))


def _names_of(numbers: Iterable[int], card: ModelCard, names: Mapping[int, str]) -> dict[int, str]:
    """The model's name of each numbered channel, in the model's order; what the model does not know keeps its number.

    Where `dataset.json` has any of the model's names, these count, and its other channels are left out: a model may
    read some of them, in another order. Else the numbers count from the model's first channel.
    """
    wanted = {name_key(channel.name): channel.name for channel in card.channels}
    if not wanted.keys() & set(map(name_key, names.values())):
        names = dict(enumerate(wanted.values()))
    found = {n: wanted.get(name_key(names.get(n, "")), f"{n:04d}") for n in numbers}
    order = list(wanted.values())
    used = [n for n, name in found.items() if name in order or n not in names]
    return {n: found[n] for n in sorted(used, key=lambda n: (*order, found[n]).index(found[n]))}
