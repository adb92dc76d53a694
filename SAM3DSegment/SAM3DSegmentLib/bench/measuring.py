"""Timing programs that take turns, the processor's own limit, and results as a table or as JSON."""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..base.devices import wait_for
from ..base.errors import InputError
from ..sam.layers import has_packed_linear

_PEAK_SECONDS = 0.5  # of matrix products by which a peak is measured


@dataclass(frozen=True)
class Candidate:
    """Something to be timed. The first of several is the baseline of their ratios and the truth of their outputs."""

    name: str
    run: Callable[[], Tensor]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Row:
    """One line of a result; None where something was not measured. Differences are from the baseline's output."""

    name: str
    seconds: float
    ratio: float | None = None  # of the baseline's time to this one, the median over the rounds
    share_of_peak: float | None = None  # of the fastest round: useful operations a second, over the fastest products'
    largest_difference: float | None = None
    relative_rms: float | None = None
    peak_mib: float | None = None  # resident memory of the process
    dice: float | None = None  # mean over cases and labels
    note: str = ""


@dataclass(frozen=True)
class BenchResult:
    """What was measured, where. peak_gflops: of a matrix product, by type; useful_gflop: of one run of a row."""

    bench: str
    conditions: dict[str, str]
    rows: list[Row]
    peak_gflops: dict[str, float] = field(default_factory=dict)
    useful_gflop: float | None = None


def conditions(device: torch.device, **more: object) -> dict[str, str]:
    """Where the figures come from."""
    found = {
        "processor": _processor() if device.type != "cuda" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **more,
    }
    return {name: str(value) for name, value in found.items()}


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """Whose seconds are counted, in words, and the function that gives them.

    Of one thread those of the processor, which other programs on the computer change less.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return "of the processor", time.process_time
    return "of a clock", time.perf_counter


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads; None: as many as torch takes by itself."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def compare(candidates: list[Candidate], rounds: int, device: torch.device, useful_gflop: float) -> BenchResult:
    """Run all in turn, `rounds` times after one to warm up, and the matrix products of the peak beside them."""
    if rounds < 1:
        raise InputError(f"{rounds} rounds measure nothing; use at least 1.")
    truth = candidates[0].run().float()
    rows = [_accuracy(candidate, truth) for candidate in candidates]
    taken: list[list[float]] = [[] for _ in candidates]
    peaks: dict[torch.dtype, float] = {}
    for _ in range(rounds):
        for dtype in {candidate.dtype for candidate in candidates}:
            peaks[dtype] = max(peaks.get(dtype, 0), _matmul_gflops(device, dtype))
        for seconds, candidate in zip(taken, candidates):
            seconds.append(_seconds(candidate.run, device))
    rows = [
        replace(
            row,
            seconds=statistics.median(seconds),
            ratio=statistics.median(first / own for first, own in zip(taken[0], seconds)),
            share_of_peak=useful_gflop / min(seconds) / peaks[candidate.dtype],
        )
        for row, seconds, candidate in zip(rows, taken, candidates)
    ]
    named = {str(dtype).removeprefix("torch."): round(peak, 1) for dtype, peak in peaks.items()}
    return BenchResult("", {}, rows, named, round(useful_gflop, 1))


def as_table(result: BenchResult) -> str:
    """For people, in columns."""
    lines = [f"{name}: {value}" for name, value in result.conditions.items()]
    lines += [f"peak of {name}: {value} GFLOP/s" for name, value in result.peak_gflops.items()]
    if result.useful_gflop is not None:
        lines.append(f"useful work: {result.useful_gflop} GFLOP")
    lines.append("")
    columns = _columns(result.rows)
    width = max(34, *(len(row.name) + 1 for row in result.rows))
    lines.append(f"{result.bench:<{width}}" + "".join(f"{title:>11}" for title in columns))
    for number, row in enumerate(result.rows):
        cells = "".join(f"{column[number]:>11}" for column in columns.values())
        lines.append(f"{row.name:<{width}}{cells}" + (f"  {row.note}" if row.note else ""))
    return "\n".join(lines)


def _columns(rows: list[Row]) -> dict[str, list[str]]:
    """Titles and cells of what was measured of any row."""
    kinds: list[tuple[str, str, list[float | None]]] = [
        ("seconds", "{:.4f}", [row.seconds for row in rows]),
        ("ratio", "{:.2f}", [row.ratio for row in rows]),
        ("of peak", "{:.2f}", [row.share_of_peak for row in rows]),
        ("max. diff.", "{:.1e}", [row.largest_difference for row in rows]),
        ("rel. rms", "{:.2e}", [row.relative_rms for row in rows]),
        ("MiB", "{:.0f}", [row.peak_mib for row in rows]),
        ("Dice", "{:.4f}", [row.dice for row in rows]),
    ]
    return {
        title: ["" if value is None else form.format(value) for value in values]
        for title, form, values in kinds
        if any(value is not None for value in values)
    }


def _accuracy(candidate: Candidate, truth: Tensor) -> Row:
    difference = candidate.run().float() - truth
    rms = (difference.square().mean() / truth.square().mean()).sqrt()
    return Row(candidate.name, 0, largest_difference=difference.abs().max().item(), relative_rms=rms.item())


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    _, now = clock(device)
    wait_for(device)
    began = now()
    run()
    wait_for(device)
    return now() - began


def _matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The best of some products of random matrices; values of zero would be multiplied faster.

    On a CPU both by torch's public product and by the packed one: which is nearer to the limit depends on the library
    that torch chooses for this processor.
    """
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    products: list[Callable[[], Tensor]] = [lambda: torch.mm(a, b)]
    if device.type == "cpu" and has_packed_linear():
        packed = torch.ops.mkldnn._reorder_linear_weight(b, size)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
    fastest = float("inf")
    for product in products:
        product()
        until = time.perf_counter() + _PEAK_SECONDS
        while time.perf_counter() < until:
            fastest = min(fastest, _seconds(product, device))
    return 2 * size**3 / fastest / 1e9


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
