"""What a file is: the format that its name promises, the one that its first bytes show, and whether they agree."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ..base.errors import InputError
from .inflation import GZIP_MARK, PIECE, inflated_head

NIFTI, NRRD, METAIMAGE, DICOM, GZIP = "NIfTI", "NRRD", "MetaImage", "DICOM", "gzip"
FORMAT_OF_SUFFIX = {
    ".nii": NIFTI,
    ".nii.gz": NIFTI,
    ".nrrd": NRRD,
    ".nhdr": NRRD,
    ".mha": METAIMAGE,
    ".mhd": METAIMAGE,
}
VOLUME_SUFFIXES = tuple(FORMAT_OF_SUFFIX)
SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # DICOM's: masks, label maps
STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"  # contours (RTSTRUCT)
_STAND_IN_BYTES = 512  # by which the following are known
# What stands in a file instead of its content: how it begins, what it is, and the remedy.
_STAND_INS = (
    (rb"\Z", "is empty; copy or export it again."),
    (rb"version https://git-lfs", "is a Git LFS pointer instead of the file; run git lfs pull."),
    (rb"/annex/objects/", "is a git-annex pointer instead of the file; run git annex get."),
    (rb"\s*(<\?xml[^>]*>\s*)?<(!doctype )?html", "is a web page instead of the file; download it again."),
)


class Head(NamedTuple):
    """How a file begins: some of its content, inflated if the file `is_deflated`."""

    content: bytes
    is_deflated: bool


def image_suffix(path: Path) -> str | None:
    """The ending by which `path` names an image format, or None."""
    lower = path.name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if lower.endswith(suffix)), None)


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM does, whatever its name: with the mark, or at once with its first tags."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return _format_of(head) == DICOM


def is_dicom_segmentation(path: Path) -> bool:
    """Whether the file is a DICOM segmentation or structure set, whatever its name."""
    if not is_dicom(path):
        return False
    from .dicom_tags import class_of  # pydicom is loaded where there is DICOM

    return class_of(path) in (*SEGMENTATION_CLASSES, STRUCTURE_SET_CLASS)


def is_structure_set(path: Path) -> bool:
    """Whether a DICOM file is one, whose structures are contours."""
    from .dicom_tags import class_of

    return class_of(path) == STRUCTURE_SET_CLASS


def is_dangling(path: Path) -> bool:
    """Whether it is a link whose target is missing."""
    return os.path.islink(path) and not os.path.exists(path)


def visible_files(folder: Path) -> list[Path]:
    """Files directly in `folder`, sorted by name, without hidden ones such as macOS's `._x.nii.gz`.

    Links whose targets are missing are among them, so that whoever reads them says so.
    """
    return sorted(
        path for path in folder.iterdir() if (path.is_file() or is_dangling(path)) and not path.name.startswith(".")
    )


def holds_dicom(folder: Path, besides: Collection[Path] = ()) -> bool:
    """Whether a DICOM file lies directly in the folder, `besides` others."""
    return any(is_dicom(path) for path in visible_files(folder) if path not in besides)


def missing_content(path: Path) -> str | None:
    """Why a file does not hold what its name promises, with the remedy; None if something else is in it."""
    return _read_head(path, _STAND_IN_BYTES)[1]


def check_exists(path: Path) -> None:
    """Raises InputError if there is nothing at `path`, or a link to nothing."""
    if is_dangling(path):
        raise InputError(f"{str(path)!r} {missing_content(path)}")
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{str(path)!r} does not exist; check the path.")


def checked_head(path: Path, suffix: str) -> Head:
    """How a file begins. Raises InputError if it is of another format than its `suffix` says, or cannot be read."""
    head, what = _read_head(path, PIECE)
    if what:
        raise InputError(f"{str(path)!r} {what}")
    expected = FORMAT_OF_SUFFIX[suffix]
    content = _format_of(head)
    compressed = content == GZIP
    if compressed:
        head = inflated_head(head)
        content = _format_of(head)
    if content == expected and (not compressed or suffix == ".nii.gz"):
        return Head(head, compressed)
    if content is None:
        raise InputError(f"{str(path)!r} is not a {expected} file, or it is damaged; check that the image is complete.")
    kind = f"gzip-compressed {content}" if compressed else content
    if compressed and content != NIFTI:
        raise InputError(f"{str(path)!r} contains {kind} data; unpack it with gunzip.")
    ending = {NIFTI: ".nii.gz" if compressed else ".nii", NRRD: ".nrrd", METAIMAGE: ".mha", DICOM: ".dcm"}[content]
    raise InputError(
        f"{str(path)!r} contains {kind} data, but its name ends in {suffix}; rename it to end in {ending}."
    )


def _read_head(path: Path, count: int) -> tuple[bytes, str | None]:
    """The first `count` bytes of a file, and why they are not what its name promises, as `missing_content`."""
    if is_dangling(path):
        return b"", f"is a link to {os.readlink(path)!r}, which does not exist; fetch that file, or copy it here."
    try:
        with open(path, "rb") as file:
            head = file.read(count)
    except OSError as error:
        return b"", f"cannot be read ({error.strerror or error}); check the file."
    start = head[:_STAND_IN_BYTES]
    return head, next((what for begin, what in _STAND_INS if re.match(begin, start, re.IGNORECASE)), None)


def _format_of(head: bytes) -> str | None:
    """The format to which a file's first bytes belong."""
    if head[128:132] == b"DICM":
        return DICOM
    if head.startswith(GZIP_MARK):
        return GZIP
    if head[:4] == b"NRRD":
        return NRRD
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return NIFTI
    if re.match(rb"\s*(ObjectType|NDims|Comment)\s*=", head):
        return METAIMAGE
    # A data set of DICOM without preamble and mark, as old archives keep it: its first tag is of group 8, in implicit
    # or explicit VR, and short. GDCM reads such files, too.
    if re.match(rb"\x08\0[\0-\x20]\0([A-Z]{2}|.[\0\x01]\0\0)", head, re.DOTALL):
        return DICOM
    return None
