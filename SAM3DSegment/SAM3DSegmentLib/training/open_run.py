"""A training that is about to begin: encoder and model to begin with are here and fit, its cases are prepared."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric

from ..base.watch import Watch
from ..model_file import Sam3dModel
from .case_files import CaseFiles
from .check import describe_encoder, find_suspicious
from .encoders import LoadedEncoder
from .plan import Plan
from .prepared import PreparedCase, prepare_case
from .run_folder import Options, RunFolder
from .splits import share_out
from .start import load_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What all folds of a training share. start: the model whose weights to begin with; cases: those to train on."""

    plan: Plan
    folder: RunFolder
    record: dict[str, Any]
    encoder: LoadedEncoder
    start: Sam3dModel | None
    cases: dict[str, PreparedCase]
    fabric: Fabric
    watch: Watch


def open_run(plan: Plan, folder: RunFolder, fabric: Fabric, options: Options, watch: Watch) -> Run:
    """Each device prepares its share of the cases. Raises Cancelled, or an error for what is missing or unfit."""
    if not fabric.is_global_zero:
        logging.getLogger(__package__.partition(".")[0]).setLevel(logging.WARNING)  # one process tells
        watch = watch.silent()
    if plan.config.folds > 1:
        watch = watch.unfinished()  # each fold needs its share
    encoder = plan.encoder.load_for_training(plan.card.encoder, fabric.device, options.sam_checkpoint)
    start = load_start(plan, encoder) if plan.config.start_from else None
    if start is not None and len(start.decoders) > 1 and fabric.is_global_zero:
        logger.warning("start_from %r has %d decoders; the first is begun with.", start.card.name, len(start.decoders))
    record = folder.begin(plan, encoder.sha256, options.resume, fabric.is_global_zero)
    if fabric.is_global_zero:
        logger.info("%s", describe_encoder(plan))
        for text in find_suspicious(plan):
            logger.warning("%s", text)
    fabric.barrier()

    def prepare(files: CaseFiles) -> PreparedCase:
        return prepare_case(files, plan.labels, plan.preparation, plan.rules, folder.prepared)

    files = [plan.files[name] for name in plan.training_names]
    shares = share_out([plan.depths[name] for name in plan.training_names], fabric.world_size)
    for number in watch.each("prepare", shares[fabric.global_rank], "add --resume to go on."):
        prepare(files[number])
    fabric.barrier()
    cases = {case.name: prepare(case) for case in files}
    return Run(plan, folder, record, encoder, start, cases, fabric, watch)
