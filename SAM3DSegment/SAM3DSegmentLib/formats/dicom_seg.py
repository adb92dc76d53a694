"""Label maps from DICOM: a segmentation's frames, each at the place that it states, as layers of segments.

PS3.3: A.51 (Segmentation), C.8.20.2 (Segmentation Image). Read by pydicom alone.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ..base.errors import InputError
from ..base.files import last_line
from ..card import Terminology
from .dicom_frames import frames_of
from .dicom_stack import stack_with_gaps
from .dicom_tags import read_dataset, tag_items, tag_number, tag_numbers, tag_text
from .segments import BACKGROUND, Segment, name_key

GREY = (128, 128, 128)
LARGEST_NUMBER = 255  # of a segment
_WHITE = (0.95047, 1.0, 1.08883)  # D65, as in highdicom and dcmqi
_RGB_OF_XYZ = np.array(  # sRGB (IEC 61966-2-1)
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)


def read_segments(path: Path) -> tuple[Segment, ...]:
    """What a segmentation names; of the layers nothing is known. Raises InputError."""
    return tuple(_segments(read_dataset(path, stop_before_pixels=True), path).values())


def read_dicom_segmentation(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[Segment, ...]]:
    """Layers (L, K, J, I) uint8, ijk_to_ras (4, 4) in mm, and the segments, whose values are their numbers.

    The grid is that of the frames: of their own pixels, from the first to the last slice that has one. Segments that
    overlap are in different layers. Raises InputError with one line that says what to do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are not used here or are checked here
        data = read_dataset(path)
        kind = tag_text(data, "SegmentationType")
        if kind == "FRACTIONAL":
            raise InputError(f"{str(path)!r} stores its segments as {kind!r}; give a binary segmentation.")
        segments = _segments(data, path)
        frames = frames_of(path, data)
        shared = (tag_items(data, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
        measures = (tag_items(shared, "PixelMeasuresSequence") or [Dataset()])[0]
        stated = tag_number(measures, "SpacingBetweenSlices") or None
        numbers, depth, matrix = stack_with_gaps(frames, repr(str(path)), stated and abs(stated))
        pixels = _pixels(data, path, (len(frames), *frames[0].size))
    shape = (depth, *frames[0].size)
    if kind == "LABELMAP":
        layer = np.zeros(shape, np.uint8)
        for k, frame in zip(numbers, pixels):
            layer[k] |= frame
        unknown = set(np.unique(layer).tolist()) - set(segments) - {0}
        if unknown:
            raise InputError(
                f"{str(path)!r} has the values {sorted(unknown)[:5]}, which no segment has; export it again."
            )
        return layer[None], matrix, tuple(segments.values())
    frames_of_segments = _frames_of_segments(data, path, set(segments))
    layers, segments = _in_layers(frames_of_segments, pixels, numbers, shape, segments)
    return layers, matrix, tuple(segments.values())


def _frames_of_segments(data: Dataset, path: Path, known: set[int]) -> dict[int, list[int]]:
    """By the segments' numbers. Raises InputError for a frame of a segment that is not among those `known`."""
    shared = tag_items(data, "SharedFunctionalGroupsSequence")
    found: dict[int, list[int]] = {}
    for number, groups in enumerate(tag_items(data, "PerFrameFunctionalGroupsSequence")):
        items = [item for group in (groups, *shared) for item in tag_items(group, "SegmentIdentificationSequence")]
        segment = tag_number(items[0], "ReferencedSegmentNumber") if items else None
        if segment is None:
            raise InputError(f"{str(path)!r} does not say of which segment frame {number + 1} is; export it again.")
        found.setdefault(int(segment), []).append(number)
    if unknown := sorted(set(found) - known):
        raise InputError(
            f"{str(path)!r} has frames of the segments {unknown[:5]}, which it does not name; export it again."
        )
    return found


def _in_layers(
    frames_of_segments: dict[int, list[int]],
    pixels: np.ndarray,
    numbers: list[int],
    shape: tuple[int, ...],
    segments: dict[int, Segment],
) -> tuple[np.ndarray, dict[int, Segment]]:
    """Layers (L, K, J, I) uint8, and the segments with theirs."""
    layers = [np.zeros(shape, np.uint8)]
    placed = dict(segments)
    for segment, of_segment in sorted(frames_of_segments.items()):
        mask = np.zeros(shape, bool)
        for number in of_segment:
            mask[numbers[number]] |= pixels[number] != 0
        placed[segment] = replace(segments[segment], layer=add_to_layers(layers, mask, segment))
    return np.stack(layers), placed


def add_to_layers(layers: list[np.ndarray], mask: np.ndarray, value: int) -> int:
    """Sets `value` where the mask is, in the first layer that is free there, or a new one; returns its number."""
    number = next((n for n, taken in enumerate(layers) if not taken[mask].any()), len(layers))
    if number == len(layers):
        layers.append(np.zeros(mask.shape, np.uint8))
    layers[number][mask] = value
    return number


def _pixels(data: Dataset, path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """(frames, rows, columns) uint8."""
    try:
        pixels = data.pixel_array
    except Exception as error:  # pydicom raises what its parts raise, also where no package knows a compression
        raise InputError(
            f"the voxels of {str(path)!r} cannot be read ({last_line(error)}); export it again, uncompressed."
        ) from error
    if pixels.size != math.prod(shape):
        raise InputError(
            f"{str(path)!r} describes frames, rows and columns {shape}, but holds others; export it again."
        )
    return pixels.reshape(shape)


def _segments(data: Dataset, path: Path) -> dict[int, Segment]:
    """By their numbers. Raises InputError if there are none, or one has no valid number."""
    found: dict[int, Segment] = {}
    for item in tag_items(data, "SegmentSequence"):
        number = tag_number(item, "SegmentNumber")
        name = " ".join((tag_text(item, "SegmentLabel") or tag_text(item, "SegmentDescription")).split())
        if number == 0 and name_key(name) == BACKGROUND:
            continue
        if number is None or not 1 <= number <= LARGEST_NUMBER or number != int(number) or int(number) in found:
            raise InputError(
                f"{str(path)!r} gives the segment {name!r} the number {tag_text(item, 'SegmentNumber')!r}, which is "
                f"taken or outside 1..{LARGEST_NUMBER}; renumber its segments."
            )
        kinds = tag_items(item, "SegmentedPropertyTypeCodeSequence")
        found[int(number)] = Segment(
            name or f"Segment {int(number)}",
            int(number),
            0,
            _color(item),
            _concept(tag_items(item, "SegmentedPropertyCategoryCodeSequence")),
            _concept(kinds),
            _concept([m for kind in kinds[:1] for m in tag_items(kind, "SegmentedPropertyTypeModifierCodeSequence")]),
        )
    if not found:
        raise InputError(f"{str(path)!r} names no segments; export it again.")
    return found


def _concept(items: list[Dataset]) -> Terminology | None:
    if not items:
        return None
    code = next(
        (text for name in ("CodeValue", "LongCodeValue", "URNCodeValue") if (text := tag_text(items[0], name))), ""
    )
    scheme, meaning = tag_text(items[0], "CodingSchemeDesignator"), tag_text(items[0], "CodeMeaning")
    return Terminology(scheme, code, meaning) if code else None


def _color(item: Dataset) -> tuple[int, int, int]:
    """The recommended colour as sRGB in 0..255, grey without one.

    CIELab scaled to 16 bits, L in 0..100, a and b in -128..127 (PS3.3, C.10.7.1.1); to XYZ by CIE 15.
    """
    stored = tag_numbers(item, "RecommendedDisplayCIELabValue")
    if stored is None or len(stored) != 3:
        return GREY
    lightness, a, b = stored / 65535 * (100, 255, 255) - (0, 128, 128)
    y = (lightness + 16) / 116
    steps = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(steps > 6 / 29, steps**3, 3 * (6 / 29) ** 2 * (steps - 4 / 29)) * _WHITE
    linear = np.clip(_RGB_OF_XYZ @ xyz, 0, 1)
    red, green, blue = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return round(255 * red), round(255 * green), round(255 * blue)
