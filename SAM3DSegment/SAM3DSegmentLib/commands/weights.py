"""`sam3dsegment weights`: SAM's own checkpoints."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from .shared import DONE, add_command, add_group, add_progress, say, watched

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    group = add_group(commands, "weights", "SAM's own checkpoints")
    add_command(group, "list", _list, "available checkpoints, and which of them are here")
    path = add_command(group, "path", _path, "where a checkpoint is, or must be put")
    verify = add_command(group, "verify", _verify, "check a checkpoint against its published hash")
    download = add_command(group, "download", _download, "download a checkpoint")
    add_command(group, "clear", _clear, "remove downloaded checkpoints")
    for command in (path, verify, download):
        command.add_argument("encoder", nargs="?", default="sam_vit_b", help="default: %(default)s")
    verify.add_argument("--file", type=Path, help="a checkpoint elsewhere")
    add_progress(download)


def _list(options: argparse.Namespace) -> int:
    from ..sam.weights import CHECKPOINTS

    for name, checkpoint in CHECKPOINTS.items():
        missing = "damaged" if checkpoint.path.exists() else "not here"  # `weights verify` says why
        state = "here" if checkpoint.is_here else missing
        say(f"{name:<12} {checkpoint.megabytes:>5} MB  {state:<9} {checkpoint.url}")
    return DONE


def _path(options: argparse.Namespace) -> int:
    from ..sam.weights import published

    say(str(published(options.encoder).path))
    return DONE


def _verify(options: argparse.Namespace) -> int:
    from ..sam.weights import published, verify

    checkpoint = published(options.encoder)
    path = options.file or checkpoint.path
    verify(checkpoint, path)
    say(f"{path} is the published {checkpoint.file_name}.")
    return DONE


def _download(options: argparse.Namespace) -> int:
    from ..sam.weights import download, published

    with watched(options.progress) as watch:
        path = download(published(options.encoder), watch)
    logger.info("%s is here and is the published file.", path)
    return DONE


def _clear(options: argparse.Namespace) -> int:
    from ..sam.weights import clear

    removed, kept = clear()
    for path in removed:
        say(f"removed {path}")
    for path in kept:
        logger.warning("%s is not the published file, so it was kept; remove it yourself.", path)
    return DONE
