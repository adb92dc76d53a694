"""A training from a folder of labelled volumes to a model: plan, prepare the cases, train each fold, measure, write."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning_fabric import Fabric

from ..base.devices import resolve_device
from ..base.errors import InputError
from ..base.watch import UNWATCHED, Watch
from ..model_file import Sam3dModel, load_model, save_model
from ..settings import TrainingConfig
from .check import find_suspicious
from .fold import FoldResult, Run, check_start, train_fold
from .loop import make_fabric
from .outcome import (
    FOLDS_NOTE,
    TEST_NOTE,
    VALIDATION_NOTE,
    describe_result,
    make_model,
    make_segmenter,
    make_summary,
    write_report,
)
from .plan import Plan, make_plan
from .prepared import PreparedCase, prepare_case
from .record import make_record
from .run_folder import Options, RunFolder
from .scoring import score_cases

logger = logging.getLogger(__name__)


def train(
    data: str | Path,
    output: str | Path,
    config: TrainingConfig,
    options: Options | None = None,
    watch: Watch = UNWATCHED,
) -> Sam3dModel:
    """Train on the folder `data` (see `dataset`), write the model to `output`, and return it.

    When `watch` says to finish, training steps end, and the model is made of the best weights so far; not with folds.

    Raises the errors of `base.errors`; on `Cancelled` and TrainingError the folder beside `output` keeps what was done.
    """
    options = options or Options()
    folder = RunFolder(Path(output))
    folder.check(options)
    plan = make_plan(data, config, options.cases, hashed=True, watch=watch)
    if plan.problems:
        more = f" ({len(plan.problems)} cases cannot be used; --check lists them)" if len(plan.problems) > 1 else ""
        raise InputError(plan.problems[0].problem + more)
    fabric = make_fabric(resolve_device(options.device))
    run = _open(plan, folder, fabric, options, watch)
    cases = _prepare(run)
    results = [
        train_fold(run, number, split, [cases[name] for name in split.training])
        for number, split in enumerate(plan.splits)
    ]
    return _finish(run, results)


def _open(plan: Plan, folder: RunFolder, fabric: Fabric, options: Options, watch: Watch) -> Run:
    """With encoder, model to begin with and folder, all of which must fit the plan. Raises InputError."""
    if not fabric.is_global_zero:
        logging.getLogger(__package__.partition(".")[0]).setLevel(logging.WARNING)  # one process tells
        watch = watch.silent()
    if plan.config.folds > 1:
        watch = watch.unfinished()  # each fold needs its share
    encoder = plan.encoder.load(plan.image_size, fabric.device, options.sam_checkpoint)
    start = load_model(plan.config.start_from) if plan.config.start_from else None
    if start is not None:
        check_start(plan, encoder, start)
    record = make_record(plan, encoder.sha256)
    if options.resume:
        folder.check_record(record, len(plan.splits))
    if fabric.is_global_zero:
        folder.begin(record, len(plan.splits), options.resume)
        for text in find_suspicious(plan):
            logger.warning("%s", text)
    fabric.barrier()
    return Run(plan, folder, record, encoder, start, fabric, watch)


def _prepare(run: Run) -> dict[str, PreparedCase]:
    """All training cases by name; each device prepares its share."""
    plan, fabric = run.plan, run.fabric

    def prepare(name: str) -> PreparedCase:
        return prepare_case(plan.files[name], plan.labels, plan.preparation, plan.config.resample, run.folder.prepared)

    names = plan.training_names
    share = names[fabric.global_rank :: fabric.world_size]
    for number, name in enumerate(share):
        run.watch.check("add --resume to go on.")
        prepare(name)
        run.watch.progress("prepare", number + 1, len(share))
    fabric.barrier()
    return {name: prepare(name) for name in names}


def _finish(run: Run, results: list[FoldResult]) -> Sam3dModel:
    """The model of the best weights, measured on the test cases if there are any; and the record of the run."""
    plan, trained, states = run.plan, [result.trained for result in results], [result.state for result in results]
    held_out = results[0].scores
    for result in results[1:]:
        held_out = held_out.joined(result.scores)
    scores, note, test = held_out, VALIDATION_NOTE if len(results) == 1 else FOLDS_NOTE, None
    if plan.splits[0].test:
        files = [plan.files[name] for name in plan.splits[0].test]
        segmenter = make_segmenter(plan, trained)
        test = score_cases(segmenter, files, plan.labels, plan.config.resample, run.fabric, run.watch)
        scores, note = test, TEST_NOTE
    summary = make_summary(plan, states, scores, note)
    model = make_model(plan, run.folder.model.stem, trained, summary)
    if run.fabric.is_global_zero:
        save_model(model, run.folder.model)
        record = {**run.record, "result": describe_result(summary, states, held_out, test)}
        if test is None:  # each case by the decoder that was not trained on it
            trained = [result.trained for result in results if scores.worst() in result.scores.cases]
        write_report(run.folder, plan, model.card.name, record, scores, trained)
        run.watch.event("report", file=str(run.folder.report))
        run.folder.remove_work()
    return model
