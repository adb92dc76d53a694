"""The system's `ssh`: how it is started, and what its messages mean for the user."""

from __future__ import annotations

import os
import re
import subprocess

from ..base.errors import InputError

COMMAND_VARIABLE = "SAM3DSEGMENT_REMOTE_COMMAND"  # what the shell of the other computer starts
COMMAND = "sam3dsegment"
SERVE = "serve-stdio"  # the command of ours that answers there
# No questions, as nobody may be there to answer; a dead connection is noticed in a minute. All else is ssh's own
# configuration: names, ports, users, keys, jump hosts.
_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
_SSH_FAILED = 255
_NOT_FOUND = 127

# What ssh says, and what is told: the cause, and the remedy. The first that is found counts.
_MESSAGES = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the key of {host!r} is not the one that is known here, so it may be another computer; ask who runs it, then "
        "remove the old key with `ssh-keygen -R`.",
    ),
    (
        r"Host key verification failed|host key is known for",
        "the key of {host!r} is not known here; run `ssh {host}` once in a terminal, and compare the key that it "
        "shows.",
    ),
    (
        r"Could not resolve hostname|Name or service not known|nodename nor servname",
        "the computer {host!r} is unknown; check the name, or add it to ~/.ssh/config.",
    ),
    (
        r"Permission denied|Too many authentication failures|no mutual signature|Load key",
        "{host!r} refused the key of this user; see that `ssh -o BatchMode=yes {host}` works without a question "
        "(ssh-copy-id, ssh-add).",
    ),
    (
        r"Connection refused|timed out|No route to host|Network is unreachable|Connection reset|Connection closed",
        "{host!r} cannot be reached ({said}); check the network, and that `ssh {host}` works.",
    ),
)


def check_host(host: str) -> None:
    """Raises InputError for what cannot be a host's name, and might be an option of ssh."""
    if not re.fullmatch(r"[^\s-][^\s]*", host):
        raise InputError(f"{host!r} cannot be the name of a computer; give --remote what `ssh` takes.")


def start(host: str) -> subprocess.Popen[bytes]:
    """Our command on `host`, with pipes. Raises InputError if there is no ssh here."""
    check_host(host)
    there = f"{os.environ.get(COMMAND_VARIABLE) or COMMAND} {SERVE}"
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            ["ssh", *_OPTIONS, "--", host, there],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            start_new_session=True,  # an interrupt from the keyboard is for this program, which then ends ssh
        )
    except FileNotFoundError as error:
        raise InputError(f"there is no `ssh` here to reach {host!r} with; install the OpenSSH client.") from error


def why_not_begun(host: str, code: int | None, said: str) -> InputError:
    """Why our command did not answer on `host`, from ssh's exit code and what it or the far shell wrote."""
    command = os.environ.get(COMMAND_VARIABLE) or COMMAND
    if code == _NOT_FOUND or re.search(rf"{re.escape(command.split()[0])}.*not found", said):
        return InputError(
            f"there is no {command!r} on {host!r}; install it there (`python3 -m pip install .` in a clone of "
            f"SAM3DSegment) where a shell without a terminal finds it, or say the command in {COMMAND_VARIABLE}."
        )
    if SERVE in said and "invalid choice" in said:
        return InputError(f"SAM3DSegment on {host!r} is too old for --remote; update it there.")
    if code == _SSH_FAILED:
        for pattern, message in _MESSAGES:
            if re.search(pattern, said):
                return InputError(message.format(host=host, said=_last_line(said)))
    return InputError(f"{host!r} did not answer ({_last_line(said)}); check that `ssh {host} {command} doctor` works.")


def why_lost(host: str, said: str, consequence: str) -> InputError:
    """A connection that has ended in the middle."""
    because = f" ({_last_line(said)})" if said.strip() else ""
    return InputError(f"the connection to {host!r} was lost{because}; {consequence}")


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it said nothing"
