"""What the commands share: their parsers, options that several of them have, reading settings, writing to the user."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.files import last_line
from ..base.progress import DISPLAYS
from ..base.stop import Stop
from ..base.watch import Watch
from ..model_store import DEFAULT_MODEL

DONE, FAILED = 0, 1  # exit codes
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    """A command that calls `run`; `commands` is what `add_subparsers` gives."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def add_group(commands: Any, name: str, text: str) -> Any:
    """A command that consists of commands of its own, to be added to what this returns."""
    return commands.add_parser(name, help=text, description=text).add_subparsers(metavar="COMMAND", required=True)


def add_computing(parser: argparse.ArgumentParser) -> None:
    add_sam_checkpoint(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps; default: %(default)s")
    add_progress(parser)


def add_sam_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sam-checkpoint", type=Path, metavar="FILE", help="the encoder's weights, if not in `weights path`"
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="default: %(default)s")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help="default: %(default)s")


def add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--progress", default="bar", choices=tuple(DISPLAYS), help="default: %(default)s")


def add_remote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--remote", metavar="HOST", help="compute on another computer, where sam3dsegment is too: what `ssh` takes"
    )
    parser.set_defaults(parser=parser)


def count(text: str) -> int:
    """An option's value: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


@contextmanager
def watched(display: str) -> Iterator[Watch]:
    """A watch that shows progress on the `display` of this name, closed at the end, and hears requests to stop."""
    stop = Stop()
    shown = DISPLAYS[display]()
    try:
        yield Watch(shown, stop)
    finally:
        shown.close()


def say(text: str) -> None:
    """Write a line of the result to standard output, at once. Raises InputError if that cannot take it."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"the result cannot be written to standard output ({last_line(error)}); give it another place."
        ) from error


def read_json(path: Path) -> Any:
    """Raises InputError if the file cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}; check the path.") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not valid JSON ({error}); fix the file.") from error
