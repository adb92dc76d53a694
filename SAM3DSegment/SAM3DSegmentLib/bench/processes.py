"""What a user waits for: whole volumes and start-up, each measured in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base import stop
from ..base.devices import keep_freed_memory, resolve_device
from ..base.errors import InputError, Sam3dError
from ..base.files import last_line
from ..model_store import DEFAULT_MODEL
from .measuring import BenchResult, Row, conditions

SIDE = 512  # voxels of a slice of the synthetic volumes, in both directions
SPACING_MM = (0.8, 0.8, 2.0)  # along i, j and k
PACKAGE = Path(__file__).parents[2]
_UNSET = f"del os.environ[{stop.VARIABLE!r}]"  # or a command in there would watch again, what is no longer there
_SAMPLE = PACKAGE / "Resources" / "SampleData" / "hippocampus_015.nii.gz"


def bench_volume(
    slice_counts: list[int], device: str, precision: str, qualities: list[str], thread_count: int | None = None
) -> BenchResult:
    """Volumes of so many slices of 512 x 512 voxels (int16 noise) with the bundled model: seconds and peak memory."""
    rows = [
        _volume_row(slices, device, precision, quality, thread_count)
        for slices in slice_counts
        for quality in qualities
    ]
    where = conditions(resolve_device(device), model=DEFAULT_MODEL, spacing_mm=SPACING_MM)
    if thread_count is not None:
        where["threads"] = str(thread_count)
    return BenchResult("volume", where, rows)


def sample_volume() -> Path:
    """The file of the volume that comes with a checkout. Raises InputError where there is none."""
    if not _SAMPLE.is_file():
        raise InputError(f"{str(_SAMPLE)!r} does not exist; run this benchmark in a checkout of the project.")
    return _SAMPLE


def bench_startup(rounds: int) -> BenchResult:
    """Processor seconds from the start of a process, importing torch and everything of ours included."""
    steps = {"Python and torch": "import torch", "and the engine": "import SAM3DSegmentLib.inference"}
    if _SAMPLE.is_file():
        steps["segment the sample volume to a file"] = (
            "from SAM3DSegmentLib.cli import main\n"
            f"assert main(['segment', {str(_SAMPLE)!r}, '-o', FOLDER + '/out.nii.gz', '--progress', 'none']) == 0"
        )
    rows = []
    for name, code in steps.items():
        with tempfile.TemporaryDirectory() as folder:
            ending = "\nimport json, sys, time; sys.stdout.write('\\n' + json.dumps(time.process_time()))"
            seconds = [
                run_child(f"FOLDER = {str(Path(folder, str(number)))!r}\nimport os; os.mkdir(FOLDER)\n{code}{ending}")
                for number in range(rounds)
            ]
        rows.append(Row(name, float(np.median(seconds)), note="processor seconds"))
    return BenchResult("startup", conditions(torch.device("cpu"), rounds=rounds), rows)


def measure_volume(
    slices: int, device: str, precision: str, quality: str, thread_count: int | None
) -> dict[str, float]:
    """Segment one synthetic volume in this process: seconds, and the most memory that the process ever had (MiB).

    Also the seconds that were expected, as "auto" expects them.
    """
    from ..inference import Segmenter
    from ..model_file import load_model

    if thread_count is not None:
        torch.set_num_threads(thread_count)
    keep_freed_memory()
    array = np.random.default_rng(0).integers(0, 600, (slices, SIDE, SIDE), np.int16)
    ijk_to_ras = np.diag([*SPACING_MM, 1])
    segmenter = Segmenter.load(load_model(DEFAULT_MODEL), device, precision, quality=quality)
    expected = segmenter.choose(segmenter.prepare(array, ijk_to_ras)).seconds[quality]
    began, processor_began = time.perf_counter(), time.process_time()
    segmenter.segment(array, ijk_to_ras)
    return {
        "seconds": time.perf_counter() - began,
        "processor": time.process_time() - processor_began,
        "expected": expected,
        "peak_mib": peak_mib(),
    }


def measuring_code(slices: int, device: str, precision: str, quality: str, thread_count: int | None) -> str:
    """For `run_child`: `measure_volume` of these arguments."""
    arguments = f"{slices}, {device!r}, {precision!r}, {quality!r}, {thread_count}"
    return (
        "import json, sys\nfrom SAM3DSegmentLib.bench.processes import measure_volume\n"
        f"sys.stdout.write('\\n' + json.dumps(measure_volume({arguments})))"
    )


def _volume_row(slices: int, device: str, precision: str, quality: str, thread_count: int | None) -> Row:
    found = run_child(measuring_code(slices, device, precision, quality, thread_count))
    input_mib = slices * SIDE * SIDE * np.dtype(np.int16).itemsize / 2**20
    note = (
        f"{found['processor']:.1f} s of the processor, {found['expected']:.1f} s expected, "
        f"{found['peak_mib'] - input_mib:.0f} MiB beyond the volume"
    )
    return Row(f"{slices} x {SIDE} x {SIDE}, {quality}", found["seconds"], peak_mib=found["peak_mib"], note=note)


def run_child(code: str, environment: Mapping[str, str] = os.environ) -> Any:
    """Run Python code that writes one line of JSON last, with this package on its path; it ends when this process does.

    environment: its variables besides the path.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE), environment.get("PYTHONPATH"))))
    watched = (
        f"import os; from SAM3DSegmentLib.base.stop import stop_at_end_of_input as watch\nwatch()\n{_UNSET}\n{code}"
    )
    never_ending, held_open = os.pipe()  # however this process ends, the system closes its end of the pipe
    try:
        done = subprocess.run(
            [sys.executable, "-c", watched],
            stdin=never_ending,
            capture_output=True,
            text=True,
            env={**environment, "PYTHONPATH": path, stop.VARIABLE: "1"},
        )
    finally:
        os.close(never_ending)
        os.close(held_open)
    if done.returncode != 0:
        raise Sam3dError(f"the measured process failed: {last_line(RuntimeError(done.stderr))}.")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mib() -> float:
    """The most memory that this process has had resident."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss begins there with the peak of the process that this one was forked from
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10  # type: ignore[index]
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
