"""The DICOM series of a study that are the channels of one volume, by what they are called."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import InputError
from ..card import ModelCard
from ..channel import is_sure, match_channels, modality_agrees
from ..formats.channels import ChannelFile
from ..formats.content import holds_dicom
from .inputs import Source

if TYPE_CHECKING:
    from ..formats.dicom_studies import StudySeries  # pydicom is loaded where there is DICOM

logger = logging.getLogger(__name__)


def join_studies(sources: Sequence[Source], card: ModelCard) -> list[Source]:
    """DICOM folders as the volumes of their studies, with the channels that the model reads.

    Of a whole tree a volume is called after the folder of its first channel; a single folder is one study. A study of
    which it is not clear which series are the channels is a source that says so when it is read.
    """
    if len(sources) == 1:
        return [_join_one(sources[0], card)]
    from ..formats.dicom_studies import series_of

    where = {source.path: source for source in sources}
    studies: dict[tuple[str, ...], list[StudySeries]] = {}
    found: dict[Path, Source] = {}
    for source in sources:
        try:
            for series in series_of(source.path):
                studies.setdefault(series.study, []).append(series)
        except InputError as error:
            found[source.path] = replace(source, hindrance=str(error))
    for study in studies.values():
        channels, hindrance = _match(study, card)
        folder = channels[0].path if channels else study[0].folder
        if folder in found:
            hindrance = (
                f"{str(folder)!r} holds series of several DICOM studies; put those of each into folders of their own."
            )
        found[folder] = replace(where[folder], channels=() if hindrance else channels, hindrance=hindrance)
    return [found[source.path] for source in sources if source.path in found]


def channel_of(folder: Path, name: str, card: ModelCard) -> ChannelFile:
    """The series of a DICOM folder that is a channel: the only one, or the only one that is called so.

    Raises InputError, with the names of all series, if that is not clear.
    """
    series = _series_below(folder)
    if len(series) < 2:
        return ChannelFile(name, series[0].folder if series else folder)
    names = [channel.name for channel in card.channels]
    numbers = match_channels(names, [one.names for one in series])[name]
    if len(numbers) != 1:
        raise InputError(
            f"folder {str(folder)!r} holds {len(series)} DICOM series, and it is not clear which is the channel "
            f"{name!r}; give its own folder, or put it into one: {_listed(series)}."
        )
    return _channel(name, series[numbers[0]])


def _join_one(source: Source, card: ModelCard) -> Source:
    try:
        series = _series_below(source.path)
    except InputError as error:
        return replace(source, hindrance=str(error))
    if len({one.study for one in series}) > 1:
        return replace(
            source,
            hindrance=f"{str(source.path)!r} holds the series of several DICOM studies; give the folder of one, or "
            "with --recursive that of all.",
        )
    channels, hindrance = _match(series, card)
    return replace(source, channels=channels, hindrance=hindrance)


def _series_below(folder: Path) -> list[StudySeries]:
    from ..formats.dicom_studies import dicom_folders, series_of

    return [series for path in dicom_folders(folder) for series in series_of(path)]


def _match(study: Sequence[StudySeries], card: ModelCard) -> tuple[tuple[ChannelFile, ...], str]:
    """The channels of a study, and "", or none, and why not."""
    wanted = {channel.name: channel.modality or card.modality for channel in card.channels}
    found = match_channels(
        list(wanted),
        [series.names for series in study],
        lambda name, number: modality_agrees(wanted[name], study[number].modality),
    )
    unsure = [name for name in wanted if not is_sure(name, found)]
    if not unsure:
        chosen = {name: study[numbers[0]] for name, numbers in found.items()}
        listed = "; ".join(f"{name} is {series}" for name, series in chosen.items())
        logger.info("channels by the names of series: %s.", listed)
        return tuple(_channel(name, series) for name, series in chosen.items()), ""
    told = "; ".join(
        f"{name} may be {' or '.join(repr(study[n].description) for n in found[name])}"
        if found[name]
        else f"none is called {name}"
        for name in unsure
    )
    folder = os.path.commonpath([series.folder for series in study])
    return (), (
        f"{folder!r}: the model {card.name!r} reads {', '.join(wanted)}, and the names of the series do not say which "
        f"they are: {told}; give the folder of one as the input, and --channel NAME=FOLDER for each other; the "
        f"series are {_listed(study)}."
    )


def _channel(name: str, series: StudySeries) -> ChannelFile:
    return ChannelFile(name, series.folder, series_uid=series.uid)


def _listed(series: Sequence[StudySeries]) -> str:
    return ", ".join(map(str, series))


def is_study(folder: Path) -> bool:
    """Whether DICOM files lie in a folder or below."""
    from ..formats.dicom_studies import dicom_folders

    return folder.is_dir() and (holds_dicom(folder) or next(dicom_folders(folder), None) is not None)
