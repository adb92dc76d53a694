"""A training from a folder of labelled volumes to a model: it is planned, and then carried out."""

from __future__ import annotations

from pathlib import Path

from ..base.watch import UNWATCHED, Watch
from ..model_file import Sam3dModel
from ..settings import TrainingConfig
from .coarse import look_for_places
from .execution import train_as_planned
from .plan import make_plan
from .run_folder import Options, RunFolder


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
    plan = make_plan(data, config, options.cases, True, watch, options.sam_checkpoint)
    return train_as_planned(plan, folder, options, watch, look_for_places)
