"""Prepared slices to logits: a stream through the encoder, and windows of embeddings through the decoder.

Memory does not grow with the part of the volume that is done: embeddings and logits behind the window are let go.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .base.devices import wait_for
from .base.halving import RetryInHalves
from .base.watch import Watch
from .network import Network
from .preparation import Prepared
from .work import AFTER, BEFORE, Cost, SecondsPerSlice, Tally, Work

LEAST_WINDOW = 8  # slices; in shorter ones the instance norms see too little to be trusted


def stream_logits(prepared: Prepared, network: Network, work: Work, watch: Watch) -> Iterator[Tensor]:
    """Logits (C, H, W) float32 of each slice of the volume, in order, on its own pixels. Raises Cancelled.

    A slice counts as finished when the next one is asked for.
    """
    tally = Tally(work, cost_of(prepared, network, work), watch)
    with network.counted(tally.decoded):
        for logits in _stream(prepared, network, work, watch, tally):
            yield logits
            tally.finished()


def cost_of(prepared: Prepared, network: Network, work: Work) -> Cost:
    """What the work takes, in multiplications."""

    def of_windows(windows: list[tuple[int, int]], of_window: Callable[[int], float]) -> float:
        start, stop = windows[0]  # all have one length
        return len(windows) * work.decoded_views * of_window(stop - start)

    decoding = of_windows(work.windows, network.decoding_cost)
    if network.has_detail:
        grid = prepared.fit.grid
        decoding += of_windows(work.detail_windows, lambda depth: network.detail_cost(depth, grid))
    # Pixels are prepared and finished in float32, whatever the network multiplies in, which is twice as fast in half.
    pixels = prepared.fit.height * prepared.fit.width / (2 if network.encoder.dtype == torch.float32 else 1)
    passes = network.encoder.config.passes(prepared.channels)
    of_encoded = work.encoded_views * passes * network.encoder.multiplications
    of_prepared = prepared.channels * pixels * BEFORE * work.depth / work.encoded
    return Cost(of_encoded, of_prepared, decoding, pixels * AFTER)


def _stream(prepared: Prepared, network: Network, work: Work, watch: Watch, tally: Tally) -> Iterator[Tensor]:
    fit, device, mirror = prepared.fit, network.encoder.device, work.mirror

    def decode(window: Tensor) -> Tensor:
        return network.decode(window, mirror)

    def add(window: Tensor) -> Tensor:
        return network.detail(window, mirror)

    embeddings = _encode_slices(prepared, network, work, watch, tally)
    if work.decode_every_slice:
        logits = _blend_windows(_fill_between(embeddings, work), decode, work.windows, device, watch)
    else:
        logits = _fill_between(_blend_windows(embeddings, decode, work.windows, device, watch), work)
    if not network.has_detail:
        yield from map(fit.restore, logits)
        return
    grey = (prepared.grey(index, index + 1)[0] for index in range(work.depth))
    least = network.least_detail_depth  # windows of fewer slices would need as much memory
    details = _blend_windows(grey, add, work.detail_windows, device, watch, least)
    for on_square, on_grid in zip(logits, details):
        yield fit.enlarge((fit.to_grid(on_square) + on_grid)[None])[0]


def classify(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (C, H, W) of one slice -> probability and index (H, W) of each pixel's most probable class."""
    # A restored slice is contiguous so, or softmax would copy it.
    probability, classes = logits.mT.softmax(0).max(0)
    return probability.mT, classes.mT


def _encode_slices(prepared: Prepared, network: Network, work: Work, watch: Watch, tally: Tally) -> Iterator[Tensor]:
    """Embeddings (views, E, s, s) of every slice, or of each `work.step`th."""
    encode = RetryInHalves(lambda grey: network.encode(grey, work.mirror), "continuing with {count} slices at a time.")
    ready = 0
    while ready < work.depth:
        watch.check()
        stop = min(ready + network.encoder.batch_size * work.step, work.depth)
        before = network.encoder.computed
        batch = encode(prepared.squares(ready, stop, work.step))
        ready = stop
        tally.encoded(len(batch), (network.encoder.computed - before) * network.encoder.multiplications)
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
    watch: Watch,
    least: int = LEAST_WINDOW,
) -> Iterator[Tensor]:
    """What `decode` makes of each slice, blended from the windows that hold it: (D, ...) -> (D, C, h, w) float32.

    Where memory does not suffice they are halved, down to `least` slices.
    """
    decode = RetryInHalves(
        decode,
        "continuing with windows of {count} slices, which is a little less accurate.",
        least=min(least, windows[0][1]),
    )
    held: list[Tensor] = []  # slices from the window's start on
    # Of the slices that a later window still adds to: weighted sum of logits, and sum of weights.
    pending: tuple[Tensor, Tensor] | None = None
    for (start, stop), (next_start, _) in zip(windows, [*windows[1:], (windows[-1][1], 0)]):
        held.extend(itertools.islice(slices, stop - start - len(held)))
        watch.check()
        weights = _blending(stop - start, device)
        logits = decode(torch.stack(held)) * weights
        if pending is not None:
            logits[: len(pending[0])] += pending[0]
            weights[: len(pending[1])] += pending[1]
        finished = next_start - start
        yield from logits[:finished] / weights[:finished]
        held, pending = held[finished:], (logits[finished:].clone(), weights[finished:].clone())


def _blending(length: int, device: torch.device) -> Tensor:
    """Weights (length, 1, 1, 1) that fall linearly from a window's middle to its ends, where it knows the least."""
    position = torch.arange(length, device=device, dtype=torch.float32)
    return (torch.minimum(position, length - 1 - position) + 1).view(-1, 1, 1, 1)


@torch.no_grad()
def measure_speed(prepared: Prepared, network: Network) -> SecondsPerSlice:
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
    finish_s, _ = seconds(lambda _: classify(prepared.fit.restore(logits[0]))[1].cpu())
    detail_s = 0.0
    if network.has_detail:
        depth = max(LEAST_WINDOW, network.least_detail_depth)
        grey = prepared.grey(middle, middle + 1).expand(depth, -1, -1, -1)
        detail_s = seconds(lambda _: network.detail(grey))[0] / depth
    return SecondsPerSlice(encode_s / count, decode_s / LEAST_WINDOW, detail_s, finish_s)
