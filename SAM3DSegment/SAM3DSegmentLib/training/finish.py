"""The end of a training: its model is measured and written, with the record of the run and the report."""

from __future__ import annotations

import itertools

from ..base.files import write_json
from ..metrics import Scores
from ..model_file import Sam3dModel, save_model
from .fold import FoldResult
from .open_run import Run
from .outcome import FOLDS_NOTE, TEST_NOTE, VALIDATION_NOTE, describe_result, make_model, make_summary
from .report import write_report
from .scoring import make_segmenter, score_cases, segment_case


def finish(run: Run, results: list[FoldResult]) -> Sam3dModel:
    """Of the best weights, measured on the test cases if there are any, else on those by which they were chosen."""
    plan, trained = run.plan, [result.trained for result in results]
    validated = {case: dice for result in results for case, dice in result.state.best_cases.items()}
    if plan.splits[0].test:
        files = [plan.files[name] for name in plan.splits[0].test]
        segmenter = make_segmenter(plan, trained, run.finder)
        scores = score_cases(segmenter, files, plan.labels, plan.rules, run.fabric, run.watch)
        note, tested = TEST_NOTE, scores.by_case()
    else:
        scores = Scores.from_cases(validated, tuple(label.name for label in plan.labels))
        note, tested = VALIDATION_NOTE if len(results) == 1 else FOLDS_NOTE, {}
    dice, worst = scores.by_label(), scores.worst()
    summary = make_summary(plan, [result.state for result in results], dice, len(scores.cases), note)
    model = make_model(plan, run.folder.model.stem, trained, summary, run.coarse)
    if run.fabric.is_global_zero:
        histories = [result.state.history for result in results]
        record = {**run.record, "result": describe_result(summary, validated, tested, histories)}
        if not tested:  # by the decoder that was not trained on it
            trained = [result.trained for result in results if worst in result.state.best_cases]
        save_model(model, run.folder.model)
        write_json(run.folder.record, record)
        segmenter = make_segmenter(plan, trained, run.finder)
        shown = segment_case(segmenter, plan.files[worst], plan.labels, plan.rules)
        write_report(run.folder.report, plan, model.card.name, record, worst, *shown)
        run.watch.event("report", file=str(run.folder.report))
        for case in itertools.chain.from_iterable(run.cases.values()):
            case.close()
        run.folder.end()
    return model
