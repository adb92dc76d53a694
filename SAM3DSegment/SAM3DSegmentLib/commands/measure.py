"""`sam3dsegment measure`: volumes and grey values of finished masks."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from .shared import DONE, FAILED, add_command, add_progress, say, watched

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    parser = add_command(commands, "measure", run, "volumes and grey values of finished masks, as a table")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="images with their masks, as for `train`")
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="masks in a folder of their own")
    parser.add_argument("--images", type=Path, metavar="DIR", help="their images, with the same names")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a CSV file; one that is there is added to")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of --table that is no such table")
    add_progress(parser)


@dataclass(frozen=True)
class _Pair:
    case: str
    image: Path
    mask: Path
    series_uid: str | None = None  # of a folder of DICOM files
    frame: int | None = None


def run(options: argparse.Namespace) -> int:
    from ..base.files import one_line
    from ..formats.volumes import read_volume
    from ..training.description import names_of_values
    from .measuring import measure_mask
    from .table import Table, as_columns, rows_of_record

    pairs = _find_pairs(options)
    table = Table(options.table) if options.table else None
    if table:
        table.check(options.overwrite, [path for pair in pairs for path in (pair.image, pair.mask)])
    described = names_of_values(_folders(pairs))
    rows, failed = [], 0
    with watched(options.progress) as watch:
        for pair in watch.each("measure", pairs, "cases that were measured are in the table."):
            try:
                image = read_volume(pair.image, pair.series_uid, frame=pair.frame)
                new = rows_of_record(pair.case, measure_mask(pair.mask, image, described, pair.frame))
            except Exception as error:
                failed += 1
                logger.error("%s", one_line(error, str(pair.mask)))
                logger.debug("%s failed here:", pair.case, exc_info=True)
                continue
            if table:
                table.add(new, watch.check)
            rows += new
    say(as_columns(rows))
    return FAILED if failed else DONE


def _find_pairs(options: argparse.Namespace) -> list[_Pair]:
    """Raises InputError if it is not clear which folders are meant, or nothing is in them."""
    from ..training.dataset import find_dataset

    if options.folder and not (options.predictions or options.images):
        dataset = find_dataset(options.folder, least=1)
        for notice in dataset.notices:
            logger.warning("%s", notice)
        return [_Pair(case.name, case.image, case.label_map, case.series_uid, case.frame) for case in dataset.cases]
    if options.folder or not (options.predictions and options.images):
        raise InputError(
            "measure needs a folder DIR of images with their masks, or --predictions DIR and --images DIR; give one of "
            "the two."
        )
    return _pair_folders(options.predictions, options.images)


def _pair_folders(predictions: Path, images: Path) -> list[_Pair]:
    """By name, else DICOM by UIDs; masks of an image that is not there are told in a warning."""
    from ..formats.volumes import VolumeFile, volumes_by_name

    for folder in (predictions, images):
        if not folder.is_dir():
            raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    masks = volumes_by_name(predictions)
    found = {name: path for name, path in volumes_by_name(images).items() if not VolumeFile(path).is_segmentation}
    if not masks.keys() & found.keys():
        if of_series := _pair_series(predictions, images):
            return of_series
        raise InputError(
            f"no file in {str(predictions)!r} has the name of one in {str(images)!r}; names must agree except for the "
            "ending."
        )
    if lonely := sorted(masks.keys() - found.keys()):
        logger.warning("%d masks have no image and are left out: %s.", len(lonely), ", ".join(lonely[:5]))
    return [_Pair(name, found[name], masks[name]) for name in sorted(masks.keys() & found.keys())]


def _pair_series(predictions: Path, images: Path) -> list[_Pair]:
    """Each DICOM segmentation with the series that it names, by UIDs, in the folders and all below them."""
    from ..formats.dicom_tree import find_in_tree  # pydicom is loaded where there is DICOM

    masks, series = find_in_tree(predictions).by_series(), find_in_tree(images).series
    if lonely := [str(path) for uid, path in masks.items() if uid not in series]:
        logger.warning("%d masks have no image and are left out: %s.", len(lonely), ", ".join(lonely[:5]))
    pairs = [
        _Pair(path.relative_to(predictions).with_suffix("").as_posix(), series[uid], path, uid)
        for uid, path in masks.items()
        if uid in series
    ]
    return sorted(pairs, key=lambda pair: pair.case)


def _folders(pairs: Iterable[_Pair]) -> Mapping[Path, None]:
    """Where a `dataset.json` may say what the values are called: beside the masks, or above them."""
    folders = [pair.mask.absolute().parent for pair in pairs]
    return dict.fromkeys([*folders, *(folder.parent for folder in folders)])
