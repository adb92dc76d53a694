"""`sam3dsegment doctor`: what this computer offers, and what is missing."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from .shared import DONE, FAILED, add_command, add_remote, say

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    parser = add_command(commands, "doctor", run, "check this computer")
    parser.add_argument("--model", metavar="NAME|FILE", help="also measure how fast this model is")
    parser.add_argument("--json", action="store_true", help="write the findings as JSON")
    add_remote(parser)


def run(options: argparse.Namespace) -> int:
    if options.remote is not None:
        from .elsewhere import doctor_elsewhere

        return doctor_elsewhere(options)
    import dataclasses
    import json

    from .examination import examine

    result = examine(options.model)
    if options.json:
        say(json.dumps(dataclasses.asdict(result)))
        return DONE
    for name, finding in result.findings:
        say(f"{name:<18} {finding}")
    for problem in result.problems:
        logger.error("%s", problem)
    return FAILED if result.problems else DONE
