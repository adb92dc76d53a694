"""A Python that has imported large libraries: children of PythonSlicer are forked off it, and have them at once.

Such a child is a process of its own, with the streams, the folder, the environment and the arguments that its launcher
was given, and its end is the launcher's. What Python and the libraries read of the environment when they start is that
of this process, though, and its command line is this one's. This process ends with its standard input.

    warm_python.py ADDRESS LIBRARY...
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import runpy
import select
import socket
import sys
from pathlib import Path


def main() -> None:
    address, *libraries = sys.argv[1:]
    for name in libraries:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen()
        os.rename(f"{address}.new", address)  # from now on it is found
        while server in select.select([server, 0], [], [])[0]:
            connection = server.accept()[0]
            if os.fork() == 0:
                break
            connection.close()
            _forgetEnded()
        else:
            return
    _serve(connection)


def _forgetEnded() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _serve(connection: socket.socket) -> None:
    """Run what is asked for in one more process, and tell its process id, then its exit code."""
    streams, request = _receive(connection)
    child = os.fork()
    if child == 0:
        connection.close()
        _run(streams, **request)
        return
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(OSError):  # the launcher was killed
        connection.sendall(b"%d\n" % child)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(b"%d\n" % code)
    os._exit(0)


def _receive(connection: socket.socket) -> tuple[list[int], dict]:
    text, streams, _flags, _address = socket.recv_fds(connection, 2**16, 3)
    while block := connection.recv(2**16):
        text += block
    return streams, json.loads(text)


def _run(streams: list[int], folder: str, environment: dict[str, str], module: str, arguments: list[str]) -> None:
    """As `python -m MODULE ARGUMENTS...`."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(streams[number], number)
        os.close(streams[number])
        file = open(number, "wb" if number else "rb", 0 if number else -1, closefd=False)  # noqa: SIM115
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        setattr(sys, name, io.TextIOWrapper(file, "utf-8", errors, write_through=True))  # they know what can be sought
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def ask(address: Path, arguments: list[str], children: Path) -> int:
    """For the launcher: have `-m MODULE ARGUMENTS...` run, and return the exit code, negative for a signal."""
    _dash_m, module, *others = arguments
    request = {"folder": os.getcwd(), "environment": dict(os.environ), "module": module, "arguments": others}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address))
        text = json.dumps(request).encode()
        sent = socket.send_fds(connection, [text], [0, 1, 2])
        connection.sendall(text[sent:])
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answers:
            (children / answers.readline().strip()).touch()
            return int(answers.readline())


if __name__ == "__main__":
    main()
