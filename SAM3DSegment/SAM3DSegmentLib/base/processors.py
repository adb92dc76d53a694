"""The processor is shared with other programs: how threads wait for one another, and how many there are.

The runtimes of OpenMP that torch comes with (GNU's, LLVM's, Intel's) let a thread that has nothing to do spin, for it
may soon have. Beside another program it then takes the very time that the thread it waits for needs: a volume can take
six times as long beside a single busy core. A thread that sleeps costs one or two per cent where nothing else runs.

They read the environment when torch is loaded, so this is asked for before, in `cli.main`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

# For all runtimes; then for LLVM's and Intel's, which keep a thread awake for some time nevertheless.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
WAITING = (*PASSIVE, "GOMP_SPINCOUNT")  # all variables that say how threads wait
THREADS = "OMP_NUM_THREADS"


def share_processors() -> None:
    """Let waiting threads sleep, and compute with no more threads than this process may use processors.

    What the user has set in the environment is left.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(PASSIVE)
    quota = processor_quota()
    if quota < _allowed_processors():  # those that are allowed the runtimes count themselves
        os.environ.setdefault(THREADS, str(max(1, math.ceil(quota))))


def processor_quota(root: Path = Path("/")) -> float:
    """Processors' worth of time that the container or the batch system gives this process; infinite without a limit."""
    least = math.inf
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:
                least = min([least, *_quotas(root / "sys/fs/cgroup", group, "cpu.max")])
            elif "cpu" in controllers.split(","):
                least = min([least, *_quotas(root / "sys/fs/cgroup/cpu", group, "cpu.cfs_quota_us")])
    return least


def _quotas(mount: Path, group: str, name: str) -> Iterator[float]:
    """Of a group of processes and of all that it is in: cpu.max is "quota period" (version 2), the others are two."""
    folder = mount / group.lstrip("/")
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):
            words = (place / name).read_text().split()
            if len(words) == 1:
                words += (place / "cpu.cfs_period_us").read_text().split()
            quota, period = map(int, words)  # ValueError: "max", no limit
            if quota > 0:  # -1: no limit
                yield quota / period
        if place == mount:
            return


def _allowed_processors() -> int:
    with contextlib.suppress(AttributeError):  # neither on Windows nor on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
