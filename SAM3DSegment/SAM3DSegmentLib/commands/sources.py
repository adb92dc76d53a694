"""What is segmented, and where the results go: inputs and outputs as the user gives them, checked before the work."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ..base.errors import InputError
from ..base.files import check_new_file, last_line
from ..formats.content import (
    check_exists,
    holds_dicom,
    image_suffix,
    is_dangling,
    is_dicom_segmentation,
    visible_files,
)
from ..formats.frames_writing import FRAMES_SUFFIXES, holds_frames
from ..formats.images import read_header
from ..formats.label_maps import check_dicom_output, check_label_output, was_written_here
from ..formats.volumes import (
    IMAGE_OUTPUT_SUFFIXES,
    OUTPUT_SUFFIXES,
    SEGMENTATION_SUFFIX,
    VolumeFile,
    list_volume_files,
)
from .frames import FrameChoice, in_one_file
from .inputs import Source
from .page import Page
from .parts import Which
from .report import PAGE_SUFFIX, read_report
from .studies import is_study
from .table import Table
from .tree import MASK_SUFFIX, grouped, is_bids, mask_path, walk

logger = logging.getLogger(__name__)

EVERY = Which()


Join = Callable[[list[Source]], list[Source]]


@dataclass(frozen=True)
class Outputs:
    """Where results go: the mask of one volume, or the folder for those of many; what else is written about it.

    ending: of the names of many masks, which says their format; "" for that of a Slicer segmentation.
    """

    masks: Path
    confidence: Path | None = None
    report: Path | None = None
    overwrite: bool = False
    table: Path | None = None
    ending: str = ""
    page: Path | None = None


@dataclass(frozen=True)
class Target:
    """A volume with the file of its mask.

    keeps: whether a mask that is there is kept, as among many volumes. beside_images: whether volumes are read from its
    folder too, so that a segmentation there may be the user's own. frames: of a mask that is 4-D, those of the source
    that it shows.
    """

    source: Source
    path: Path
    keeps: bool = False
    beside_images: bool = False
    frames: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The volumes that the mask shows: one, or the frames."""
        return tuple(replace(self.source, frame=number) for number in self.frames) or (self.source,)

    @property
    def is_done(self) -> bool:
        """Whether the mask is there now."""
        return self.keeps and os.path.exists(self.path) and not self._is_of_the_user  # takes a name that is too long

    @property
    def _is_of_the_user(self) -> bool:
        return self.beside_images and os.path.exists(self.path) and not was_written_here(self.path)

    def check(self) -> None:
        """Raises InputError if the mask cannot be made; asked when its folder is there, and before the work."""
        if self._is_of_the_user:
            raise InputError(
                f"output {str(self.path)!r} is a segmentation beside its image that was not made by this program, and "
                "would be lost; give another folder for the results."
            )
        check_dicom_output(self.path, self.source.path.is_dir())
        try:
            self.path.lstat()
        except FileNotFoundError:
            pass
        except OSError as error:  # a name that is too long
            raise InputError(f"output {str(self.path)!r} cannot be written ({last_line(error)}); rename it.") from error


@dataclass(frozen=True)
class Targets:
    """What is to be made of each volume; whether `Outputs.masks` is a folder; what was left out of a tree, and why."""

    each: tuple[Target, ...]
    is_folder: bool
    left_out: dict[PurePosixPath, str] = field(default_factory=dict)


