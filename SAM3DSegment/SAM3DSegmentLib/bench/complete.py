"""Completing painted slices beside what others do from the same slices: Dice on the slices that were not shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.devices import resolve_device
from ..base.errors import require
from ..card import UNKNOWN, Label, ModelCard
from ..formats.painted import PaintedSlices
from ..formats.volumes import Volume
from ..geometry import plane_across, spacing_and_directions
from ..inference import Segmenter
from ..metrics import label_dice
from ..model_file import load_model
from ..training.between_slices import interpolate_distance
from ..training.classes import LabelRules, agree_on_labels
from ..training.completion import Completion, Matched, complete_classes
from ..training.dataset import find_dataset
from ..training.look import look_at_cases
from ..training.painted_volume import keys_of, match_model
from ..training.reading import read_case
from .measuring import BenchResult, Row, clock, conditions, threads

SEED = 0  # by which cases are drawn
MARGIN = 8  # pixels around what is painted, within which the random walker of others works
BETA = 130  # of scikit-image's random walker; its own default


@dataclass(frozen=True)
class Shown:
    """A case of which some slices are shown. known_kji: class indices, UNKNOWN on all other slices."""

    image: Volume
    known_kji: np.ndarray
    painted: PaintedSlices


Way = Callable[[Shown], np.ndarray]  # -> class indices (K, J, I)


def bench_complete(
    data: Path,
    model: str | None,
    every: int | None,
    painted: int,
    cases: int,
    axis: list[str],
    device: str,
    sam_checkpoint: Path | None = None,
    thread_count: int | None = None,
) -> BenchResult:
    """Mean Dice and seconds of each way to fill `cases` cases, along each anatomical `axis`.

    Shown are `painted` slices, evenly from the first to the last one of the structures, or each `every`th of these. A
    model should not have been trained on these cases. Raises InputError, or ImportError without scikit-image.
    """
    dataset = find_dataset(data, least=1)
    looks = look_at_cases(dataset)
    labels = agree_on_labels(dataset, looks)[0]
    usable = [look.files for look in looks if look.own and not look.problem and look.painted is None]
    require(len(usable) > 0, f"{str(data)!r} has no case whose slices are all painted; give complete ones.")
    chosen = np.random.default_rng(SEED).permutation(len(usable))[:cases]
    ways = _ways(model, labels, any(look.by_name for look in looks), device, sam_checkpoint)
    dice: dict[tuple[str, str], list[float]] = {(plane, way): [] for plane in axis for way in ways}
    seconds = dict.fromkeys(dice, 0.0)
    with threads(thread_count):
        kind, now = clock(resolve_device(device))
        for number in chosen:
            image, classes = read_case(usable[number], labels, LabelRules())
            for plane in axis:
                shown = _show(image, classes, plane, every, painted)
                hidden = shown.known_kji == UNKNOWN
                for name, way in ways.items():
                    began = now()
                    found = way(shown)
                    seconds[plane, name] += (now() - began) / len(chosen)
                    dice[plane, name] += label_dice(found[hidden], classes[hidden], list(range(1, len(labels) + 1)))
        how = f"every {every}th slice" if every else f"{painted} slices"
        where = conditions(resolve_device(device), cases=len(chosen), shown=how, model=model, seconds=kind)
    rows = [
        Row(
            f"{plane}: {name}",
            seconds[plane, name],
            dice=float(np.nanmean(found)),
            note=f"min. {np.nanmin(found):.3f}",
        )
        for (plane, name), found in dice.items()
    ]
    return BenchResult("complete", where, rows)


def _show(image: Volume, classes_kji: np.ndarray, plane: str, every: int | None, painted: int) -> Shown:
    axis = next(axis for axis in range(3) if plane_across(image.ijk_to_ras, axis) == plane)
    others = tuple(other for other in range(3) if other != axis)
    there = np.flatnonzero(((classes_kji > 0) & (classes_kji != UNKNOWN)).any(others))
    require(len(there) > 2, f"{str(image.path)!r} has structures on {len(there)} {plane} slices; use another --axis.")
    first, last = int(there[0]), int(there[-1])
    evenly = np.linspace(first, last, painted).round().astype(int)
    numbers = {*range(first, last, every), last} if every else set(evenly.tolist())
    require(
        2 <= len(numbers) <= last - first,
        f"of {last - first + 1} {plane} slices of {str(image.path)!r} {len(numbers)} would be shown; show at least 2, "
        "and not all.",
    )
    slices = PaintedSlices(axis, tuple(sorted(numbers)), classes_kji.shape[axis])
    return Shown(image, slices.keep(classes_kji), slices)


def _ways(
    model: str | None, labels: tuple[Label, ...], by_name: bool, device: str, sam_checkpoint: Path | None
) -> dict[str, Way]:
    """The ways that are compared, by name."""
    completion = Completion(device=device, sam_checkpoint=sam_checkpoint)
    ways: dict[str, Way] = {"complete": lambda shown: _complete(shown, None, completion)}
    if model is not None:
        loaded = load_model(model)
        matched = Matched(loaded, match_model(loaded.card, keys_of(labels, by_name), by_name))
        segmenter = Segmenter.load(loaded, device, "auto", sam_checkpoint)
        ways["complete, with the model"] = lambda shown: _complete(shown, matched, completion)
        ways["the model alone"] = lambda shown: _segment(shown, segmenter, loaded.card, matched.of_class)
    return {**ways, "random walker (scikit-image)": _walk, "fill between slices (distances)": _fill_between}


def _complete(shown: Shown, matched: Matched | None, completion: Completion) -> np.ndarray:
    image = shown.image
    return complete_classes(image.array_kji, image.ijk_to_ras, shown.known_kji, shown.painted, matched, completion)


def _segment(shown: Shown, segmenter: Segmenter, card: ModelCard, of_class: Mapping[int, int]) -> np.ndarray:
    lookup = np.zeros(256, np.uint8)
    for index, its_own in of_class.items():
        lookup[card.labels[its_own - 1].value] = index
    return lookup[segmenter.segment(shown.image.array_kji, shown.image.ijk_to_ras)]


def _walk(shown: Shown) -> np.ndarray:
    """Grady's random walker of scikit-image, on the grey values, between the outermost painted slices."""
    from skimage.segmentation import random_walker

    known = shown.known_kji
    structure = (known > 0) & (known != UNKNOWN)
    box = []
    for axis in range(3):
        there = np.flatnonzero(structure.any(tuple(other for other in range(3) if other != axis)))
        margin = 0 if axis == shown.painted.axis else MARGIN
        box.append(slice(max(0, int(there[0]) - margin), int(there[-1]) + 1 + margin))
    part = known[tuple(box)]
    seeds = np.where(part == UNKNOWN, 0, part.astype(np.int64) + 1)
    grey = shown.image.array_kji[tuple(box)].astype(np.float64)
    walked = random_walker((grey - grey.mean()) / max(grey.std(), 1e-6), seeds, beta=BETA, mode="cg_j")
    found = np.where(known == UNKNOWN, 0, known)
    found[tuple(box)] = walked - 1
    return found.astype(np.uint8)


def _fill_between(shown: Shown) -> np.ndarray:
    """As Slicer's *Fill between slices*, without looking at the image: each label ends with its last painted slice.

    By signed distances; Slicer's own is ITK's morphological contour interpolation, whose package needs 1.3 GB.
    """
    known = np.where(shown.known_kji == UNKNOWN, 0, shown.known_kji).astype(np.uint8)
    axis = shown.painted.axis
    spacing = np.delete(spacing_and_directions(shown.image.ijk_to_ras)[0][::-1], axis)
    slices = np.moveaxis(known, axis, 0)
    found, best = slices.copy(), np.zeros(slices.shape, np.float32)
    for label in np.unique(known[known > 0]):
        own = [number for number in shown.painted.numbers if (slices[number] == label).any()]
        place = np.interp(np.arange(own[0], own[-1] + 1), own, np.arange(len(own)))
        distance = interpolate_distance(slices[own] == label, (float(spacing[0]), float(spacing[1])), place)
        part = slice(own[0], own[-1] + 1)
        better = distance > best[part]
        best[part][better] = distance[better]
        found[part][better] = label
    found[list(shown.painted.numbers)] = slices[list(shown.painted.numbers)]
    return np.moveaxis(found, 0, axis)
