"""`sam3dsegment complete`: painted slices to a whole volume, or a result that is corrected by repainted ones."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from .shared import DONE, add_command, add_computing, add_remote, watched

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    parser = add_command(commands, "complete", run, "fill painted slices to a volume, or correct a result")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="volume file, or DICOM folder")
    parser.add_argument(
        "segmentation",
        type=Path,
        metavar="SEGMENTATION",
        help="segmentation or label map with the painted slices, or a result",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="file (.seg.nrrd, .nii.gz, ...)"
    )
    parser.add_argument("--model", metavar="NAME|FILE", help="a model that finds these structures; default: none")
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="S", help="of computing at most; default: %(default)g"
    )
    parser.add_argument(
        "--extend", action="store_true", help="fill beyond the outermost painted slices, too, as far as their distance"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing result")
    add_computing(parser)
    add_remote(parser)


def run(options: argparse.Namespace) -> int:
    if options.remote is not None:
        from .elsewhere import complete_elsewhere

        return complete_elsewhere(options)
    from ..base.devices import keep_freed_memory
    from ..training.completion import Completion
    from ..training.completion_files import complete_file

    keep_freed_memory()
    completion = Completion(options.seconds, options.extend, options.device, options.sam_checkpoint)
    with watched(options.progress) as watch:
        filled = complete_file(
            options.image, options.segmentation, options.output, options.model, completion, options.overwrite, watch
        )
    logger.info("%s -> %s: %s.", options.segmentation, options.output, filled)
    return DONE
