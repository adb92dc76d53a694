"""A plan carried out: its cases are prepared, each fold is trained, and the model is measured and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning_fabric import Fabric

from ..base.devices import is_out_of_memory, resolve_device
from ..base.errors import InputError, OutOfMemoryError
from ..base.files import last_line
from ..base.watch import UNWATCHED, Watch
from ..model_file import Sam3dModel
from .finish import finish
from .fold import train_fold
from .loop import make_fabric
from .open_run import Run, open_run
from .plan import Plan
from .preparing import prepare_cases
from .run_folder import Options, RunFolder

FindPlaces = Callable[[Run, Options], Run]


def train_as_planned(
    plan: Plan, folder: RunFolder, options: Options, watch: Watch = UNWATCHED, find_places: FindPlaces | None = None
) -> Sam3dModel:
    """plan: made to be carried out, with the files' fingerprint. Raises as `run.train`.

    find_places: chooses the boxes that are trained on, of a plan that looks at these alone.
    """
    if plan.problems:
        more = f" ({len(plan.problems)} cases cannot be used; --check lists them)" if len(plan.problems) > 1 else ""
        raise InputError(plan.problems[0].problem + more)
    with _told_if_memory_runs_out(plan):
        return carry_out(plan, folder, make_fabric(resolve_device(options.device)), options, watch, find_places)


def carry_out(
    plan: Plan,
    folder: RunFolder,
    fabric: Fabric,
    options: Options,
    watch: Watch,
    find_places: FindPlaces | None = None,
) -> Sam3dModel:
    """A training on devices that are there, as another has them within which it is."""
    run = open_run(plan, folder, fabric, options, watch)
    if plan.coarse is not None:
        assert find_places is not None
        run = find_places(run, options)
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
