"""A volume in, a label map out: slices stream through the encoder, windows of embeddings through the decoder.

Memory does not grow with the part of the volume that is done: embeddings and logits behind the window are let go.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .card import ModelCard, WindowRule
from .decoder import Sam3dDecoder
from .encoder import SliceEncoder
from .errors import Cancelled, InputError
from .geometry import SquareFit, plan_slicing
from .intensity import measure_grey_scale, sam_normalise
from .model_file import Sam3dModel, load_model
from .postprocessing import remove_islands

OnProgress = Callable[[str, int, int], None]  # stage, slices done, slices in all
ShouldCancel = Callable[[], bool]


def segment_volume(
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    model: Sam3dModel | str | Path,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    should_cancel: ShouldCancel | None = None,
    precision: str = "auto",
    sam_checkpoint: str | Path | None = None,
) -> np.ndarray:
    """Segment one volume: (K, J, I) of any real type and its 4x4 matrix in mm -> labels (K, J, I) uint8.

    The labels lie on the input's own grid, whatever its orientation, and have the values of the model's card.
    Raises an error of `errors.py`; `Cancelled` when should_cancel() became true.
    """
    if not isinstance(model, Sam3dModel):
        model = load_model(model)
    segmenter = Segmenter.load(model, device, precision, sam_checkpoint)
    return segmenter.segment(array_kji, ijk_to_ras, on_progress, should_cancel)


class Segmenter:
    """A model ready on a device; keep it to segment many volumes without loading the encoder again."""

    def __init__(self, card: ModelCard, decoder: Sam3dDecoder, encoder: SliceEncoder) -> None:
        self.card = card
        self.encoder = encoder
        self._decoder = copy.deepcopy(decoder).eval().to(device=encoder.device, dtype=encoder.dtype)
        values = [0] + [label.value for label in card.labels]
        self._label_values = torch.tensor(values, dtype=torch.uint8, device=encoder.device)

    @classmethod
    def load(
        cls,
        model: Sam3dModel,
        device: str = "auto",
        precision: str = "auto",
        sam_checkpoint: str | Path | None = None,
    ) -> Segmenter:
        return cls(model.card, model.decoder, model.load_encoder(device, precision, sam_checkpoint))

    def segment(
        self,
        array_kji: np.ndarray,
        ijk_to_ras: np.ndarray,
        on_progress: OnProgress | None = None,
        should_cancel: ShouldCancel | None = None,
    ) -> np.ndarray:
        """As `segment_volume`."""
        return self.segment_with_confidence(array_kji, ijk_to_ras, on_progress, should_cancel)[0]

    @torch.no_grad()
    def segment_with_confidence(
        self,
        array_kji: np.ndarray,
        ijk_to_ras: np.ndarray,
        on_progress: OnProgress | None = None,
        should_cancel: ShouldCancel | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels as `segment_volume` gives them, and how probable the model finds each, (K, J, I) uint8 in percent.

        Where an island was removed the confidence is 0: the model took it for something else.
        """
        check_volume(array_kji)
        slicing = plan_slicing(ijk_to_ras, self.card.slicing)
        volume = slicing.to_dhw(array_kji)
        grey = measure_grey_scale(volume, self.card.intensity)
        fit = SquareFit.plan(volume.shape[1], volume.shape[2], slicing.spacing_mm[1:], self.encoder.image_size)
        mirror = slicing.left_right_axis if self.card.mirror else None
        depth = len(volume)
        windows = plan_windows(depth, self.card.window)
        labels, confidence = np.zeros(volume.shape, np.uint8), np.zeros(volume.shape, np.uint8)

        ready = 0  # slices encoded so far
        embeddings: list[Tensor] = []  # (views, 256, s, s) of the slices from the window's start to `ready`
        # Of the slices that a later window still adds to: weighted sum of logits, and sum of weights.
        pending: tuple[Tensor, Tensor] | None = None
        for number, (start, stop) in enumerate(windows):
            while ready < stop:
                _raise_if(should_cancel)
                batch = grey.apply(volume[ready : min(ready + self.encoder.batch_size, stop)])
                embeddings.extend(self._encode(batch, fit, mirror))
                ready += len(batch)
                if on_progress:
                    # The last slice counts as done only when the mask is complete.
                    on_progress("segment", min(ready, depth - 1), depth)
            _raise_if(should_cancel)
            weights = _blending(stop - start, self.encoder.device)
            logits = self._decode(torch.stack(embeddings), fit, mirror) * weights
            if pending is not None:
                logits[: len(pending[0])] += pending[0]
                weights[: len(pending[1])] += pending[1]
            next_start = windows[number + 1][0] if number + 1 < len(windows) else depth
            finished = next_start - start
            for offset in range(finished):
                index = start + offset
                labels[index], confidence[index] = self._classify(logits[offset] / weights[offset], fit)
            embeddings, pending = embeddings[finished:], (logits[finished:].clone(), weights[finished:].clone())
        if self.card.island_share:
            found = labels
            labels = remove_islands(found, self.card.island_share)
            confidence[labels != found] = 0
        if on_progress:
            on_progress("segment", depth, depth)
        return slicing.to_kji(labels), slicing.to_kji(confidence)

    def _encode(self, grey: np.ndarray, fit: SquareFit, mirror: int | None) -> Tensor:
        """(B, height, width) float32 in 0..255 -> embeddings (B, views, 256, s, s), float16 to halve their memory.

        There is one view, or a second one with the in-plane axis `mirror` of (D, H, W) flipped.
        """
        slices = torch.from_numpy(grey)[:, None].to(self.encoder.device)
        squares = sam_normalise(fit.pad(fit.resize(slices)))
        views = [squares, squares.flip(mirror - 3)] if mirror else [squares]
        return torch.stack([self.encoder(view).half() for view in views], dim=1)

    def _decode(self, embeddings: Tensor, fit: SquareFit, mirror: int | None) -> Tensor:
        """(D, views, 256, s, s) -> logits (D, C, *inner) float32, the mean over the views."""
        views = embeddings.to(self.encoder.dtype).permute(1, 2, 0, 3, 4)
        if mirror == 0:  # slices are the same ones, in reverse order
            views = torch.cat([views, views.flip(2)])
        logits = self._decoder(views, only_finest=True)[0].float()
        if mirror is not None:
            logits = (logits[:1] + logits[1:].flip(mirror - 3)) / 2
        return fit.unpad(logits[0]).transpose(0, 1)

    def _classify(self, logits: Tensor, fit: SquareFit) -> tuple[np.ndarray, np.ndarray]:
        """(C, *inner) -> label values and their probability in percent, both (height, width) uint8."""
        probability, classes = fit.unresize(logits[None])[0].softmax(0).max(0)
        percent = (probability * 100).round().to(torch.uint8)
        return self._label_values[classes].cpu().numpy(), percent.cpu().numpy()


