"""The command line. Only the chosen command imports what it needs, so that `--help` answers at once.

Exit codes: 0 done, 1 failed with one line that says what to do, 2 wrong usage, 130 cancelled.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings

from . import __version__
from .base.errors import Cancelled, DependencyError, Sam3dError
from .base.files import last_line
from .base.processors import share_processors
from .base.stop import CANCELLED, clean_up, leave_if_input_ended, stop_at_end_of_input
from .base.surroundings import empty_streams, name_the_user, secure_streams
from .commands import bench, cache, complete, doctor, evaluate, measure, models, segment, serve_stdio, train, weights
from .commands.shared import FAILED

logger = logging.getLogger(__name__)

DEBUG = "SAM3DSEGMENT_DEBUG"  # if 1, tracebacks are shown
COMMANDS = (segment, complete, train, evaluate, measure, models, weights, cache, bench, doctor, serve_stdio)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    share_processors()
    secure_streams()
    name_the_user()
    stop_at_end_of_input()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt, also where a command makes no Stop
    try:
        options = _parser().parse_args(arguments)
        logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr, force=True)
        if os.environ.get(DEBUG) == "1":
            logging.getLogger(__package__).setLevel(logging.DEBUG)
        for library in ("monai", "urllib3", "matplotlib"):
            logging.getLogger(library).setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")  # of its calls to itself
        return _run(options)
    finally:
        clean_up()
        empty_streams()


def _run(options: argparse.Namespace) -> int:
    try:
        return options.run(options)
    except (Cancelled, KeyboardInterrupt) as error:
        return _cancelled(str(error))
    except Exception as error:
        if _is_interrupt(error):
            return _cancelled("")
        _tell(error)
        return FAILED


def _cancelled(message: str) -> int:
    logger.warning("%s", message or "cancelled.")
    leave_if_input_ended()
    return CANCELLED


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is it, or behind it: one in the midst of an import may come out as another error."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _tell(error: Exception) -> None:
    if isinstance(error, Sam3dError):
        logger.error("%s", error)
    elif isinstance(error, ImportError):
        logger.error("%s", DependencyError(f"{error}; {_how_to_install(error.name or '')}"))
    elif isinstance(error, MemoryError):
        logger.error("out of memory (%s); close other programs, or use a smaller volume.", error)
    elif isinstance(error, BrokenPipeError):
        pass  # the reader of our output has gone
    elif isinstance(error, OSError):
        place = "" if error.filename is None else f"{str(error.filename)!r}: "
        logger.error("%s%s; check the path, free space and permissions.", place, error.strerror or error)
    else:
        kind = type(error).__name__
        logger.error("unexpected error (%s: %s); please report it with what %s=1 shows.", kind, last_line(error), DEBUG)
        logger.debug("it came from here:", exc_info=error)


def _how_to_install(module: str) -> str:
    try:
        from .commands.examination import how_to_install
    except ImportError:  # numpy is missing
        return "run `sam3dsegment doctor` to see what is missing."
    return how_to_install(module)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam3dsegment", description="Segment volumes with a frozen SAM encoder and a light 3-D decoder."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
