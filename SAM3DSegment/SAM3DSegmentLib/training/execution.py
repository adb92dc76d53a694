"""A plan carried out: its cases are prepared, each fold is trained, and the model is measured and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..base.devices import is_out_of_memory, resolve_device
from ..base.errors import InputError, OutOfMemoryError
from ..base.files import last_line
from ..base.watch import UNWATCHED, Watch
from ..model_file import Sam3dModel
from .coarse import look_for_places
from .finish import finish
from .fold import train_fold
from .loop import make_fabric
from .open_run import open_run, prepare_cases
from .plan import Plan
from .run_folder import Options, RunFolder


def train_as_planned(plan: Plan, folder: RunFolder, options: Options, watch: Watch = UNWATCHED) -> Sam3dModel:
    """plan: made to be carried out, with the files' fingerprint. Raises as `run.train`."""
    if plan.problems:
        more = f" ({len(plan.problems)} cases cannot be used; --check lists them)" if len(plan.problems) > 1 else ""
        raise InputError(plan.problems[0].problem + more)
    with _told_if_memory_runs_out(plan):
        run = open_run(plan, folder, make_fabric(resolve_device(options.device)), options, watch)
        if plan.coarse is not None:
            run = look_for_places(run, options)
        run = prepare_cases(run)
        results = [train_fold(run, number, split) for number, split in enumerate(plan.splits)]
        return finish(run, results)


@contextmanager
def _told_if_memory_runs_out(plan: Plan) -> Iterator[None]:
    """Raises OutOfMemoryError, naming the settings by which a training takes less."""
    try:
        yield
    except (RuntimeError, MemoryError, ImportError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        config = plan.config
        raise OutOfMemoryError(
            f"memory ran out in training ({last_line(error)[:200]}); close other programs, or give a smaller "
            f"batch_size than {config.batch_size}, training_depth than {config.training_depth} or image_size than "
            f"{plan.image_size} in the file of --config."
        ) from error