def plan_windows(depth: int, rule: WindowRule) -> list[tuple[int, int]]:
    """[start, stop) of the decoder's windows: of one length, evenly spread, the first at 0 and the last at the end."""
    length = min(rule.depth, depth)
    if depth == length:
        return [(0, depth)]
    steps = -(-(depth - length) // (rule.depth - rule.overlap))
    starts = [round(i * (depth - length) / steps) for i in range(steps + 1)]
    return [(start, start + length) for start in starts]


def _blending(length: int, device: torch.device) -> Tensor:
    """Weights (length, 1, 1, 1) that fall linearly from a window's middle to its ends, where it knows the least."""
    position = torch.arange(length, device=device, dtype=torch.float32)
    return (torch.minimum(position, length - 1 - position) + 1).view(-1, 1, 1, 1)


def check_volume(array: np.ndarray) -> None:
    """Raises InputError unless `array` is a non-empty 3-D array of real numbers."""
    if array.ndim != 3 or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is no volume; give a 3-D one, and of a 4-D one a frame.")
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise InputError(f"voxels of type {array.dtype} cannot be segmented; use integers or real numbers.")


def _raise_if(should_cancel: ShouldCancel | None) -> None:
    if should_cancel is not None and should_cancel():
        raise Cancelled("cancelled; nothing was written.")
