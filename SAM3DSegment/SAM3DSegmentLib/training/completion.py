"""A volume of which some parallel slices were painted, filled between them: from these, the image, and maybe a model.

Time is bounded by a budget: one span between painted slices after the other is looked at until it is spent, and the
rest is interpolated, or as a model has it, which takes a moment. Memory: see `filling`, and of a model's probabilities
a byte for each voxel of each structure's box.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..base.devices import give_back_unused_memory, is_out_of_memory, resolve_device
from ..base.errors import Cancelled, OutOfMemoryError, require
from ..base.watch import UNWATCHED, Watch
from ..card import UNKNOWN
from ..formats.painted import EMPTY, PaintedSlices
from ..geometry import spacing_and_directions
from ..inference import OnProgress, Segmenter, ShouldCancel, watch_of
from ..model_file import Sam3dModel, load_model
from ..preparation import check_volume
from .between_slices import MODEL_WEIGHT, interpolate_distance, vote, walk
from .filling import Box, Filling, Piece, extend_painted, find_spans
from .painted_volume import check_painted, match_model
from .soft_labels import FULL, Delivered, Wanted, find_soft_labels, soften_delivered

logger = logging.getLogger(__name__)

OUTLIERS = 0.5  # percent of the voxels of a box at each end of the grey values, which are clipped
PRIOR_WEIGHT = 0.2  # by which a walker stops at a voxel to believe the model
STAGE = "complete"


@dataclass(frozen=True)
class Completion:
    """How a volume is completed. seconds: of computing; extend: also beyond the outermost painted slices."""

    seconds: float = 60.0
    extend: bool = False
    device: str = "auto"
    sam_checkpoint: str | Path | None = None

    def __post_init__(self) -> None:
        require(self.seconds > 0, f"{self.seconds:g} seconds are too few to compute anything; give more, such as 60.")


COMPLETION = Completion()  # as the command does it


class OutOfTime(Exception):
    """The budget is spent."""


@dataclass(frozen=True)
class Budget:
    """Seconds to be spent until a moment of `time.monotonic`, on work that `watch` may cancel before."""

    watch: Watch
    until: float

    def check(self) -> None:
        """Raises Cancelled, or OutOfTime."""
        self.watch.check()
        if time.monotonic() > self.until:
            raise OutOfTime

    def as_watch(self) -> Watch:
        """For work that knows cancelling only: it is cancelled when the time is over, too."""
        return replace(self.watch, cancelled=lambda: self.watch.cancelled() or time.monotonic() > self.until)


@dataclass(frozen=True)
class Matched:
    """A model with the classes that it finds: its own indices, from 1, by ours."""

    model: Sam3dModel
    of_class: Mapping[int, int]


def complete_volume(
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    painted_kji: np.ndarray,
    model: Sam3dModel | str | Path | None = None,
    completion: Completion = COMPLETION,
    on_progress: OnProgress | None = None,
    should_cancel: ShouldCancel | None = None,
) -> np.ndarray:
    """Fill a volume of which some parallel slices were painted: label values (K, J, I) uint8 in, and out.

    array_kji: the image, of any real type; ijk_to_ras: its 4x4 matrix in mm. A slice with any label is known whole, and
    so is one with the value 254, which marks a slice without a structure; of voxels of 255 nothing is known. Known
    voxels come out as they are. model: finds labels of the same values, or some of them. Raises an error of
    `base.errors`; `Cancelled` when should_cancel() became true.
    """
    check_volume(array_kji)
    require(
        painted_kji.shape == array_kji.shape,
        f"labels of shape {painted_kji.shape} are not on the grid of an image of {array_kji.shape}; resample them.",
    )
    painted_kji = painted_kji.astype(np.uint8, copy=False)
    painted = check_painted(painted_kji, ijk_to_ras, "the label map", completion.extend)
    matched = None
    if model is not None:
        model = model if isinstance(model, Sam3dModel) else load_model(model)
        present = {int(value): str(value) for value in np.unique(painted_kji) if value not in (0, EMPTY, UNKNOWN)}
        matched = Matched(model, match_model(model.card, present, by_name=False))
    known = painted.keep(np.where(painted_kji == EMPTY, 0, painted_kji))
    watch = watch_of(on_progress, should_cancel)
    return complete_classes(array_kji, ijk_to_ras, known, painted, matched, completion, watch)


def complete_classes(
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    known_kji: np.ndarray,
    painted: PaintedSlices,
    matched: Matched | None = None,
    completion: Completion = COMPLETION,
    watch: Watch = UNWATCHED,
    delivered: Delivered | None = None,
) -> np.ndarray:
    """Class indices (K, J, I) uint8 without UNKNOWN, from those of the `painted` slices, and UNKNOWN for all others.

    delivered: a former result, which is believed in part of structures that the model does not find.
    """
    budget = Budget(watch, time.monotonic() + completion.seconds)
    axis = painted.axis
    known = np.moveaxis(known_kji, axis, 0).copy()
    numbers = extend_painted(known, painted.numbers) if completion.extend else painted.numbers
    spacing_kji = spacing_and_directions(ijk_to_ras)[0][::-1].tolist()
    depth_mm, height_mm, width_mm = (spacing_kji[one] for one in sorted(range(3), key=lambda one: one != axis))
    filling = Filling(known, (depth_mm, height_mm, width_mm))
    spans = find_spans(known, numbers, completion.extend)
    try:
        boxes = filling.boxes(spans)
        soft = _ask_model(matched, array_kji, ijk_to_ras, boxes, axis, completion, budget)
        if delivered is not None:
            others = {label: box for label, box in boxes.items() if label not in soft}
            softened = soften_delivered(delivered, others, axis)
            soft |= {label: (others[label], values) for label, values in softened.items()}
        device = resolve_device(completion.device)
        finder = Finder(np.moveaxis(array_kji, axis, 0), filling.spacing_mm, soft, device, budget)
        pieces = sum(len(filling.labels(span)) for span in spans)
        for span in spans:
            filling.fill(span, lambda piece: finder.find(piece, pieces))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        give_back_unused_memory()
        raise OutOfMemoryError(
            f"not enough memory for gaps between painted slices of {'x'.join(map(str, known.shape[1:]))} pixels; close "
            "other programs, paint more slices, so that the gaps are smaller, or use --device cpu."
        ) from error
    if finder.unseen:
        logger.warning(
            "the %g seconds were spent after %d of %d structures in gaps between painted slices; the others are as the "
            "model or the former result has them, or interpolated from their shapes. Give more --seconds, or paint "
            "more slices.",
            *(completion.seconds, pieces - finder.unseen, pieces),
        )
    return np.ascontiguousarray(np.moveaxis(filling.result_dhw, 0, axis))


class Finder:
    """Finds structures by the image and `soft` labels, as of a model: half what similar patches of painted slices say
    of their errors, half what a random walker says that begins with that. When the budget is spent, by the soft labels
    or their shapes alone."""

    def __init__(
        self,
        image_dhw: np.ndarray,
        spacing_mm: tuple[float, float, float],
        soft: Mapping[int, tuple[Box, np.ndarray]],
        device: torch.device,
        budget: Budget,
    ) -> None:
        self._image, self._spacing_mm, self._soft, self._device, self._budget = (
            image_dhw,
            spacing_mm,
            soft,
            device,
            budget,
        )
        self._found = self.unseen = 0  # pieces, all and those without looking at the image

    def find(self, piece: Piece, pieces: int) -> np.ndarray:
        """The probability of a piece's structure, (D, H, W) float32 of its box; progress is told of all `pieces`."""
        try:
            self._budget.check()
            probability = self._look(piece)
        except OutOfTime:
            self.unseen += 1
            soft = self._soft_of(piece)
            probability = _interpolate(piece, self._spacing_mm) if soft is None else soft.cpu().numpy()
        self._found += 1
        self._budget.watch.progress(STAGE, self._found, pieces)
        return probability

    @torch.no_grad()
    def _look(self, piece: Piece) -> np.ndarray:
        grey = torch.from_numpy(_normalised(self._image[piece.box])).to(self._device)
        mask, known = (torch.from_numpy(array).to(self._device) for array in (piece.mask, piece.known))
        soft = self._soft_of(piece)
        channels = grey[None] if soft is None else torch.stack([grey, MODEL_WEIGHT * soft])
        errors = mask.float() if soft is None else mask.float() - soft
        voted = mask.float()
        wanted = piece.wanted
        voted[wanted] = vote(channels, errors, known, list(piece.painted), wanted, self._budget.check)
        if soft is None:
            walked = walk(grey, mask, known, voted, self._budget.check)
        else:
            voted[wanted] += soft[wanted]
            walked = walk(grey, mask, known, voted, self._budget.check, PRIOR_WEIGHT)
        return ((voted + walked) / 2).clamp(0, 1).cpu().numpy()

    def _soft_of(self, piece: Piece) -> torch.Tensor | None:
        if piece.label not in self._soft:
            return None
        box, values = self._soft[piece.label]
        inner = tuple(slice(own.start - all_.start, own.stop - all_.start) for own, all_ in zip(piece.box, box))
        return torch.from_numpy(values[inner].astype(np.float32) / FULL).to(self._device)


