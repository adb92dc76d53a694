"""Whether a volume looks like those that a model was trained on, judged before anything is computed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .card import ModelCard
from .channel import channels_called, modality_agrees
from .geometry import WHOLE_REGION, Crop, Slicing, slicing_of

logger = logging.getLogger(__name__)

FAR = 2.0  # times as large or as small as in the training data
AIR_HU = -500  # CT values below it are air; other modalities have none
LABELLED_SHARE = 0.8  # of neighbours within structures: so many are equal in a label map, far fewer in an image
ENOUGH_NEIGHBOURS = 200_000  # pairs by which a volume is judged, so that a large one is not read to its end


@dataclass(frozen=True)
class VolumeFacts:
    """What is known of a volume without reading its voxels again.

    ijk_to_ras: (4, 4), mm. least_value, greatest_value: of all voxels. modality: as DICOM states it ("CT", "MR"), else
    empty. region_ras: the corners (N, 3), in mm, of the region that will be segmented; None for the whole volume. name:
    how people call it, by which channels that were exchanged are noticed; "" if that says nothing.
    """

    ijk_to_ras: np.ndarray
    shape_kji: tuple[int, ...]
    least_value: float
    greatest_value: float = math.inf
    modality: str = ""
    region_ras: np.ndarray | None = None
    is_label_map: bool = False
    name: str = ""

    @classmethod
    def of_array(
        cls,
        array_kji: np.ndarray,
        ijk_to_ras: np.ndarray,
        modality: str = "",
        region: str = WHOLE_REGION,
        name: str = "",
    ) -> VolumeFacts:
        """Of voxels (K, J, I), whichever of them are finite; of a region that is a box of voxels, of these alone.

        Raises InputError for a region that `Crop.named` refuses.
        """
        if crop := Crop.named(region, array_kji.shape):
            array_kji, ijk_to_ras = crop.take(array_kji), crop.move(ijk_to_ras)
        least, greatest = _range(array_kji)
        labels = looks_like_labels(array_kji, least, greatest)
        return cls(ijk_to_ras, array_kji.shape, least, greatest, modality, is_label_map=labels, name=name)


def find_misfits(card: ModelCard, volume: VolumeFacts, tr: Callable[[str], str] = str, channel: int = 0) -> list[str]:
    """Sentences for the user, most with a remedy; none if the volume suits the model as its `channel`th channel.

    tr translates a sentence before its values are filled in. Raises GeometryError for axes that cannot be sliced.
    """
    slicing = slicing_of(volume.ijk_to_ras, card.slicing)
    if volume.least_value == volume.greatest_value:
        return [tr("It is empty: each of its voxels is {value:g}.").format(value=volume.least_value)]
    if volume.is_label_map:
        return [tr("This is a label map; choose the image that it belongs to.")]
    modality = card.inputs[channel].modality or card.modality
    found = [*_name_misfits(card, channel, volume.name, tr), *_modality_misfits(modality, volume, tr)]
    if card.spacing_mm and _is_far(slicing.spacing_mm, card.spacing_mm):
        found.append(
            tr("Its spacing, {here} mm, is far from the training data's {there} mm; expect a worse result.").format(
                here=describe_lengths(slicing.spacing_mm), there=describe_lengths(card.spacing_mm)
            )
        )
    extent_mm = _extent_mm(volume, slicing)
    if usual_mm := _misfitting_extent(card, extent_mm):
        found.append(
            tr(
                "It covers {here} mm, but the model was trained on volumes of {there} mm around the structure; crop it "
                "to such a size, or in 3D Slicer choose a region of that size in Advanced."
            ).format(here=describe_lengths(extent_mm, 0), there=describe_lengths(usual_mm, 0))
        )
    return found


def find_channel_misfits(
    card: ModelCard, channels: Sequence[VolumeFacts | None], tr: Callable[[str], str] = str
) -> list[str]:
    """As `find_misfits` for each channel of the model that is there; what holds for several is said once."""
    found: list[str] = []
    for number, (channel, facts) in enumerate(zip(card.inputs, channels)):
        if facts is None:
            continue
        new = [text for text in find_misfits(card, facts, tr, number) if text not in found]
        found += [f"{channel.name}: {text}" if number else text for text in new]
    return found


def find_and_warn(card: ModelCard, channels: Sequence[VolumeFacts], name: str) -> list[str]:
    """As `find_channel_misfits`, and all of them in one warning about the volume of this name."""
    misfits = find_channel_misfits(card, channels)
    if misfits:
        logger.warning("%s may not suit the model %r: %s", name, card.name, " ".join(misfits))
    return misfits


def looks_like_labels(array_kji: np.ndarray, least: float, greatest: float) -> bool:
    """Whether voxels (K, J, I) are whole numbers from 0 on that nearly everywhere equal their neighbour."""
    if not 0 <= least < greatest:
        return False
    equal = pairs = 0
    for rows in array_kji:
        if rows.dtype.kind == "f" and not np.array_equal(rows, np.rint(rows)):
            return False
        inside = (rows[:, 1:] != 0) & (rows[:, :-1] != 0)
        pairs += int(np.count_nonzero(inside))
        equal += int(np.count_nonzero(inside & (rows[:, 1:] == rows[:, :-1])))
        if pairs >= ENOUGH_NEIGHBOURS:
            break
    return pairs > 0 and equal >= LABELLED_SHARE * pairs


def _range(array_kji: np.ndarray) -> tuple[float, float]:
    """Least and greatest of the finite voxels; (inf, -inf) if there are none."""
    if array_kji.dtype.kind != "f":
        return float(array_kji.min()), float(array_kji.max())
    least, greatest = math.inf, -math.inf
    for rows in array_kji:
        finite = np.isfinite(rows)
        least = min(least, float(rows.min(where=finite, initial=math.inf)))
        greatest = max(greatest, float(rows.max(where=finite, initial=-math.inf)))
    return least, greatest


def _name_misfits(card: ModelCard, channel: int, name: str, tr: Callable[[str], str]) -> list[str]:
    names = [one.name for one in card.channels]
    called = channels_called([name], names)
    if not called or names[channel] in called:
        return []
    return [
        tr("It is called {name!r}, but given as {own}, not {other}; check that channels are not exchanged.").format(
            name=name, own=names[channel], other=called[0]
        )
    ]


def _modality_misfits(modality: str, volume: VolumeFacts, tr: Callable[[str], str]) -> list[str]:
    """By what DICOM states; without that, by the least value."""
    wanted, stated, least = modality.upper(), volume.modality, volume.least_value
    if stated:
        if modality_agrees(wanted, stated):
            return []
        return [
            tr("Its modality is {here}, but the model is for {there}; choose another model.").format(
                here=stated, there=modality
            )
        ]
    if wanted.startswith("MR") and least < AIR_HU:
        return [
            tr("Its values go down to {low:g}, as in a CT, but the model is for {there}; choose another model.").format(
                low=least, there=modality
            )
        ]
    if wanted == "CT" and least >= 0:
        return [
            tr("It has no negative values, so it is probably not a CT in Hounsfield units, which the model is for.")
        ]
    return []


def _extent_mm(volume: VolumeFacts, slicing: Slicing) -> np.ndarray:
    """Lengths (3,) of what will be segmented, along slices, rows and columns."""
    spacing_mm, axes = np.array(slicing.spacing_mm), list(slicing.kji_axes)
    extent_mm = np.array(volume.shape_kji)[axes] * spacing_mm
    if volume.region_ras is None:
        return extent_mm
    corners = np.c_[volume.region_ras, np.ones(len(volume.region_ras))] @ np.linalg.inv(volume.ijk_to_ras).T
    size_kji = np.ptp(corners[:, 2::-1], axis=0)  # of the box along the volume's axes, which is what is segmented
    return np.minimum(extent_mm, size_kji[axes] * spacing_mm)


def _misfitting_extent(card: ModelCard, extent_mm: np.ndarray) -> tuple[float, float, float] | None:
    """Lengths that the model is used to, unless these are near them.

    A model that looks for places first may be given these alone, cut out as it cuts them.
    """
    least, most = (card.coarse.extent_mm if card.coarse else card.extent_mm), card.extent_mm
    if least is not None and (extent_mm < np.array(least) / FAR).any():
        return least
    return most if most is not None and (extent_mm > np.array(most) * FAR).any() else None


def _is_far(values: Sequence[float], usual: tuple[float, float, float]) -> bool:
    ratio = np.array(values) / np.array(usual)
    return bool((ratio > FAR).any() or (ratio < 1 / FAR).any())


def describe_lengths(values: Sequence[float] | np.ndarray, decimals: int = 1) -> str:
    """Lengths along three axes, such as "35 x 36 x 50"."""
    return " x ".join(f"{value:.{decimals}f}" for value in values)
