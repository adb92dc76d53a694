"""A volume in, a label map out: prepared slices stream through the encoder, windows of embeddings through the decoder.

Memory does not grow with the part of the volume that is done: embeddings and logits behind the window are let go.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .cache import EmbeddingCache
from .cached_encoder import CachedEncoder
from .card import ModelCard
from .devices import is_out_of_memory, wait_for
from .encoder import SliceEncoder
from .errors import Cancelled, OutOfMemoryError
from .halving import Halving
from .model_file import Sam3dModel, load_model
from .network import Network
from .postprocessing import find_islands, load_for_islands
from .preparation import Preparation, Prepared
from .quality import AUTO, BEST, QUALITIES, Choice, Speed, Work, check_quality, choose_quality

logger = logging.getLogger(__name__)

LEAST_WINDOW = 8  # slices; in shorter ones the instance norms see too little to be trusted

OnProgress = Callable[[str, int, int], None]  # stage, slices done, slices in all
ShouldCancel = Callable[[], bool]
OnChoice = Callable[[Choice], None]


def segment_volume(
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    model: Sam3dModel | str | Path,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    should_cancel: ShouldCancel | None = None,
    precision: str = "auto",
    sam_checkpoint: str | Path | None = None,
    quality: str = BEST,
) -> np.ndarray:
    """Segment one volume: (K, J, I) of any real type and its 4x4 matrix in mm -> labels (K, J, I) uint8.

    The labels lie on the input's own grid, whatever its orientation, and have the values of the model's card. quality:
    a name of `quality.QUALITIES`, or "auto" for the best that takes at most a minute.
    Raises an error of `errors.py`; `Cancelled` when should_cancel() became true.
    """
    if not isinstance(model, Sam3dModel):
        model = load_model(model)
    segmenter = Segmenter.load(model, device, precision, sam_checkpoint, quality)
    return segmenter.segment(array_kji, ijk_to_ras, on_progress, should_cancel)


class Segmenter:
    """A model ready on a device; keep it to segment many volumes without loading the encoder again."""

    def __init__(
        self,
        card: ModelCard,
        network: Network,
        load_on_cpu: Callable[[], Network] | None = None,
        quality: str = BEST,
        on_choice: OnChoice | None = None,
    ) -> None:
        """load_on_cpu: makes the network to go on with where a GPU's memory does not suffice.

        quality: as for `segment_volume`; on_choice is told what "auto" has chosen for a volume, before it is computed.
        """
        self.card = card
        self.network = network
        self.level = self._quality = check_quality(quality)  # level: the quality of the last volume
        self._load_on_cpu = load_on_cpu
        self._on_choice = on_choice
        self._label_values = torch.tensor([0] + [label.value for label in card.labels], dtype=torch.uint8)

    @classmethod
    def load(
        cls,
        model: Sam3dModel,
        device: str = "auto",
        precision: str = "auto",
        sam_checkpoint: str | Path | None = None,
        quality: str = BEST,
        on_choice: OnChoice | None = None,
    ) -> Segmenter:
        check_quality(quality)  # before an encoder is loaded

        def load(device: str, precision: str) -> Network:
            encoder: SliceEncoder = model.load_encoder(device, precision, sam_checkpoint)
            if not model.card.encoder.carried:  # a large one, which takes longer to ask than its answers to read
                encoder = CachedEncoder(encoder, EmbeddingCache())
            return Network(encoder, model.decoders)

        return cls(model.card, load(device, precision), lambda: load("cpu", "auto"), quality, on_choice)

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
        except (RuntimeError, MemoryError, ImportError) as error:
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

    def prepare(self, array_kji: np.ndarray, ijk_to_ras: np.ndarray) -> Prepared:
        """The volume on the model's terms."""
        card = self.card
        return Preparation(card.slicing, card.intensity, card.encoder.image_size).prepare(array_kji, ijk_to_ras)

    @torch.no_grad()
    def choose(self, prepared: Prepared) -> Choice:
        """What "auto" chooses for this volume, by the time that a few of its slices take."""
        speed = measure_speed(prepared, self.network)
        plans = {name: quality.plan(self.card, prepared) for name, quality in QUALITIES.items()}
        return choose_quality({name: work.seconds(speed) for name, work in plans.items()})

    def _plan(self, prepared: Prepared) -> Work:
        self.level = self._quality
        if self._quality == AUTO:
            choice = self.choose(prepared)
            logger.info("%s.", choice)
            if self._on_choice:
                self._on_choice(choice)
            self.level = choice.quality
        return QUALITIES[self.level].plan(self.card, prepared)

    @torch.no_grad()
    def _compute(
        self,
        array_kji: np.ndarray,
        ijk_to_ras: np.ndarray,
        on_progress: OnProgress | None,
        should_cancel: ShouldCancel | None,
        with_confidence: bool,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        prepared = self.prepare(array_kji, ijk_to_ras)
        work = self._plan(prepared)
        # Written slice by slice through views, so that neither is copied at the end.
        labels_kji = np.zeros(array_kji.shape, np.uint8)
        confidence_kji = np.zeros_like(labels_kji) if with_confidence else None
        labels = prepared.slicing.to_dhw(labels_kji)
        if self.card.island_share:
            load_for_islands(labels.shape)
        confidence = prepared.slicing.to_dhw(confidence_kji) if confidence_kji is not None else None
        for index, logits in enumerate(stream_logits(prepared, self.network, work, on_progress, should_cancel)):
            probability, classes = _classify(logits)
            labels[index] = self._label_values.take(classes.cpu()).numpy()
            if confidence is not None:
                confidence[index] = (probability * 100).round().to(torch.uint8).cpu().numpy()
        if self.card.island_share:
            for slab, island in find_islands(labels, self.card.island_share):
                labels[slab][island] = 0
                if confidence is not None:
                    confidence[slab][island] = 0
        if on_progress:
            on_progress("segment", prepared.depth, prepared.depth)
        return labels_kji, confidence_kji


def stream_logits(
    prepared: Prepared,
    network: Network,
    work: Work,
    on_progress: OnProgress | None,
    should_cancel: ShouldCancel | None,
) -> Iterator[Tensor]:
    """Logits (C, H, W) float32 of each slice of the volume, in order, on its own pixels."""
    fit, device, mirror = prepared.fit, network.encoder.device, work.mirror

    def decode(window: Tensor) -> Tensor:
        return network.decode(window, mirror)

    def add(window: Tensor) -> Tensor:
        return network.detail(window, mirror)

    embeddings = _encode_slices(prepared, network, work, on_progress, should_cancel)
    if work.decode_all:
        logits = _blend_windows(_fill_between(embeddings, work), decode, work.windows, device, should_cancel)
    else:
        logits = _fill_between(_blend_windows(embeddings, decode, work.windows, device, should_cancel), work)
    if not network.has_detail:
        yield from map(fit.restore, logits)
        return
    grey = (prepared.grey(index, index + 1)[0] for index in range(work.depth))
    least = network.least_detail_depth  # windows of fewer slices would need as much memory
    details = _blend_windows(grey, add, work.detail_windows, device, should_cancel, least)
    for on_square, on_grid in zip(logits, details):
        yield fit.enlarge((fit.to_grid(on_square) + on_grid)[None])[0]


def _encode_slices(
    prepared: Prepared,
    network: Network,
    work: Work,
    on_progress: OnProgress | None,
    should_cancel: ShouldCancel | None,
) -> Iterator[Tensor]:
    """Embeddings (views, 256, s, s) of every slice, or of each `work.step`th."""
    encode = Halving(lambda grey: network.encode(grey, work.mirror), "going on with {count} slices at a time.")
    ready = 0
    while ready < work.depth:
        _raise_if(should_cancel)
        stop = min(ready + network.encoder.batch_size * work.step, work.depth)
        batch = encode(prepared.squares(ready, stop, work.step))
        ready = stop
        if on_progress:
            # The last slice counts as done only when the mask is complete.
            on_progress("segment", min(ready, work.depth - 1), work.depth)
        yield from batch


def _fill_between(some: Iterator[Tensor], work: Work) -> Iterator[Tensor]:
    """Of what belongs to each `work.step`th slice, what belongs to all: interpolated, and at the end the last again."""
    if work.step == 1:
        yield from some
        return
    before = next(some)
    filled = 0
    for after in some:
        for number in range(work.step):
            yield torch.lerp(before.float(), after.float(), number / work.step).to(before.dtype)
        before, filled = after, filled + work.step
    yield from [before] * (work.depth - filled)


def _blend_windows(
    slices: Iterator[Tensor],
    decode: Callable[[Tensor], Tensor],
    windows: list[tuple[int, int]],
    device: torch.device,
    should_cancel: ShouldCancel | None,
    least: int = LEAST_WINDOW,
) -> Iterator[Tensor]:
    """What `decode` makes of each slice, blended from the windows that hold it: (D, ...) -> (D, C, h, w) float32.

    Where memory does not suffice they are halved, down to `least` slices.
    """
    decode = Halving(
        decode,
        "going on with windows of {count} slices, a little less accurate.",
        least=min(least, windows[0][1]),
    )
    held: list[Tensor] = []  # slices from the window's start on
    # Of the slices that a later window still adds to: weighted sum of logits, and sum of weights.
    pending: tuple[Tensor, Tensor] | None = None
    for (start, stop), (next_start, _) in zip(windows, [*windows[1:], (windows[-1][1], 0)]):
        held.extend(itertools.islice(slices, stop - start - len(held)))
        _raise_if(should_cancel)
        weights = _blending(stop - start, device)
        logits = decode(torch.stack(held)) * weights
        if pending is not None:
            logits[: len(pending[0])] += pending[0]
            weights[: len(pending[1])] += pending[1]
        finished = next_start - start
        yield from logits[:finished] / weights[:finished]
        held, pending = held[finished:], (logits[finished:].clone(), weights[finished:].clone())


def _classify(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (C, H, W) of one slice -> probability and index (H, W) of each pixel's most probable class."""
    # A restored slice is contiguous so, or softmax would copy it.
    probability, classes = logits.mT.softmax(0).max(0)
    return probability.mT, classes.mT


def measure_speed(prepared: Prepared, network: Network) -> Speed:
    """How fast this network is on slices from the middle of this volume, which are seldom empty.

    Each step is timed when it runs for the second time, so that what happens only once is not counted, and on other
    slices, because those that are known already are not encoded again.
    """
    device = network.encoder.device
    count = min(network.encoder.batch_size if device.type != "cpu" else 1, prepared.depth)
    middle = prepared.depth // 2

    def seconds(step: Callable[[int], Tensor]) -> tuple[float, Tensor]:
        step(max(0, middle - count))
        wait_for(device)
        began = time.perf_counter()
        result = step(min(middle, prepared.depth - count))
        wait_for(device)
        return time.perf_counter() - began, result

    encode_s, embeddings = seconds(lambda start: network.encode(prepared.squares(start, start + count)))
    window = embeddings[:1].expand(LEAST_WINDOW, -1, -1, -1, -1)
    decode_s, logits = seconds(lambda _: network.decode(window))
    finish_s, _ = seconds(lambda _: _classify(prepared.fit.restore(logits[0]))[1].cpu())
    detail_s = 0.0
    if network.has_detail:
        depth = max(LEAST_WINDOW, network.least_detail_depth)
        grey = prepared.grey(middle, middle + 1).expand(depth, -1, -1)
        detail_s = seconds(lambda _: network.detail(grey))[0] / depth
    return Speed(encode_s / count, decode_s / LEAST_WINDOW, detail_s, finish_s)


def _blending(length: int, device: torch.device) -> Tensor:
    """Weights (length, 1, 1, 1) that fall linearly from a window's middle to its ends, where it knows the least."""
    position = torch.arange(length, device=device, dtype=torch.float32)
    return (torch.minimum(position, length - 1 - position) + 1).view(-1, 1, 1, 1)


def _raise_if(should_cancel: ShouldCancel | None) -> None:
    if should_cancel is not None and should_cancel():
        raise Cancelled("cancelled; nothing was written.")