def find_targets(
    inputs: Sequence[Path],
    outputs: Outputs,
    series_uid: str | None = None,
    also_read: Iterable[Path] = (),
    which: Which = EVERY,
    model: str = "",
    join: Join = list,
    frames: FrameChoice | None = None,
    studies: bool = False,
) -> Targets:
    """Look at each input once, and check all that is to be written.

    One volume (a file or a DICOM folder) goes to the file `outputs.masks`; a folder of volumes, or several inputs, go
    to the folder `outputs.masks` as NAME.seg.nrrd, with another `outputs.ending`, or as `tree.mask_path` says with the
    model's name; of those, the ones that `which` says. also_read: other files that are read, such as the model; no
    output may replace them. join: makes the volumes of an input of its files, which may be channels. frames: of one 4-D
    volume these; several go to one 4-D file, or to a folder as NAME_frame000.seg.nrrd. studies: whether a folder may be
    that of a DICOM study, with one for each series in it. Raises InputError where two inputs would have one output, or
    an input is not an image.
    """
    _check_frames(inputs, outputs, which, frames)
    if which.recursive and series_uid is None:
        return _targets_of_tree(inputs, outputs, also_read, which, model, join)
    part = which.part
    found = [join(_sources_of(path, studies)) for path in inputs]
    sources = [source for of_input in found for source in of_input]
    is_folder = len(inputs) > 1 or [source.path for source in sources] != list(inputs)
    numbers: tuple[int, ...] = ()
    if frames is not None:
        if any(channel.place is not None for source in sources for channel in source.channels):
            raise InputError(
                f"--frames {frames} are of time, but the model reads the last axis as channels; leave it out."
            )
        if is_folder:
            raise InputError(f"--frames {frames} is for one volume, but {str(inputs[0])!r} holds {len(sources)}.")
        chosen = frames.of(sources[0].path, sources[0].count_frames(series_uid))
        is_folder = len(chosen) > 1 and not in_one_file(outputs.masks, frames, len(chosen))
        if len(chosen) > 1 and not is_folder:
            numbers = tuple(chosen)
        else:
            sources = [replace(sources[0], frame=number) for number in chosen]
    if part.count > 1 and not is_folder:
        raise InputError(f"--part {part} is for a folder of volumes, and {str(inputs[0])!r} is one; leave it out.")
    targets = (
        _into_folder(sources, outputs, inputs) if is_folder else [Target(sources[0], outputs.masks, frames=numbers)]
    )
    if series_uid is not None and (len(found[0]) > 1 or len(inputs) > 1 or which.recursive or not inputs[0].is_dir()):
        raise InputError(f"--series {series_uid!r} is for one DICOM folder; leave it out for anything else.")
    if outputs.ending and not is_folder:
        raise InputError(
            f"--format {outputs.ending[1:]!r} is for a folder of results; leave it out, the name of one says it."
        )
    check_dicom_output(targets[0].path, any(source.path.is_dir() for source in sources))
    read = [*also_read, *(file for path, of_input in zip(inputs, found) for file in _files_of(path, of_input[0]))]
    read += (file for source in sources for file in source.files if file.is_file())
    _check_outputs(outputs, [target.path for target in targets] if is_folder else [], is_folder, read, bool(numbers))
    return Targets(tuple(target for target in targets if part.has(target.source.relative)), is_folder)


def _check_frames(inputs: Sequence[Path], outputs: Outputs, which: Which, frames: FrameChoice | None) -> None:
    if frames is None and outputs.report is not None and outputs.report.name.lower().endswith(PAGE_SUFFIX):
        raise InputError(f"--report {str(outputs.report)!r} is a page of volumes over time, for --frames; use .json.")
    if frames is not None and (len(inputs) > 1 or which != EVERY):
        raise InputError(f"--frames {frames} is for one volume; leave it out for several, or for a part of a folder.")


def _targets_of_tree(
    inputs: Sequence[Path], outputs: Outputs, also_read: Iterable[Path], which: Which, model: str, join: Join
) -> Targets:
    root, folder = inputs[0], outputs.masks
    if len(inputs) > 1 or not root.is_dir():
        raise InputError(f"--recursive is for one folder, not {' '.join(map(repr, map(str, inputs)))}; give its path.")
    tree = walk(root, which.pattern, folder)
    sources = [Source.of_file(file, root) for file in tree.volumes]
    sources += [Source(path, PurePosixPath(path.relative_to(root).as_posix())) for path in tree.dicom_folders]
    sources = join(sources)
    for line in grouped(tree.left_out):
        logger.info("left out of %s: %s.", root, line)
    if not sources:
        named = "" if which.pattern is None else f" that matches {which.pattern!r}"
        raise InputError(f"{str(root)!r} and the folders below hold no volume{named}; check --pattern and the path.")
    _check_is_folder(folder, len(sources))
    beside = folder.is_dir() and folder.samefile(root)
    if beside and any(is_bids(source.relative) for source in sources):
        raise InputError(
            f"output {str(folder)!r} is the BIDS dataset itself; give a folder of its own, such as "
            f"{str(folder / 'derivatives' / 'sam3dsegment')!r}."
        )
    if outputs.ending and any(is_bids(source.relative) for source in sources):
        raise InputError(
            f"--format {outputs.ending[1:]!r} is not for a BIDS dataset, of which masks end in {MASK_SUFFIX}; leave it "
            "out."
        )
    names = (mask_path(source.relative, model, outputs.ending or SEGMENTATION_SUFFIX) for source in sources)
    targets = [Target(source, folder / name, True, beside) for source, name in zip(sources, names)]
    check_dicom_output(targets[0].path, bool(tree.dicom_folders))
    _check_names(targets, "rename one, or take only one with --pattern.")
    _check_outputs(
        outputs, [target.path for target in targets], True, [*also_read, *(file for s in sources for file in s.files)]
    )
    mine = (target for target in targets if which.part.has(target.source.relative))
    return Targets(tuple(mine), True, tree.left_out)


