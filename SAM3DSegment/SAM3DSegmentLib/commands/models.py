"""`sam3dsegment models`: list, show and import models."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from .shared import DONE, add_command, add_group, say

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    group = add_group(commands, "models", "available models")
    add_command(group, "list", _list, "names, modality and labels")
    show = add_command(group, "show", _show, "one model's card, as JSON")
    show.add_argument("model", metavar="NAME|FILE")
    importing = add_command(group, "import", _import, "check a model file and add it to your models")
    importing.add_argument("file", type=Path, metavar="FILE")
    importing.add_argument(
        "--from", dest="source", choices=("sam3d",), help="FILE is a checkpoint of the paper's code, UARK-AICV/SAM3D"
    )
    importing.add_argument("-o", "--output", type=Path, metavar="MODEL.sam3d", help="where to write it, with --from")
    importing.add_argument("--overwrite", action="store_true", help="replace a model of the same name")


def _list(options: argparse.Namespace) -> int:
    from ..base.errors import ModelFileError
    from ..model_store import list_models, read_card

    for path in list_models():
        try:
            card = read_card(path)
        except ModelFileError as error:
            logger.warning("%s", error)
            continue
        reads = card.modality or ", ".join(channel.name for channel in card.channels)
        say(f"{path.stem:<24} {reads:<8} {', '.join(label.name for label in card.labels)}")
    return DONE


def _show(options: argparse.Namespace) -> int:
    import json

    from ..base.jsonable import to_json
    from ..model_store import find_model, read_card

    path = find_model(options.model)
    say(json.dumps({"file": str(path), **to_json(read_card(path))}, indent=2))
    return DONE


def _import(options: argparse.Namespace) -> int:
    from ..model_file import import_model

    if bool(options.source) != bool(options.output):
        raise InputError("--from and -o belong together; give a checkpoint and the model file to write.")
    if options.source:
        return _import_paper_checkpoint(options.file, options.output, options.overwrite)
    path = import_model(options.file, options.overwrite)
    logger.info("%s was added to your models.", path.stem)
    return DONE


def _import_paper_checkpoint(source: Path, output: Path, overwrite: bool) -> int:
    from ..base.files import check_new_file
    from ..model_file import save_model
    from ..model_store import SUFFIX
    from .paper_checkpoint import NOT_IMPORTED, read_paper_checkpoint

    if output.suffix != SUFFIX:
        raise InputError(f"model {str(output)!r} has an unknown ending; use {SUFFIX}.")
    check_new_file(output, overwrite, [source])
    save_model(read_paper_checkpoint(source), output)
    logger.warning("masks of %s differ from those of the original code, because it lacks %s.", output, NOT_IMPORTED)
    return DONE
