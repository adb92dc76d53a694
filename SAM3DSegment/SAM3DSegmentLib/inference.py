"""A volume in, a label map out: prepared slices stream through the encoder, windows of embeddings through the decoder.

Memory does not grow with the part of the volume that is done: embeddings and logits behind the window are let go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .cache import EmbeddingCache
from .cached_encoder import CachedEncoder
from .card import ModelCard, WindowRule
from .devices import is_out_of_memory
from .encoder import SliceEncoder
from .errors import Cancelled, OutOfMemoryError
from .halving import Halving
from .model_file import Sam3dModel, load_model
from .network import Network
from .postprocessing import find_islands
from .preparation import Preparation, Prepared

logger = logging.getLogger(__name__)

LEAST_WINDOW = 8  # slices; in shorter ones the instance norms see too little to be trusted

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

    def __init__(self, card: ModelCard, network: Network, load_on_cpu: Callable[[], Network] | None = None) -> None:
        """load_on_cpu: makes the network to go on with where a GPU's memory does not suffice."""
        self.card = card
        self.network = network
        self._load_on_cpu = load_on_cpu
        self._label_values = torch.tensor([0] + [label.value for label in card.labels], dtype=torch.uint8)

    @classmethod
    def load(
        cls,
        model: Sam3dModel,
        device: str = "auto",
        precision: str = "auto",
        sam_checkpoint: str | Path | None = None,
    ) -> Segmenter:
        def load(device: str, precision: str) -> Network:
            encoder: SliceEncoder = model.load_encoder(device, precision, sam_checkpoint)
            if not model.card.encoder.carried:  # a large one, which takes longer to ask than its answers to read
                encoder = CachedEncoder(encoder, EmbeddingCache())
            return Network(encoder, model.decoders)

        return cls(model.card, load(device, precision), lambda: load("cpu", "auto"))

    def segment(
        self,
        array_kji: np.ndarray,
        ijk_to_ras: np.ndarray,
        on_progress: OnProgress | None = None,
        should_cancel: ShouldCancel | None = None,
    ) -> np.ndarray:
        """As `segment_volume`."""
        return self._segment(array_kji, ijk_to_ras, on_progress, should_cancel, with_confidence=False)[0]

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
        labels, confidence = self._segment(array_kji, ijk_to_ras, on_progress, should_cancel, with_confidence=True)
        assert confidence is not None
        return labels, confidence

    def _segment(
        self,
        array_kji: np.ndarray,
        ijk_to_ras: np.ndarray,
        on_progress: OnProgress | None,
        should_cancel: ShouldCancel | None,
        with_confidence: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        arguments = (array_kji, ijk_to_ras, on_progress, should_cancel, with_confidence)
        try:
            return self._compute(*arguments)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.network.encoder.device.type == "cpu" or self._load_on_cpu is None:
                raise OutOfMemoryError(
                    f"memory does not suffice for {'x'.join(map(str, array_kji.shape))} voxels, even in small parts; "
                    "close other programs, or cut out the region around the structure."
                ) from error
        logger.warning("the memory of %s does not suffice; going on with the CPU.", self.network.encoder.device)
        self.network, self._load_on_cpu = self._load_on_cpu(), None
        return self._segment(*arguments)

    @torch.no_grad()
    def _compute(
        self,
        array_kji: np.ndarray,
        ijk_to_ras: np.ndarray,
        on_progress: OnProgress | None,
        should_cancel: ShouldCancel | None,
        with_confidence: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        card = self.card
        preparation = Preparation(card.slicing, card.intensity, card.encoder.image_size)
        prepared = preparation.prepare(array_kji, ijk_to_ras)
        mirror = prepared.slicing.left_right_axis if card.mirror else None
        # Written slice by slice through views, so that neither is copied at the end.
        labels_kji = np.zeros(array_kji.shape, np.uint8)
        confidence_kji = np.zeros_like(labels_kji) if with_confidence else None
        labels = prepared.slicing.to_dhw(labels_kji)
        confidence = prepared.slicing.to_dhw(confidence_kji) if confidence_kji is not None else None
        slices = stream_logits(prepared, self.network, card.window, mirror, on_progress, should_cancel)
        for index, logits in enumerate(slices):
            probability, classes = prepared.fit.restore(logits).softmax(0).max(0)
            labels[index] = self._label_values[classes.cpu()].numpy()
            if confidence is not None:
                confidence[index] = (probability * 100).round().to(torch.uint8).cpu().numpy()
        if card.island_share:
            for slab, island in find_islands(labels, card.island_share):
                labels[slab][island] = 0
                if confidence is not None:
                    confidence[slab][island] = 0
        if on_progress:
            on_progress("segment", prepared.depth, prepared.depth)
        return labels_kji, confidence_kji


def stream_logits(
    prepared: Prepared,
    network: Network,
    rule: WindowRule,
    mirror: int | None,
    on_progress: OnProgress | None,
    should_cancel: ShouldCancel | None,
) -> Iterator[Tensor]:
    """Logits (C, g, g) float32 of each slice in order, blended from the windows that hold it."""
    depth = prepared.depth
    windows = plan_windows(depth, rule)
    encode = Halving(lambda grey: network.encode(grey, mirror), "going on with {count} slices at a time.")
    decode = Halving(
        lambda window: network.decode(window, mirror),
        "going on with windows of {count} slices, a little less accurate.",
        least=min(LEAST_WINDOW, rule.depth),
    )
    ready = 0  # slices encoded so far
    embeddings: list[Tensor] = []  # (views, 256, s, s) of the slices from the window's start to `ready`
    # Of the slices that a later window still adds to: weighted sum of logits, and sum of weights.
    pending: tuple[Tensor, Tensor] | None = None
    for number, (start, stop) in enumerate(windows):
        while ready < stop:
            _raise_if(should_cancel)
            batch = prepared.grey(ready, min(ready + network.encoder.batch_size, stop))
            embeddings.extend(encode(batch))
            ready += len(batch)
            if on_progress:
                # The last slice counts as done only when the mask is complete.
                on_progress("segment", min(ready, depth - 1), depth)
        _raise_if(should_cancel)
        weights = _blending(stop - start, network.encoder.device)
        logits = decode(torch.stack(embeddings)) * weights
        if pending is not None:
            logits[: len(pending[0])] += pending[0]
            weights[: len(pending[1])] += pending[1]
        finished = (windows[number + 1][0] if number + 1 < len(windows) else depth) - start
        yield from logits[:finished] / weights[:finished]
        embeddings, pending = embeddings[finished:], (logits[finished:].clone(), weights[finished:].clone())


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


def _raise_if(should_cancel: ShouldCancel | None) -> None:
    if should_cancel is not None and should_cancel():
        raise Cancelled("cancelled; nothing was written.")
