"""`sam3dsegment segment`: volumes to label maps."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import require
from ..base.watch import Watch
from ..model_store import find_model
from ..quality import AUTO, BEST, QUALITIES, QualityChoice
from .shared import DONE, FAILED, add_command, add_computing, add_model, add_precision, add_remote, watched

if TYPE_CHECKING:
    from .batch import Request
    from .report import Summary

logger = logging.getLogger(__name__)

FORMATS = ("seg.nrrd", "dcm")  # which a later run over the folder does not take for images


def add(commands: Any) -> None:
    parser = add_command(commands, "segment", run, "segment a volume, or every volume of a folder")
    parser.add_argument(
        "input", nargs="+", type=Path, metavar="INPUT", help="volume file, DICOM folder, or folder of volumes"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="file (.seg.nrrd, .nii.gz, .dcm for a DICOM series, ...), or folder for many volumes",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help=f"of the files in a folder of results; default: {FORMATS[0]}",
    )
    _add_selection(parser)
    add_model(parser)
    add_computing(parser)
    add_precision(parser)
    parser.add_argument(
        "--quality",
        default=BEST,
        choices=(*QUALITIES, AUTO),
        help="lower is faster; auto takes the best that needs at most a minute; default: %(default)s",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument(
        "--confidence", type=Path, metavar="FILE", help="write the probability of each voxel's label, in percent"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a volume that does not look like the model's training data"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write how the results were made, as JSON; with --frames and .html volumes over time",
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="write volumes and grey values as CSV; one that is there is added to"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE.html", help="pictures and numbers to look through, what is odd first"
    )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """What of the input is segmented."""
    parser.add_argument(
        "--region", default="auto", help="only the voxels I0:I1,J0:J1,K0:K1, ends excluded; default: all"
    )
    parser.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="for a model of several channels: those besides INPUT, each by the name that `models show` gives; "
        "FILE may be a DICOM folder",
    )
    parser.add_argument("--resample", action="store_true", help="bring channels to the grid of the first")
    parser.add_argument("--series", metavar="UID", help="which series of a DICOM folder that holds several")
    parser.add_argument(
        "--frames",
        metavar="all|N|N:M",
        help="of a 4-D volume: all, frame N, or those from N to M - 1, counted from 0; several go into one 4-D OUT "
        "(.nii, .nii.gz, .seq.nrrd), else into a folder",
    )
    parser.add_argument("--recursive", action="store_true", help="also folders in the folder; OUT gets the same tree")
    parser.add_argument(
        "--pattern", metavar="GLOB", help="of a tree only these, such as '*_T1w.nii.gz' or 'anat/*.nii.gz'"
    )
    parser.add_argument(
        "--part", metavar="K/N", help="of a folder's volumes only those of part K of N; auto: as Slurm's job array says"
    )
    parser.add_argument("--anonymous", action="store_true", help=argparse.SUPPRESS)  # asked for by some; refused
    add_remote(parser)


def run(options: argparse.Namespace) -> int:
    from ..geometry import check_region
    from .batch import Request
    from .channels import parse_channels
    from .frames import parse_frames
    from .parts import Part, Which, parse_part
    from .sources import Outputs

    require(
        not options.anonymous,
        "--anonymous is not possible: a DICOM segmentation has to name the patient and the study of its images; "
        "anonymise the series first, and segment that.",
    )
    part = Part() if options.part is None else parse_part(options.part, os.environ)
    request = Request(
        tuple(options.input),
        Outputs(
            options.output,
            options.confidence,
            options.report,
            options.overwrite,
            options.table,
            f".{options.format}" if options.format else "",
            options.page,
        ),
        options.series,
        tuple(path for path in (find_model(options.model), options.sam_checkpoint) if path),
        options.strict,
        Which(part, options.recursive, options.pattern),
        channels=parse_channels(options.channel),
        resample=options.resample,
        frames=parse_frames(options.frames) if options.frames is not None else None,
        region=check_region(options.region),
    )
    with watched(options.progress) as watch:
        summary = (_segment_here if options.remote is None else _segment_elsewhere)(options, request, watch)
    if len(summary.records) + len(summary.skipped) + len(summary.failed) > 1 or not summary.records:
        logger.info("%s.", summary)
    return FAILED if summary.failed else DONE


def _segment_here(options: argparse.Namespace, request: Request, watch: Watch) -> Summary:
    from ..base.devices import keep_freed_memory
    from ..inference import Segmenter
    from ..model_file import load_model
    from .batch import segment_files

    keep_freed_memory()
    model = load_model(options.model)

    def tell_choice(choice: QualityChoice) -> None:
        watch.event("quality", quality=choice.quality, seconds=choice.seconds[choice.quality])

    def load() -> Segmenter:
        return Segmenter.load(
            model, options.device, options.precision, options.sam_checkpoint, options.quality, tell_choice
        )

    return segment_files(request, model, load, watch)


def _segment_elsewhere(options: argparse.Namespace, request: Request, watch: Watch) -> Summary:
    from contextlib import closing

    from ..model_store import ModelOnDisk
    from .batch import segment_files
    from .elsewhere import SegmentingElsewhere

    model = ModelOnDisk.find(options.model)
    with closing(SegmentingElsewhere(options, model, watch)) as elsewhere:
        return segment_files(request, model, elsewhere, watch)
