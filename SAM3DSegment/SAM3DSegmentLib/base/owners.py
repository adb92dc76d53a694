"""Whose a file is: a process of this computer, of which can be asked whether it still lives, or of another one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from dataclasses import dataclass

_MARK = re.compile("([0-9a-f]{8})([0-9a-f]{8})")


@dataclass(frozen=True)
class Owner:
    """A process. computer: its name, and on Linux the name space in which process_id counts."""

    computer: str
    process_id: int

    def is_here(self) -> bool:
        return self.computer == this_computer()

    def is_gone(self) -> bool:
        """Of a process of this computer."""
        import psutil

        try:
            return psutil.Process(self.process_id).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:  # another user's
            return False

    def __str__(self) -> str:
        return f"process {self.process_id} on {self.computer.partition(' ')[0]}"


def this_computer() -> str:
    space = ""
    with contextlib.suppress(OSError):
        space = f" {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()}{space}"


def our_mark() -> str:
    """16 hexadecimal digits for the name of a file that is this process's own."""
    return f"{_digits(this_computer())}{os.getpid() & 0xFFFFFFFF:08x}"


def is_mark_of_the_dead(text: str) -> bool:
    """Whether `text` begins with the mark of a process of this computer that has ended; if in doubt, no."""
    mark = _MARK.match(text)
    if not mark or mark[1] != _digits(this_computer()):
        return False
    try:
        return Owner(this_computer(), int(mark[2], 16)).is_gone()
    except ImportError:  # in Slicer's own process
        return False


def _digits(computer: str) -> str:
    return hashlib.sha256(computer.encode(errors="surrogateescape")).hexdigest()[:8]
