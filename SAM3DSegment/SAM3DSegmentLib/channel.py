"""The channels of a volume: what a model calls each, and how its voxel values become grey."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .base.errors import require

MOST_CHANNELS = 16  # of a volume: each may need a pass of the encoder, and makes the decoder's first layer wider
_WORD = re.compile(r"[^\W_]+[+*']*")  # "T1+C" is not "T1", and "T2*" is not "T2"
_FLAIR = {"flair", "fluid", "darkfluid"}  # words of its series, which are called T2 as well
_MODALITIES = {"PT": "PET"}  # what DICOM abbreviates differently


@dataclass(frozen=True)
class IntensityRule:
    """How voxel values become the 0..255 grey values that SAM expects.

    kind "window": [low, high] in the volume's own units (HU for CT); "percentiles": [low, high] are percentiles of the
    finite voxels; "zscore": [low, high] are numbers of standard deviations from the mean.
    """

    kind: str = "percentiles"
    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        require(
            self.kind in ("window", "percentiles", "zscore"),
            f"intensity kind {self.kind!r} is unknown; use 'window', 'percentiles' or 'zscore'.",
        )
        require(
            math.isfinite(self.low) and math.isfinite(self.high),
            f"intensity range [{self.low}, {self.high}] is not finite; give two numbers.",
        )
        require(
            self.low < self.high,
            f"intensity range [{self.low}, {self.high}] is empty; the first number must be smaller.",
        )
        require(
            self.kind != "percentiles" or (self.low >= 0 and self.high <= 100),
            f"percentiles [{self.low}, {self.high}] are outside 0..100.",
        )


@dataclass(frozen=True)
class Channel:
    """One of several volumes of a case on one grid, such as T1 and FLAIR, or CT and PET.

    name: "" for the only one; intensity: None for the rule that holds for all; modality: "" likewise.
    """

    name: str
    intensity: IntensityRule | None = None
    modality: str = ""


def require_channels(channels: Sequence[Channel]) -> None:
    """Raises InputError unless these can be the channels of a volume."""
    names = [channel.name for channel in channels]
    for name in names:
        require(
            bool(name.strip()) and "=" not in name,
            f"{name!r} cannot name a channel; use a name such as T1, without the sign =.",
        )
    require(
        len({name.casefold() for name in names}) == len(names),
        f"channel names {', '.join(names)} are not all different; rename them.",
    )
    require(len(names) <= MOST_CHANNELS, f"{len(names)} channels are too many; a model reads up to {MOST_CHANNELS}.")


def words_of(text: str) -> list[str]:
    """The words of a name, in lower case: "case_7 T1" -> case, 7, t1."""
    return [word.casefold() for word in _WORD.findall(text)]


def channels_called(texts: Iterable[str], names: Sequence[str]) -> list[str]:
    """Those of the channels' names that one of the texts is, or has as words of its own, such as T1 in "case_7_T1".

    A name within a longer one does not count: "T1 Gd" is not T1 where there is a channel T1 Gd. What is called FLAIR is
    never T2, though people call it T2 FLAIR.
    """
    split = [words_of(text) for text in texts]
    found = [name for name in names if any(_is_called(words, words_of(name)) for words in split)]
    longer = [words_of(name) for name in found]
    return [
        name for name in found if not any(words_of(name) != other and _holds(other, words_of(name)) for other in longer)
    ]


def match_channels(
    names: Sequence[str],
    called: Sequence[Sequence[str]],
    may_be: Callable[[str, int], bool] = lambda _name, _number: True,
) -> dict[str, list[int]]:
    """For each channel the numbers of the things that it may be, each of which is called by some texts; one if sure.

    A thing that is called exactly as the channel is preferred. A thing that two channels would be is neither surely.
    may_be: whether a channel may be the thing of this number, whatever it is called.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        numbers = [n for n, texts in enumerate(called) if name in channels_called(texts, names) and may_be(name, n)]
        named = [n for n in numbers if any(words_of(text) == words_of(name) for text in called[n])]
        found[name] = named if len(named) == 1 else numbers
    return found


def is_sure(name: str, found: dict[str, list[int]]) -> bool:
    """Whether `match_channels` has found the channel, and no other that is the same."""
    return len(found[name]) == 1 and sum(numbers == found[name] for numbers in found.values()) == 1


def modality_agrees(wanted: str, stated: str) -> bool:
    """Whether the modality that DICOM states ("MR", "PT") is one that is wanted ("MRI", "PET/CT"); "" is any."""
    named = re.findall(r"[A-Z]+", wanted.upper())
    return not (named and stated) or any(
        name.startswith((stated.upper(), _MODALITIES.get(stated.upper(), stated.upper()))) for name in named
    )


def _is_called(words: list[str], name: list[str]) -> bool:
    if _FLAIR & {*words} and not _FLAIR & {*name} and "t2" in name:
        return False
    return _holds(words, name)


def _holds(words: list[str], name: list[str]) -> bool:
    """Whether the words of a name stand in a row among others."""
    size = len(name)
    return size > 0 and any(words[k : k + size] == name for k in range(len(words) - size + 1))
