"""`sam3dsegment train`: a model from labelled volumes."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.files import is_utf8
from ..base.stop import should_finish
from .shared import DONE, FAILED, add_command, add_computing, add_remote, count, read_json, say, watched

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    parser = add_command(commands, "train", run, "train a decoder from labelled volumes")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="labelled cases: imagesTr and labelsTr (Decathlon, nnU-Net), pairs of files, or a folder for each case",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="MODEL.sam3d", help="required unless --check is given")
    parser.add_argument(
        "--check", action="store_true", help="only list the cases, anything suspicious, and the time and disk needed"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as JSON; the options below override them")
    parser.add_argument("--cases", type=count, metavar="N", help="use only N training cases")
    parser.add_argument(
        "--folds", type=count, metavar="K", help="train K decoders, each leaving out a different part of the cases"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="M", help="training time, without encoding and validation")
    length.add_argument("--epochs", type=count, metavar="E", help="passes over the training cases, instead of a time")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue a stopped training")
    again.add_argument("--overwrite", action="store_true", help="replace the model, or a stopped training")
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        help="sam_vit_b (the default where its weights are here), another of `weights list`, compact_vit (else the"
        " default), or a model whose encoder to use",
    )
    parser.add_argument(
        "--painted-slices",
        action="store_true",
        default=None,
        help="of each case only the slices on which something is painted are complete; nothing is known of the others",
    )
    parser.add_argument(
        "--resample", action="store_true", default=None, help="resample label maps to the grid of their image"
    )
    parser.add_argument("--seed", type=int, metavar="S")
    add_computing(parser)
    add_remote(parser)
    parser.add_argument(
        "--detach",
        action="store_true",
        help="with --remote: the training goes on there if the connection ends, and --resume fetches it",
    )


def run(options: argparse.Namespace) -> int:
    if options.remote is not None:
        from .training_elsewhere import train_elsewhere

        return train_elsewhere(options)
    if options.detach:
        raise InputError("--detach is for a training on another computer; add --remote HOST, or leave it out.")
    from ..base.devices import keep_freed_memory
    from ..training.check import check
    from ..training.plan import make_config
    from ..training.run import train
    from ..training.run_folder import Options

    keep_freed_memory()
    settings = read_json(options.config) if options.config else {}
    given = {
        key: getattr(options, key)
        for key in ("minutes", "epochs", "encoder", "seed", "folds", "resample", "painted_slices")
    }
    if given["minutes"] is not None:
        given["epochs"] = 0
    given = {key: value for key, value in given.items() if value is not None}
    config = make_config(settings, given, options.sam_checkpoint)
    how = Options(options.cases, options.sam_checkpoint, options.device, options.resume, options.overwrite)
    if options.check:
        with watched(options.progress) as watch:
            lines, problems = check(options.data, config, how, watch)
        if options.progress != "json":
            say("\n".join(lines))
        return FAILED if problems else DONE
    if options.output is None:
        raise InputError("no output file is given; add -o MODEL.sam3d, or --check to only check the data.")
    if not is_utf8(options.output):
        raise InputError(f"output {str(options.output)!r} is not UTF-8, so no log can be written there; rename it.")
    with watched(options.progress) as watch:
        model = train(options.data, options.output, config, how, replace(watch, finishing=should_finish))
    summary = model.card.training
    dice = ", ".join(f"{name} {value:.4f}" for name, value in summary.dice.items())
    cases = f"{summary.dice_cases} case{'s' if summary.dice_cases > 1 else ''}"
    logger.info("%s: Dice %s (%s; %s).", options.output, dice, summary.dice_note, cases)
    return DONE
