"""What a person should look at first: of many cases, those that misfit, are cut off, or differ from the others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FAR = 3.0  # robust standard deviations from the median
ENOUGH = 5  # cases with the label, from which on they are compared
_TO_DEVIATION = 1.4826  # of a normal distribution, from its median absolute deviation
_LEAST_SPREAD = 0.05, 1.0  # of the logarithm of volumes, and of confidences in percent: what is usual anyway
LOW_CONFIDENCE = 70.0  # percent

RULE = (
    f"First come cases that failed, then those with most remarks of different kinds, and of these the ones that are "
    f"farthest from the others. Remarks are: the volume does not suit the model; a label touches the border of the "
    f"volume, so that part of it may be missing; the mean confidence of a label is below {LOW_CONFIDENCE:g} %, or far "
    f"below the others'; its volume is far from the others', or it is empty in fewer than half of the cases. Far means "
    f"more than {FAR:g} robust standard deviations ({_TO_DEVIATION} times the median absolute deviation) from the "
    f"median of all cases that have the label, of which there must be at least {ENOUGH}; volumes are compared by their "
    f"logarithm."
)

Entry = Mapping[str, Any]  # see `page`: what is known of one case


@dataclass(frozen=True)
class Remarks:
    """texts: of each kind of remark, one sentence. distance: the largest, in robust standard deviations."""

    texts: tuple[str, ...] = ()
    distance: float = 0.0


@dataclass(frozen=True)
class _Usual:
    median: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float], least_spread: float) -> _Usual | None:
        if len(values) < ENOUGH:
            return None
        median = statistics.median(values)
        return cls(median, max(least_spread, _TO_DEVIATION * statistics.median(abs(v - median) for v in values)))

    def distance(self, value: float) -> float:
        return (value - self.median) / self.spread


@dataclass(frozen=True)
class _Label:
    """What is usual of one label. volume: the logarithm of mL."""

    volume: _Usual | None
    confidence: _Usual | None
    is_seldom_empty: bool


def find_remarks(entries: Mapping[str, Entry]) -> dict[str, Remarks]:
    """Of each case."""
    of_label: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries.values():
        for segment in entry.get("segments", ()):
            of_label.setdefault(segment["name"], []).append(segment)
    usual = {name: _usual(segments) for name, segments in of_label.items()}
    return {case: _remarks(entry, usual) for case, entry in entries.items()}


def by_look(entries: Mapping[str, Entry], remarks: Mapping[str, Remarks]) -> list[str]:
    """The cases, those first that deserve a look most."""

    def key(case: str) -> tuple[bool, int, float, str]:
        return "failed" not in entries[case], -len(remarks[case].texts), -remarks[case].distance, case

    return sorted(entries, key=key)


def _usual(segments: Sequence[Mapping[str, Any]]) -> _Label:
    volumes = [math.log(s["volume_ml"]) for s in segments if s["volume_ml"] > 0]
    confidences = [s["mean_confidence"] for s in segments if s["mean_confidence"] is not None]
    least_volume, least_confidence = _LEAST_SPREAD
    return _Label(
        _Usual.of(volumes, least_volume),
        _Usual.of(confidences, least_confidence),
        len(segments) >= ENOUGH and 2 * sum(not s["voxels"] for s in segments) < len(segments),
    )


def _remarks(entry: Entry, usual: Mapping[str, _Label]) -> Remarks:
    if "failed" in entry:
        return Remarks((entry["failed"],))
    texts, distances = [], [0.0]
    if entry["misfits"]:
        texts.append(" ".join(entry["misfits"]))
    segments = entry["segments"]
    if cut := [s["name"] for s in segments if s["cut_off"]]:
        texts.append(f"Cut off at the border: {', '.join(cut)}.")
    unsure, odd = [], []
    for segment in segments:
        label = usual[segment["name"]]
        unsure += _confidence_remark(segment, label, distances)
        odd += _volume_remark(segment, label, distances)
    if unsure:
        texts.append(f"Low confidence: {', '.join(unsure)}.")
    if odd:
        texts.append(f"Unusual volume: {', '.join(odd)}.")
    return Remarks(tuple(texts), max(distances))


def _confidence_remark(segment: Mapping[str, Any], label: _Label, distances: list[float]) -> list[str]:
    """At most one text; its distance is added to those."""
    value, others = segment["mean_confidence"], label.confidence
    if value is None:
        return []
    distance = -others.distance(value) if others else 0.0
    if value >= LOW_CONFIDENCE and distance <= FAR:
        return []
    distances.append(distance)
    usually = f" (median {others.median:.0f} %)" if others else ""
    return [f"{segment['name']} {value:.0f} %{usually}"]


def _volume_remark(segment: Mapping[str, Any], label: _Label, distances: list[float]) -> list[str]:
    value, others = segment["volume_ml"], label.volume
    if not segment["voxels"]:
        return [f"{segment['name']} is empty"] if label.is_seldom_empty else []
    if not others or value <= 0 or abs(others.distance(math.log(value))) <= FAR:
        return []
    distances.append(abs(others.distance(math.log(value))))
    return [f"{segment['name']} {value:.4g} mL (median {math.exp(others.median):.4g} mL)"]
