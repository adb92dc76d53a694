"""What a file is: the format that its name promises, the one that its first bytes show, and whether they agree."""

from __future__ import annotations

import re
from pathlib import Path

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


def image_suffix(path: Path) -> str | None:
    """The ending by which `path` names an image format, or None."""
    lower = path.name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if lower.endswith(suffix)), None)


def is_dicom(path: Path) -> bool:
    """Whether the file has the mark of DICOM, whatever its name."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return _format_of(head) == DICOM


def visible_files(folder: Path) -> list[Path]:
    """Files directly in `folder`, sorted by name, without hidden ones such as macOS's `._x.nii.gz`."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def holds_dicom(folder: Path) -> bool:
    """Whether a DICOM file lies directly in the folder."""
    return any(is_dicom(path) for path in visible_files(folder))


def check_content(path: Path, suffix: str) -> None:
    """Raises InputError if a file is of another format than its `suffix` says, OSError if it cannot be read."""
    expected = FORMAT_OF_SUFFIX[suffix]
    with open(path, "rb") as file:
        head = file.read(PIECE)
    if not head:
        raise InputError(f"{str(path)!r} is empty; copy or export it again.")
    content = _format_of(head)
    compressed = content == GZIP
    if compressed:
        content = _format_of(inflated_head(path))
    if content == expected and (not compressed or suffix == ".nii.gz"):
        return
    if content is None:
        raise InputError(f"{str(path)!r} is not a {expected} file, or it is damaged; check that the image is complete.")
    kind = f"gzip-compressed {content}" if compressed else content
    if compressed and content != NIFTI:
        raise InputError(f"{str(path)!r} contains {kind} data; unpack it with gunzip.")
    ending = {NIFTI: ".nii.gz" if compressed else ".nii", NRRD: ".nrrd", METAIMAGE: ".mha", DICOM: ".dcm"}[content]
    raise InputError(
        f"{str(path)!r} contains {kind} data, but its name ends in {suffix}; rename it to end in {ending}."
    )


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
    return None
