"""`sam3dsegment weights`: the files of published encoders."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from .shared import DONE, add_command, add_group, add_progress, say, watched

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    group = add_group(commands, "weights", "weights of published encoders: SAM's, MedSAM's and others")
    add_command(
        group, "list", _list, "encoders, which of their weights are here, where to get the others, and their licences"
    )
    path = add_command(group, "path", _path, "where a checkpoint is, or must be put")
    verify = add_command(group, "verify", _verify, "check a checkpoint against its published hash")
    download = add_command(group, "download", _download, "download a checkpoint")
    add_command(group, "clear", _clear, "remove downloaded checkpoints")
    for command in (path, verify, download):
        command.add_argument("encoder", nargs="?", default="sam_vit_b", help="default: %(default)s")
    verify.add_argument("--file", type=Path, help="a checkpoint elsewhere")
    add_progress(download)


def _list(options: argparse.Namespace) -> int:
    from ..sam.encoders import ENCODERS

    for name, encoder in ENCODERS.items():
        missing = "damaged" if encoder.path.exists() else "not here"  # `weights verify` says why
        state = "here" if encoder.is_here else missing
        size = f"{encoder.megabytes} MB" if encoder.megabytes else ""
        source = encoder.url if encoder.sha256 else f"{encoder.file_name} from {encoder.source}"
        needs = f", changes {encoder.base}" if encoder.base else ""
        say(f"{name:<16} {size:>7}  {state:<9} {encoder.licence:<11} {source}{needs}")
    return DONE


def _path(options: argparse.Namespace) -> int:
    from ..sam.encoders import published

    say(str(published(options.encoder).path))
    return DONE


def _verify(options: argparse.Namespace) -> int:
    from ..sam.encoders import published
    from ..sam.weights import verify

    encoder = published(options.encoder)
    path = options.file or encoder.path
    verify(encoder, path)
    say(f"{path} is the published {encoder.file_name}.")
    return DONE


def _download(options: argparse.Namespace) -> int:
    from ..sam.encoders import published
    from ..sam.weights import download

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