def _ask_model(
    matched: Matched | None,
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    boxes: dict[int, Box],
    axis: int,
    completion: Completion,
    budget: Budget,
) -> dict[int, tuple[Box, np.ndarray]]:
    """The model's probability of each class that it has, with its box; none without a model.

    It has half of the seconds; if they do not suffice there are none, which a warning tells.
    """
    if matched is None:
        return {}
    segmenter = Segmenter.load(matched.model, completion.device, "auto", completion.sam_checkpoint)
    wanted = {
        label: Wanted(matched.of_class[label], _as_kji(box, axis))
        for label, box in boxes.items()
        if label in matched.of_class
    }
    half = replace(budget, until=budget.until - completion.seconds / 2)
    try:
        found = find_soft_labels(segmenter, array_kji, ijk_to_ras, wanted, half.as_watch())
    except Cancelled:
        budget.watch.check()
        logger.warning(
            "the model %r took more than half of the %g seconds, so it is left out; give more --seconds.",
            *(matched.model.card.name, completion.seconds),
        )
        return {}
    return {label: (boxes[label], np.moveaxis(values, axis, 0)) for label, values in found.items()}


def _as_kji(box_dhw: Box, axis: int) -> Box:
    sides = list(box_dhw[1:])
    sides.insert(axis, box_dhw[0])
    return sides[0], sides[1], sides[2]


def _interpolate(piece: Piece, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """A probability by the distance to the interpolated border, 1/2 on it."""
    slices = np.interp(np.arange(len(piece.mask)), piece.painted, np.arange(len(piece.painted)))
    distance = interpolate_distance(piece.mask[list(piece.painted)], spacing_mm[1:], slices)
    return 1 / (1 + np.exp(-np.clip(distance / min(spacing_mm[1:]), -30, 30)))


def _normalised(values: np.ndarray) -> np.ndarray:
    """Grey values of mean 0 and deviation 1, without outliers, float32 in one piece."""
    grey = np.ascontiguousarray(values, np.float32)
    finite = grey[np.isfinite(grey)]
    if not finite.size:
        return np.zeros_like(grey)
    low, high = np.percentile(finite, (OUTLIERS, 100 - OUTLIERS))
    grey = np.clip(np.nan_to_num(grey, nan=low, posinf=high, neginf=low), low, high)
    return (grey - grey.mean()) / max(float(grey.std()), 1e-6)
