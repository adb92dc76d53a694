"""What a command may miss where it runs: streams that take any text, or anything at all; a name of its user."""

from __future__ import annotations

import getpass
import os
import sys


def secure_streams() -> None:
    """Make the standard streams take whatever is written: at the start of a command.

    What a terminal cannot show (names in other alphabets, or that are no text) is shown as escapes. A stream that is
    closed becomes one that swallows all; else the next file that is opened would have its number, and take its text.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _swallow(number, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def empty_streams() -> None:
    """Write what is waiting, at the end of a command; what cannot be written is dropped.

    Python would try again when it ends, and then give an exit code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _swallow(stream.fileno(), os.O_WRONLY)


def _swallow(number: int, mode: int) -> None:
    nothing = os.open(os.devnull, mode)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)


def name_the_user() -> None:
    """Some packages ask for the user's name when they are imported; a user id, as of a container, may have none."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = "unknown"
