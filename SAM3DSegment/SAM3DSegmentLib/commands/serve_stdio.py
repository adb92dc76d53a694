"""`sam3dsegment serve-stdio`: the far end of `--remote`. ssh starts it, not people: `--help` does not list it."""

from __future__ import annotations

import argparse
from typing import Any

from ..remote.ssh import SERVE


def add(commands: Any) -> None:
    parser = commands.add_parser(SERVE, description="answer another computer's --remote on standard input and output")
    parser.add_argument("--training", metavar="ID", help="look after a training that goes on without a connection")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.training is not None:
        from ..remote.detached import Training

        return Training.find(options.training).watch()
    from ..remote.server import serve

    return serve()
