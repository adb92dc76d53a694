"""A tree of small volumes done by one process, and by several that divide it, one thread each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ..base.errors import Sam3dError
from ..base.files import last_line, link_or_copy
from ..base.processors import THREADS
from ..model_store import DEFAULT_MODEL
from .measuring import BenchResult, Row, conditions
from .processes import PACKAGE, sample_volume


def bench_parts(volumes: int, processes: int) -> BenchResult:
    """So many copies of the sample volume, from the start of the command to the last mask, in seconds of a clock.

    Raises Sam3dError if a process fails, or a mask is missing at the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "images")
        for number in range(volumes):
            place = tree / f"sub-{number:04d}" / "anat"
            place.mkdir(parents=True)
            link_or_copy(sample_volume(), place / "image.nii.gz")
        alone = _seconds(tree, Path(folder, "one"), 1)
        divided = _seconds(tree, Path(folder, "several"), processes)
        _check_masks(volumes, Path(folder, "one"), Path(folder, "several"))
    rows = [
        Row("one process", alone, ratio=1.0, note=f"{alone / volumes:.2f} s a volume"),
        Row(f"{processes} parts at once", divided, ratio=alone / divided, note=f"{divided / alone:.2f} of the time"),
    ]
    where = conditions(torch.device("cpu"), model=DEFAULT_MODEL, volumes=volumes, seconds="of a clock")
    return BenchResult("parts", where | {"threads": "1 a process"}, rows)


def _seconds(tree: Path, output: Path, parts: int) -> float:
    """All parts at the same time; they share a table and a report, as on a cluster."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), THREADS: "1"}
    shared = ["--table", f"{output}.csv", "--report", f"{output}.json", "--progress", "none", "--device", "cpu"]
    command = [sys.executable, "-m", "SAM3DSegmentLib", "segment", str(tree), "-o", str(output), "--recursive", *shared]
    began = time.perf_counter()
    running = [
        subprocess.Popen([*command, "--part", f"{number + 1}/{parts}"], env=environment, stderr=subprocess.PIPE)
        for number in range(parts)
    ]
    try:
        said = [process.communicate()[1] for process in running]
    finally:
        for process in running:
            process.kill()  # nothing, where it has ended
    for process, log in zip(running, said):
        if process.returncode != 0:
            raise Sam3dError(f"a measured process failed: {last_line(RuntimeError(log.decode()))}.")
    return time.perf_counter() - began


def _check_masks(volumes: int, *outputs: Path) -> None:
    """The same bytes, so that both have done the same work."""
    first, *others = ({path.relative_to(o): path.read_bytes() for path in o.rglob("*.seg.nrrd")} for o in outputs)
    if len(first) != volumes or any(other != first for other in others):
        raise Sam3dError("the masks of the parts are not those of one process; please report it.")
