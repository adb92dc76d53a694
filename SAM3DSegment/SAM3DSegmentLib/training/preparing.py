"""The cases of a training that has been opened, prepared: each device its share."""

from __future__ import annotations

from dataclasses import replace

from .case_files import CaseFiles
from .open_run import Run
from .prepared import PreparedCase, prepare_case
from .splits import share_out


def prepare_cases(run: Run) -> Run:
    """With its cases: each device prepares its share of them. Raises Cancelled."""
    plan, folder, fabric = run.plan, run.folder, run.fabric

    def prepare(files: CaseFiles) -> tuple[PreparedCase, ...]:
        boxes = plan.boxes.get(files.name, ())
        return prepare_case(files, plan.labels, plan.preparation, plan.rules, folder.prepared, boxes)

    files = [plan.files[name] for name in plan.training_names]
    shares = share_out([plan.depths[name] for name in plan.training_names], fabric.world_size)
    for number in run.watch.each("prepare", shares[fabric.global_rank], "add --resume to go on."):
        prepare(files[number])
    fabric.barrier()
    cases = {case.name: prepare(case) for case in files}
    return replace(run, cases=cases)
