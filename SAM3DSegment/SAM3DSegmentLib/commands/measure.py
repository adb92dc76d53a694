"""`sam3dsegment measure`: volumes and grey values of finished masks."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..base.errors import InputError
from .shared import DONE, FAILED, add_command, add_progress, say, watched

if TYPE_CHECKING:
    from ..formats.channels import ChannelFile  # which brings SimpleITK

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    parser = add_command(commands, "measure", run, "volumes and grey values of finished masks, as a table")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="images with their masks, as for `train`")
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="masks in a folder of their own")
    parser.add_argument("--images", type=Path, metavar="DIR", help="their images, with the same names")
    parser.add_argument(
        "--recursive", action="store_true", help="the folders are trees, as `segment --recursive` makes them"
    )
    parser.add_argument("--pattern", metavar="GLOB", help="of a tree only these images, such as '*_T1w.nii.gz'")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write a CSV file; one that is there is added to")
    parser.add_argument(
        "--page", type=Path, metavar="FILE.html", help="pictures and numbers to look through, what is odd first"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of --table and --page that are neither")
    add_progress(parser)


@dataclass(frozen=True)
class _Pair:
    """A mask and the channels of its image, mostly one, without a name."""

    case: str
    image: tuple[ChannelFile, ...]
    mask: Path
    named: Mapping[int, tuple[str, tuple[int, int, int]]] = field(default_factory=dict)  # names and colours of values
    frame: int | None = None


def run(options: argparse.Namespace) -> int:
    from ..base.files import one_line
    from ..formats.channels import read_channels
    from ..training.description import names_of_values
    from .measuring import measure_masks, read_masks
    from .page import Page
    from .planes import draw_planes
    from .table import Table, as_columns, rows_of_record

    pairs = _find_pairs(options)
    table = Table(options.table) if options.table else None
    page = Page(options.page) if options.page else None
    read = [path for pair in pairs for path in (*(channel.path for channel in pair.image), pair.mask)]
    if table:
        table.check(options.overwrite, read)
    if page:
        page.check(options.overwrite, read)
    described = names_of_values(_folders(pairs))
    rows, failed = [], 0
    with watched(options.progress) as watch:
        for pair in watch.each("measure", pairs, "cases that were measured are in the table."):
            try:
                image = read_channels(pair.image, frame=pair.frame)
                names = described | {value: name for value, (name, _) in pair.named.items()}
                colors = {value: color for value, (_, color) in pair.named.items()}
                masks = read_masks(pair.mask, image, names, colors, pair.frame)
                record = measure_masks(masks, image)
                picture = draw_planes(image.array_kji, image.ijk_to_ras, masks) if page else None
            except Exception as error:
                failed += 1
                logger.error("%s", one_line(error, str(pair.mask)))
                logger.debug("%s failed here:", pair.case, exc_info=True)
                continue
            new = rows_of_record(pair.case, record)
            if table:
                table.add(new, watch.check)
            if page and picture is not None:
                page.add(pair.case, record, masks.colors, picture, pair.mask, watch.check)
            rows += new
    say(as_columns(rows))
    return FAILED if failed else DONE


def _find_pairs(options: argparse.Namespace) -> list[_Pair]:
    """Raises InputError if it is not clear which folders are meant, or nothing is in them."""
    from ..training.dataset import find_dataset
    from .parts import Which

    which = Which(recursive=options.recursive, pattern=options.pattern)
    both = options.predictions, options.images
    if options.folder and not any(both) and not which.recursive:
        dataset = find_dataset(options.folder, least=1)
        for notice in dataset.notices:
            logger.warning("%s", notice)
        return [_Pair(case.name, case.channels, case.label_map, frame=case.frame) for case in dataset.cases]
    if options.folder and not any(both):
        both = options.folder, options.folder  # masks beside their images
    elif options.folder or not all(both):
        raise InputError(
            "measure needs a folder DIR of images with their masks, or --predictions DIR and --images DIR; give one of "
            "the two."
        )
    for folder in both:
        if not folder.is_dir():
            raise InputError(f"folder {str(folder)!r} does not exist; check the path.")
    return _pair_trees(*both, which.pattern) if which.recursive else _pair_folders(*both)


def _pair_trees(predictions: Path, images: Path, pattern: str | None) -> list[_Pair]:
    """Each image that matches the pattern with the mask that is called after it in the other tree."""
    from ..formats.channels import NUMBER
    from .channels import numbered_names
    from .inputs import Source
    from .tree import masks_in, names_of_derivative, pairing_key, walk

    tree = walk(images, pattern, predictions)
    sources: dict[PurePosixPath, list[Source]] = {}
    of_case: dict[PurePosixPath, list[Path]] = {}  # without the numbers of channels
    for path in [*(file.path for file in tree.volumes), *tree.dicom_folders]:
        relative = PurePosixPath(path.relative_to(images).as_posix())
        sources.setdefault(key := pairing_key(relative), []).append(Source(path, relative))
        of_case.setdefault(key.with_name(NUMBER.sub("", key.name)), []).append(path)
    names = numbered_names(images)
    pairs: dict[PurePosixPath, _Pair] = {}
    lonely = []
    for relative in masks_in(predictions, images):
        key, mask = pairing_key(relative), predictions / relative
        found = sources.get(key, [])
        if len(found) > 1:
            raise InputError(
                f"{str(mask)!r} may be of {str(found[0].path)!r} or of {str(found[1].path)!r}; take only one of them "
                "with --pattern."
            )
        if key in pairs:
            raise InputError(f"{str(pairs[key].mask)!r} and {str(mask)!r} are masks of one image; keep one of them.")
        if found or key in of_case:
            files = [found[0].path] if found else of_case[key]
            case = found[0].case if found else str(key)
            pairs[key] = _Pair(case, _channels(files, names), mask, names_of_derivative(relative, predictions))
        else:
            lonely.append(str(relative))
    if not pairs:
        raise InputError(f"no mask in the tree {str(predictions)!r} has the name of an image in {str(images)!r}.")
    _tell_lonely(lonely)
    return sorted(pairs.values(), key=lambda pair: pair.case)


def _pair_folders(predictions: Path, images: Path) -> list[_Pair]:
    """By name, else DICOM by UIDs; masks of an image that is not there are told in a warning."""
    from ..formats.channels import NUMBER
    from ..formats.volumes import VolumeFile, volumes_by_name
    from .channels import numbered_names

    masks = volumes_by_name(predictions)
    files = {name: path for name, path in volumes_by_name(images).items() if not VolumeFile(path).is_segmentation}
    found = {name: [path] for name, path in files.items()}
    for name, path in files.items():
        if (case := NUMBER.sub("", name)) not in files:
            found.setdefault(case, []).append(path)
    if not masks.keys() & found.keys():
        if of_series := _pair_series(predictions, images):
            return of_series
        raise InputError(
            f"no file in {str(predictions)!r} has the name of one in {str(images)!r}; names must agree except for the "
            "ending."
        )
    _tell_lonely(sorted(masks.keys() - found.keys()))
    names = numbered_names(images)
    return [_Pair(name, _channels(found[name], names), masks[name]) for name in sorted(masks.keys() & found.keys())]


def _channels(files: Sequence[Path], names: Mapping[int, str]) -> tuple[ChannelFile, ...]:
    """The files of a case: one, or channels by the numbers in their names; or the last axis of the one."""
    from ..formats.channels import NUMBER, ChannelFile
    from ..formats.volumes import VolumeFile, volume_name

    if len(files) == 1:
        header = VolumeFile(files[0]).header if len(names) > 1 and files[0].is_file() else None
        if header is None or header.frames == 1:
            return (ChannelFile("", files[0]),)
        return tuple(ChannelFile(names.get(n, f"{n:04d}"), files[0], n) for n in range(header.frames))
    numbers = {path: NUMBER.search(volume_name(path)) for path in files}
    return tuple(
        ChannelFile(names.get(int(match[1]), match[1]), path) for path, match in numbers.items() if match is not None
    )


def _pair_series(predictions: Path, images: Path) -> list[_Pair]:
    """Each DICOM segmentation with the series that it names, by UIDs, in the folders and all below them."""
    from ..formats.channels import ChannelFile
    from ..formats.dicom_tree import find_in_tree  # pydicom is loaded where there is DICOM

    masks, series = find_in_tree(predictions).by_series, find_in_tree(images).series
    _tell_lonely([str(path) for uid, path in masks.items() if uid not in series])
    pairs = [
        _Pair(
            path.relative_to(predictions).with_suffix("").as_posix(),
            (ChannelFile("", series[uid], series_uid=uid),),
            path,
        )
        for uid, path in masks.items()
        if uid in series
    ]
    return sorted(pairs, key=lambda pair: pair.case)


def _tell_lonely(masks: Sequence[str]) -> None:
    if masks:
        logger.warning("%d masks have no image and are left out: %s.", len(masks), ", ".join(masks[:5]))


def _folders(pairs: Iterable[_Pair]) -> Mapping[Path, None]:
    """Where a `dataset.json` may say what the values are called: beside the masks, or above them."""
    folders = [pair.mask.absolute().parent for pair in pairs]
    return dict.fromkeys([*folders, *(folder.parent for folder in folders)])
