"""What other programs on the same processor cost: a volume alone, and beside loops that never rest."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..base.errors import require
from ..base.processors import PASSIVE, WAITING
from ..model_store import DEFAULT_MODEL
from .measuring import BenchResult, Row, conditions
from .processes import SIDE, measuring_code, run_child

LOOPS = 3  # on a core
# It ends when the process that started it has ended, be it killed.
_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6):\n        pass\n"


@dataclass(frozen=True)
class _Place:
    """What runs beside the volume: LOOPS loops on each of these processors; whether waiting threads sleep."""

    name: str
    loaded: tuple[int, ...]
    sleeping: bool = True

    def seconds(self, slices: int, precision: str) -> float:
        others = {name: value for name, value in os.environ.items() if name not in WAITING}
        with _busy(self.loaded):
            code = measuring_code(slices, "cpu", precision, "best", None)
            return float(run_child(code, others | (PASSIVE if self.sleeping else {}))["seconds"])


def bench_load(slices: int, precision: str, rounds: int) -> BenchResult:
    """A volume of so many slices of noise with the bundled model, in turn alone and beside loops."""
    require(
        hasattr(os, "sched_setaffinity"),
        "loops can be put on single processors on Linux only; measure the load there.",
    )
    processors = tuple(sorted(os.sched_getaffinity(0)))
    one, all_of_them = processors[:1], processors
    places = [
        _Place("alone", ()),
        _Place("alone, waiting threads spin", (), sleeping=False),
        _Place(f"{LOOPS} loops on one core", one),
        _Place(f"{LOOPS} loops on one core, they spin", one, sleeping=False),
        _Place(f"{LOOPS} loops on every core", all_of_them),
    ]
    taken: list[list[float]] = [[] for _ in places]
    for _ in range(rounds):
        for seconds, place in zip(taken, places):
            seconds.append(place.seconds(slices, precision))
    rows = [_row(place.name, seconds, taken[0]) for place, seconds in zip(places, taken)]
    volume = f"{slices} x {SIDE} x {SIDE}"
    where = conditions(torch.device("cpu"), model=DEFAULT_MODEL, volume=volume, rounds=rounds, seconds="of a clock")
    return BenchResult("load", where, rows)


def _row(name: str, seconds: Sequence[float], alone: Sequence[float]) -> Row:
    times = statistics.median(own / first for own, first in zip(seconds, alone))
    return Row(name, statistics.median(seconds), ratio=1 / times, note=f"{times:.2f} times as long as alone")


@contextmanager
def _busy(processors: Sequence[int]) -> Iterator[None]:
    loops = []
    try:
        for processor in processors:
            for _ in range(LOOPS):
                loops.append(subprocess.Popen([sys.executable, "-c", _LOOP], stdin=subprocess.DEVNULL))
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(loops[-1].pid, [processor])
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
