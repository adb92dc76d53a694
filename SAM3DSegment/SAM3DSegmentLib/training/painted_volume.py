"""An image and a segmentation of which some slices were painted, as the user gives them: read, matched and checked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..base.errors import InputError, require
from ..card import UNKNOWN, Label, ModelCard
from ..formats.delivered import Drawn
from ..formats.label_maps import LabelMap, read_label_map
from ..formats.painted import EMPTY, PaintedSlices, find_painted, painted_across
from ..formats.repainted import Repainted, find_repainted
from ..formats.segments import EMPTY as EMPTY_NAME
from ..formats.segments import IGNORE, name_key
from ..formats.volumes import Volume, read_volume
from ..geometry import grid_offset, is_same_grid, plane_across
from .classes import class_indices, on_grid_of, own_labels
from .soft_labels import Delivered

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PaintedVolume:
    """An image with what was painted on it.

    labels: of the classes from 1; known_kji: class indices (K, J, I) uint8 on the image's grid, UNKNOWN beside the
    `painted` slices and where these say so; by_name: whether the labels are named; described, drawn: what was painted,
    in words and for the notes of the result. Of a segmentation that was `delivered` before, `painted` are the slices
    that are known by what was repainted; classes that were `added` by hand stay where they are, which is in added_kji,
    and are background in known_kji.
    """

    image: Volume
    labels: tuple[Label, ...]
    known_kji: np.ndarray
    painted: PaintedSlices
    by_name: bool
    described: str
    drawn: Drawn
    delivered: Delivered | None = None
    added: tuple[int, ...] = ()
    added_kji: np.ndarray | None = None

    @property
    def keys(self) -> dict[int, str]:
        """Of the classes that are filled, what `match_model` matches."""
        return {index: key for index, key in keys_of(self.labels, self.by_name).items() if index not in self.added}


def read_painted(image: Path, segmentation: Path, extend: bool = False) -> PaintedVolume:
    """Raises InputError with one line that says what to do, where the two do not fit or there is nothing to fill."""
    volume = read_volume(image)
    label_map = read_label_map(segmentation, grid=lambda: volume.grid)
    labels = own_labels(label_map)
    require(len(labels) < EMPTY, f"{str(segmentation)!r} has {len(labels)} labels; complete {EMPTY - 1} at once.")
    _check_grid(volume, label_map)
    classes = on_grid_of(volume, class_indices(label_map, labels), label_map, resample=False)
    what, own = repr(str(segmentation)), _with_own_values(labels, label_map)
    if notes := delivered_classes(label_map, labels):
        return _read_delivered(volume, own, classes, notes, find_repainted(classes, notes, what))
    painted = check_painted(classes, volume.ijk_to_ras, what, extend)
    known = painted.keep(np.where(classes == EMPTY, 0, classes).astype(np.uint8))
    by_name, drawn = label_map.segments is not None, {painted.axis: painted.numbers}
    return PaintedVolume(volume, own, known, painted, by_name, painted.describe(volume.ijk_to_ras), drawn)


def _read_delivered(
    volume: Volume,
    labels: tuple[Label, ...],
    classes_kji: np.ndarray,
    notes: Mapping[int, str],
    repainted: Repainted,
) -> PaintedVolume:
    added = tuple(index for index in range(1, len(labels) + 1) if index not in notes)
    is_background = np.isin(classes_kji, (EMPTY, *added))
    classes = np.where(is_background, 0, classes_kji).astype(np.uint8)
    known = repainted.keep(classes)
    known[is_background] = 0
    added_kji = None
    if added:
        added_kji = np.where(np.isin(classes_kji, added), classes_kji, 0).astype(np.uint8)
        names = ", ".join(repr(labels[index - 1].name) for index in added)
        logger.warning("not delivered, but added by hand, so it stays as it is: %s.", names)
    described, delivered = repainted.describe(volume.ijk_to_ras), Delivered(classes, repainted.numbers)
    painted, drawn = repainted.known(), repainted.drawn
    return PaintedVolume(volume, labels, known, painted, True, described, drawn, delivered, added, added_kji)


def delivered_classes(label_map: LabelMap, labels: tuple[Label, ...]) -> dict[int, str]:
    """What the segments say of their slices as they were delivered, by class index; none if only paintings are known.

    A segment keeps it under another name.
    """
    segments = label_map.segments or ()
    if any(segment.only_painted for segment in segments):
        return {}
    delivered = {segment.key: segment.delivered for segment in segments if segment.delivered}
    keys = [name_key(label.name) for label in labels]
    return {index + 1: delivered[key] for index, key in enumerate(keys) if key in delivered}


def check_painted(classes_kji: np.ndarray, ijk_to_ras: np.ndarray, what: str, extend: bool) -> PaintedSlices:
    """The painted slices of class indices, EMPTY and UNKNOWN. Raises InputError unless something can be filled."""
    structures = (classes_kji > 0) & (classes_kji < EMPTY)
    if not structures.any():
        only = f" but {IGNORE!r} and {EMPTY_NAME!r}" if classes_kji.any() else ""
        raise InputError(f"{what} has no painted slice: nothing{only} is painted; paint at least two parallel slices.")
    if crossing := painted_across(classes_kji):
        planes = " and ".join(plane_across(ijk_to_ras, axis) for axis in crossing)
        raise InputError(f"{what} is painted on {planes} slices, which cross; keep the slices of one direction.")
    painted = find_painted(classes_kji)
    assert painted is not None
    plane = plane_across(ijk_to_ras, painted.axis)
    if len(painted.numbers) == 1:
        raise InputError(
            f"{what} has one painted slice only ({plane}, number {painted.numbers[0]}); paint at least the first and "
            "the last slice of the structure, better five."
        )
    is_whole = len(painted.numbers) == painted.total if extend else not painted.has_gaps
    slices = np.moveaxis(classes_kji, painted.axis, 0)[list(painted.numbers)]
    if is_whole and not (slices == UNKNOWN).any():
        remedy = "" if extend else ", or add --extend to go on beyond them"
        raise InputError(
            f"{what} leaves nothing to fill: all {plane} slices from {painted.numbers[0]} to {painted.numbers[-1]} are "
            f"painted; remove those that you did not draw by hand{remedy}."
        )
    return painted


def match_model(card: ModelCard, labels: Mapping[int, str], by_name: bool) -> dict[int, int]:
    """For our classes that a model finds, its own index, from 1; labels: the name or value of each of ours.

    Classes that it lacks are told in a warning. Raises InputError if it has none of them.
    """
    known = {name_key(label.name) if by_name else str(label.value): n + 1 for n, label in enumerate(card.labels)}
    keys = {index: name_key(label) if by_name else label for index, label in labels.items()}
    found = {index: known[key] for index, key in keys.items() if key in known}
    missing = [labels[index] for index in labels if index not in found]
    theirs = ", ".join(label.name if by_name else str(label.value) for label in card.labels)
    if not found:
        raise InputError(
            f"the model {card.name!r} finds {theirs}, and none of {', '.join(missing)}; rename the segments, or leave "
            "out --model."
        )
    if missing:
        logger.warning(
            "the model %r finds %s, but not %s; what it does not find is filled from the image alone.",
            *(card.name, theirs, ", ".join(missing)),
        )
    return found


def keys_of(labels: tuple[Label, ...], by_name: bool) -> dict[int, str]:
    """Of the classes from 1, what `match_model` matches: their names, or as text their values."""
    return {n + 1: label.name if by_name else str(label.value) for n, label in enumerate(labels)}


def labels_with_codes(painted: PaintedVolume, card: ModelCard) -> tuple[Label, ...]:
    """The painted labels; of a plain label map those of the model's card that have their values."""
    if painted.by_name:
        return painted.labels
    of_value = {label.value: label for label in card.labels}
    return tuple(of_value.get(label.value, label) for label in painted.labels)


def _check_grid(volume: Volume, label_map: LabelMap) -> None:
    shape, own = volume.array_kji.shape, label_map.layers.shape[1:]
    if is_same_grid(shape, volume.ijk_to_ras, own, label_map.ijk_to_ras):
        return
    if label_map.segments is not None and grid_offset(volume.ijk_to_ras, own, label_map.ijk_to_ras) is not None:
        return
    raise InputError(
        f"{str(label_map.path)!r} is not on the grid of {str(volume.path)!r}; save it with that image as its source "
        "geometry (Segmentations module), or give the image that it was painted on."
    )


def _with_own_values(labels: tuple[Label, ...], label_map: LabelMap) -> tuple[Label, ...]:
    """Segments keep their values in the file, unless two on different layers have one."""
    value_of = {segment.key: segment.value for segment in label_map.present()}
    values = [value_of.get(name_key(label.name), label.value) for label in labels]
    if len(set(values)) < len(values):
        return labels
    return tuple(replace(label, value=value) for label, value in zip(labels, values))
