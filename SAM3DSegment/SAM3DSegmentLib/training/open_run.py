"""A training that is about to begin: encoder and model to begin with are here and fit; then its cases are prepared."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric

from ..base.watch import Watch
from ..model_file import Sam3dModel
from ..places.finder import Finder
from .check import describe_encoder, describe_places, find_suspicious
from .encoders import LoadedEncoder
from .plan import Plan
from .prepared import PreparedCase
from .run_folder import Options, RunFolder
from .start import load_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What all folds of a training share.

    start: the model whose weights to begin with; cases: those to train on, or the boxes of each. coarse, finder: what
    finds the places, of a training that looks at these alone; share: of the minutes, what is left for its close look.
    """

    plan: Plan
    folder: RunFolder
    record: dict[str, Any]
    encoder: LoadedEncoder
    start: Sam3dModel | None
    cases: dict[str, tuple[PreparedCase, ...]]
    fabric: Fabric
    watch: Watch
    coarse: Sam3dModel | None = None
    finder: Finder | None = None
    share: float = 1.0


def open_run(plan: Plan, folder: RunFolder, fabric: Fabric, options: Options, watch: Watch) -> Run:
    """Its cases are not prepared yet. Raises an error for what is missing or unfit."""
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
        for text in (describe_encoder(plan), *describe_places(plan)):
            logger.info("%s", text)
        for text in find_suspicious(plan):
            logger.warning("%s", text)
    fabric.barrier()
    return Run(plan, folder, record, encoder, start, {}, fabric, watch)
