"""What is segmented, and where the results go: inputs and outputs as the user gives them, checked before the work."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from ..formats.header import ImageHeader
from ..formats.images import read_header
from ..formats.label_maps import check_dicom_output, check_label_output, was_written_here
from ..formats.volumes import (
    IMAGE_OUTPUT_SUFFIXES,
    OUTPUT_SUFFIXES,
    SEGMENTATION_SUFFIX,
    Volume,
    VolumeFile,
    list_volume_files,
    read_volume,
    volume_name,
)
from .report import read_report

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A volume to be segmented: a file, with its header if that can be used, or a DICOM folder.

    seen: the file's size and time of change when the header was read.
    """

    path: Path
    header: ImageHeader | None = None
    seen: tuple[int, int] = (0, 0)

    @classmethod
    def of_file(cls, file: VolumeFile) -> Source:
        return cls(file.path, file.header, _state(file.path))

    @property
    def name(self) -> str:
        """Without the file's ending."""
        return volume_name(self.path)

    def read(self, series_uid: str | None) -> Volume:
        """As `read_volume`. In a long run over a folder the file may have been replaced since its header was read."""
        is_as_seen = self.header is not None and _state(self.path) == self.seen
        return read_volume(self.path, series_uid, self.header if is_as_seen else None)


@dataclass(frozen=True)
class Outputs:
    """Where results go: the mask of one volume, or the folder for those of many; what else is written about it.

    ending: of the names of many masks, which says their format; "" for that of a Slicer segmentation.
    """

    masks: Path
    confidence: Path | None = None
    report: Path | None = None
    overwrite: bool = False
    ending: str = ""


@dataclass(frozen=True)
class Target:
    """A volume with the file of its mask. is_done: the mask is there already; problem: why it cannot be made."""

    source: Source
    path: Path
    is_done: bool = False
    problem: str = ""

    def check(self) -> None:
        """Raises InputError if the mask cannot be made; asked when its folder is there, and before the work."""
        if self.problem:
            raise InputError(self.problem)
        check_dicom_output(self.path, self.source.path.is_dir())
        try:
            self.path.lstat()
        except FileNotFoundError:
            pass
        except OSError as error:  # a name that is too long
            raise InputError(f"output {str(self.path)!r} cannot be written ({last_line(error)}); rename it.") from error


@dataclass(frozen=True)
class Targets:
    """What is to be made of each volume; whether `Outputs.masks` is a folder."""

    each: tuple[Target, ...]
    is_folder: bool


def find_targets(
    inputs: Sequence[Path], outputs: Outputs, series_uid: str | None = None, also_read: Iterable[Path] = ()
) -> Targets:
    """Look at each input once, and check all that is to be written.

    One volume (a file or a DICOM folder) goes to the file `outputs.masks`; a folder of volumes, or several inputs, go
    to the folder `outputs.masks` as NAME.seg.nrrd, or with another `outputs.ending`. also_read: other files that are
    read, such as the model; no output may replace them. Raises InputError where two inputs would have one output, or an
    input is not an image.
    """
    found = [_sources_of(path) for path in inputs]
    sources = [source for of_input in found for source in of_input]
    is_folder = len(inputs) > 1 or [source.path for source in sources] != list(inputs)
    targets = _into_folder(sources, outputs, inputs) if is_folder else [Target(sources[0], outputs.masks)]
    if series_uid is not None and (is_folder or not inputs[0].is_dir()):
        raise InputError(f"--series {series_uid!r} is for one DICOM folder; leave it out for anything else.")
    if outputs.ending and not is_folder:
        raise InputError(
            f"--format {outputs.ending[1:]!r} is for a folder of results; leave it out, the name of one says it."
        )
    check_dicom_output(targets[0].path, is_folder or sources[0].path.is_dir())
    read = [*also_read, *(file for path, of_input in zip(inputs, found) for file in _files_of(path, of_input[0]))]
    _check_outputs(outputs, [target.path for target in targets] if is_folder else [], is_folder, read)
    return Targets(tuple(targets), is_folder)


def _sources_of(path: Path) -> list[Source]:
    """The volumes that an input stands for, at least one: those of a folder without its segmentations, else itself."""
    if not path.is_dir():
        check_exists(path)
        file = VolumeFile(path)
        if file.is_segmentation:
            raise InputError(f"{str(path)!r} is a segmentation; give the image that it was drawn on.")
        return [Source.of_file(file)]
    files = list_volume_files(path)
    segmentations = [file.path for file in files if file.is_segmentation]
    volumes = [Source.of_file(file) for file in files if not file.is_segmentation]
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
    if is_dicom:
        return [Source(path)]
    if segmentations:
        raise InputError(f"folder {str(path)!r} holds segmentations only; give the folder of the images.")
    from ..formats.dicom import nothing_found  # it loads pydicom

    raise nothing_found(path)


def _into_folder(sources: list[Source], outputs: Outputs, inputs: Sequence[Path]) -> list[Target]:
    """Each source with the file of its mask. Raises InputError unless it can be a folder, and no two files are one."""
    folder = outputs.masks
    if folder.name.lower().endswith(OUTPUT_SUFFIXES) and not folder.is_dir():
        raise InputError(
            f"output {str(folder)!r} is the name of one file, but there are {len(sources)} volumes; give the name of "
            "a folder, or one volume."
        )
    is_input = any(path.is_dir() and folder.is_dir() and path.samefile(folder) for path in inputs)
    targets = [
        _target_in(folder / (source.name + (outputs.ending or SEGMENTATION_SUFFIX)), source, is_input)
        for source in sources
    ]
    by_path: dict[str, Path] = {}
    for target in targets:
        source = target.source.path
        other = by_path.setdefault(str(target.path).casefold(), source)  # some file systems ignore case
        if other != source:
            raise InputError(f"{str(other)!r} and {str(source)!r} would both become {str(target.path)!r}; rename one.")
    return targets


def _target_in(path: Path, source: Source, is_input: bool) -> Target:
    """is_input: whether volumes are read from the folder of `path`, so that what is there may be the user's own."""
    if not os.path.exists(path):  # which takes a name that is too long
        return Target(source, path)
    if is_input and not was_written_here(path):
        problem = (
            f"output {str(path)!r} is a segmentation beside its image that was not made by this program, and would be "
            "lost; give another folder for the results."
        )
        return Target(source, path, problem=problem)
    return Target(source, path, is_done=True)


def _files_of(path: Path, source: Source) -> list[Path]:
    """The files that are read for an input: no DICOM segmentation beside its slices."""
    if path.is_dir():
        return [file for file in path.iterdir() if not is_dicom_segmentation(file)]
    return [path, (source.header or read_header(path)).data]


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change; (0, 0) for a file that has gone, which is told when it is read."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def _check_outputs(outputs: Outputs, targets: list[Path], is_folder: bool, read: list[Path]) -> None:
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
        check_new_file(outputs.confidence, outputs.overwrite, read)
    if outputs.report is not None:
        # A second run over a folder goes on with the report of the first.
        goes_on = is_folder and read_report(outputs.report) is not None
        check_new_file(outputs.report, outputs.overwrite or goes_on, read)
    given = [path.absolute() for path in (outputs.masks, *targets, outputs.confidence, outputs.report) if path]
    if twice := [path for path in given if given.count(path) > 1]:
        raise InputError(f"two outputs would both be written to {str(twice[0])!r}; give each its own name.")
