"""How a running command is asked to stop: by an interrupt, or by the end of its standard input.

The second is for a program that starts the command through another one, as 3D Slicer does: signals do not get through
to here, but the end of standard input does, on every system, and also when the program that asked for the work dies.
Such a program may also write the line FINISH: then a training ends early, with what it has reached.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from .files import remove_partial_files

VARIABLE = "SAM3DSEGMENT_STOP_AT_EOF"  # 1 if a program asks for it: a terminal's input may end without meaning that
FOLDER_VARIABLE = "SAM3DSEGMENT_TEMPORARY_FOLDER"  # where that program keeps files for us; removed when it dies
FOLDER_PREFIX = "SAM3DSegment-"  # no folder of another name is removed
FINISH = b"finish\n"
CANCELLED = 130  # the exit code

_POLITE_S = 0.8  # for the command to stop between two steps
_PATIENCE_S = 1.5  # for the process to end by itself

_MAIN_THREAD = threading.main_thread().ident or 0
_input_ended = threading.Event()
_finish_asked = threading.Event()


class Stop:
    """Says whether to stop, when called between two steps. Makes a polite request of the first interrupt."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self():
            raise KeyboardInterrupt
        self._asked = True

    def __call__(self) -> bool:
        return self._asked or _input_ended.is_set()


def should_finish() -> bool:
    """Whether the program that started this command has asked it to end early, with what it has reached."""
    return _finish_asked.is_set()


def stop_at_end_of_input() -> None:
    """If SAM3DSEGMENT_STOP_AT_EOF is 1: write which process this is, as a line of JSON, and end with standard input."""
    if os.environ.get(VARIABLE) != "1":
        return
    sys.stdout.write(json.dumps({"process_id": os.getpid()}) + "\n")
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program started in the background ignores it
    # Nothing else shall look at this input: on Windows, even to ask what kind of file it is waits for our reading.
    source, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(source,), name="end of input", daemon=True).start()


def clean_up() -> None:
    """At the end of a command: if its input has ended, remove the folder of the program that started it."""
    folder = Path(os.environ.get(FOLDER_VARIABLE, ""))
    if _input_ended.is_set() and folder.is_absolute() and folder.name.startswith(FOLDER_PREFIX):
        with contextlib.suppress(OSError):
            os.chdir(folder.parent)  # Windows keeps a folder in which a process is
        shutil.rmtree(folder, ignore_errors=True)


def leave_if_input_ended() -> None:
    """If the input has ended, end this process as cancelled, with all that belongs to it.

    Not by the usual way out: an interrupt that came while Python compiled a text, as modules do when they are imported,
    makes it end by a signal although the interrupt was caught.
    """
    if not _input_ended.is_set():
        return
    for child in multiprocessing.active_children():
        child.kill()
    remove_partial_files()
    clean_up()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has gone
            stream.flush()
    os._exit(CANCELLED)


def _watch(source: int) -> None:
    read = b""
    with contextlib.suppress(OSError):
        while block := os.read(source, 2**16):
            read = (read + block)[-2 * len(FINISH) :]
            if FINISH in read:
                _finish_asked.set()
    _input_ended.set()
    time.sleep(_POLITE_S)
    _interrupt()
    time.sleep(_PATIENCE_S - _POLITE_S)
    leave_if_input_ended()


def _interrupt() -> None:
    """A KeyboardInterrupt in the main thread, which then removes what it has half-written, as in a terminal."""
    if hasattr(signal, "pthread_kill"):  # wakes it from waiting for the network, too
        signal.pthread_kill(_MAIN_THREAD, signal.SIGINT)
    else:
        _thread.interrupt_main()