def _sources_of(path: Path, studies: bool) -> list[Source]:
    """The volumes that an input stands for, at least one: those of a folder without its segmentations, else itself."""
    if not path.is_dir():
        check_exists(path)
        file = VolumeFile(path)
        if file.is_segmentation:
            raise InputError(f"{str(path)!r} is a segmentation; give the image that it was drawn on.")
        return [Source.of_file(file, path.parent)]
    files = list_volume_files(path)
    segmentations = [file.path for file in files if file.is_segmentation]
    volumes = [Source.of_file(file, path) for file in files if not file.is_segmentation]
    if segmentations:
        logger.info("left out of %s, because they are segmentations: %s.", path, _names(segmentations))
    is_dicom = holds_dicom(path, segmentations)
    if volumes and is_dicom:
        raise InputError(
            f"folder {str(path)!r} holds a DICOM series and volume files ({_names([v.path for v in volumes])}); give "
            "one of the files, or move the slices into a folder of their own."
        )
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    dangling = [entry for entry in visible_files(path) if is_dangling(entry) and image_suffix(entry) is None]
    if volumes and dangling:
        logger.warning("links of %s to what does not exist are left out: %s.", path, _names(dangling))
    if volumes and folders:
        logger.warning("subfolders of %s are not searched: %s.", path, _names(folders))
    if volumes:
        return volumes
    if is_dicom or (studies and is_study(path)):
        return [Source(path, PurePosixPath(path.absolute().name))]
    if segmentations:
        raise InputError(f"folder {str(path)!r} holds segmentations only; give the folder of the images.")
    from ..formats.dicom import nothing_found  # it loads pydicom

    raise nothing_found(path)


def _into_folder(sources: list[Source], outputs: Outputs, inputs: Sequence[Path]) -> list[Target]:
    """Each source with the file of its mask. Raises InputError unless it can be a folder, and no two files are one."""
    folder, ending = outputs.masks, outputs.ending or SEGMENTATION_SUFFIX
    _check_is_folder(folder, len(sources))
    is_input = any(path.is_dir() and folder.is_dir() and path.samefile(folder) for path in inputs)
    targets = [Target(s, folder / (s.name + ending), True, is_input) for s in sources]
    _check_names(targets, "rename one.")
    return targets


def _check_is_folder(path: Path, count: int) -> None:
    if path.name.lower().endswith(OUTPUT_SUFFIXES) and not path.is_dir():
        raise InputError(
            f"output {str(path)!r} is the name of one file, but there are {count} volumes; give the name of a folder, "
            "or one volume."
        )


def _check_names(targets: Sequence[Target], remedy: str) -> None:
    """Raises InputError if two masks would be one file."""
    by_path: dict[str, Path] = {}
    for target in targets:
        source = target.source.path
        other = by_path.setdefault(str(target.path).casefold(), source)  # some file systems ignore case
        if other != source:
            raise InputError(f"{str(other)!r} and {str(source)!r} would both become {str(target.path)!r}; {remedy}")


def _files_of(path: Path, source: Source) -> list[Path]:
    """The files that are read for an input: no DICOM segmentation beside its slices."""
    if path.is_dir():
        return [file for file in path.iterdir() if not is_dicom_segmentation(file)]
    return [path, (source.header or read_header(path)).data]


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _check_outputs(
    outputs: Outputs, targets: list[Path], is_folder: bool, read: list[Path], is_4d: bool = False
) -> None:
    """Raises InputError unless all outputs can be written, under different names, and none replaces what is `read`."""
    if is_folder:
        if outputs.masks.exists() and not outputs.masks.is_dir():
            raise InputError(f"output {str(outputs.masks)!r} is a file; for several volumes give a folder.")
        if outputs.confidence is not None:
            raise InputError(f"--confidence {str(outputs.confidence)!r} is one file; leave it out for several volumes.")
    else:
        check_label_output(outputs.masks, outputs.overwrite, read)
    if outputs.confidence is not None:
        name = outputs.confidence.name.lower()
        if not name.endswith(IMAGE_OUTPUT_SUFFIXES) or name.endswith(SEGMENTATION_SUFFIX):
            raise InputError(
                f"--confidence {str(outputs.confidence)!r} has no image ending; use {', '.join(IMAGE_OUTPUT_SUFFIXES)}."
            )
        if is_4d and not holds_frames(outputs.confidence):
            raise InputError(
                f"--confidence {str(outputs.confidence)!r} holds one volume; use {', '.join(FRAMES_SUFFIXES)}."
            )
        check_new_file(outputs.confidence, outputs.overwrite, read)
    if outputs.report is not None:
        # A second run over a folder goes on with the report of the first.
        goes_on = is_folder and read_report(outputs.report) is not None
        check_new_file(outputs.report, outputs.overwrite or goes_on, read)
    if outputs.table is not None:
        Table(outputs.table).check(outputs.overwrite, read)
    pictures = None
    if outputs.page is not None:
        page = Page(outputs.page)
        page.check(outputs.overwrite, read)
        pictures = page.folder
    files = (outputs.masks, *targets, outputs.confidence, outputs.report, outputs.table, outputs.page, pictures)
    given = [path.absolute() for path in files if path]
    if twice := [path for path in given if given.count(path) > 1]:
        raise InputError(f"two outputs would both be written to {str(twice[0])!r}; give each its own name.")
