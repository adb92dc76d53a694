"""Volumes of a whole tree of folders, and the names of their masks; in a BIDS dataset, BIDS derivatives."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .. import __version__
from ..base.files import last_line, write_json, write_text
from ..card import ModelCard
from ..formats.content import image_suffix, is_dicom, is_dicom_segmentation, visible_files
from ..formats.volumes import SEGMENTATION_SUFFIX, VolumeFile, volume_name

_NOT_RAW = ("derivatives", "sourcedata", "code")  # of a BIDS dataset
_BIDS_NAME = re.compile(r"(sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_([A-Za-z0-9]+)")  # entities, suffix
_BIDS_MASKS = ("dseg", "mask", "probseg")  # suffixes of what is no image
RESULTS = "the folder of the results"
A_SEGMENTATION = "a segmentation"
DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.9.0"
MASK_SUFFIX = ".nii.gz"  # of a BIDS derivative
_NAMES_ENDING = "_dseg.tsv"  # of the file that says what the values mean


@dataclass
class Tree:
    """What was found below a folder: volume files, DICOM folders, and why anything else was not taken."""

    volumes: list[VolumeFile] = field(default_factory=list)
    dicom_folders: list[Path] = field(default_factory=list)
    left_out: dict[PurePosixPath, str] = field(default_factory=dict)


def walk(root: Path, pattern: str | None, results: Path) -> Tree:
    """Everything below `root` but what is hidden, in an order that depends on the names alone.

    pattern: see `matches`. results: a folder that is not read, because the masks go there. Links to folders are
    followed when everything else was seen; no folder is read twice, so a link that leads back ends there.
    """
    tree, seen, links = Tree(), {os.path.realpath(results)} - {os.path.realpath(root)}, [root]
    own = next(iter(seen), None)
    has_subjects = any(entry.name.startswith("sub-") and entry.is_dir() for entry in root.iterdir())
    while links:
        folders = [links.pop(0)]
        while folders:
            folder = folders.pop()
            relative = PurePosixPath(folder.relative_to(root).as_posix())
            real = os.path.realpath(folder)
            if real in seen:
                tree.left_out[relative] = RESULTS if real == own else "a folder that was read already"
                continue
            if has_subjects and str(relative) in _NOT_RAW:
                tree.left_out[relative] = "no raw data in BIDS"
                continue
            seen.add(real)
            try:
                _look(folder, root, pattern, tree)
                inner = sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
            except OSError as error:
                tree.left_out[relative] = f"cannot be read ({last_line(error)})"
                continue
            links += [entry for entry in inner if entry.is_symlink()]
            folders += [entry for entry in reversed(inner) if not entry.is_symlink()]
    return tree


def matches(relative: PurePosixPath, pattern: str | None) -> bool:
    """Whether the last parts of a path match the parts of the pattern: `*_T1w.nii.gz`, `anat/*_T1w.nii.gz`."""
    return pattern is None or relative.match(pattern)


def _look(folder: Path, root: Path, pattern: str | None, tree: Tree) -> None:
    """At the files directly in a folder."""
    files = visible_files(folder)
    images = {path: VolumeFile(path) for path in files if image_suffix(path) is not None}
    dicom = {path for path in files if path not in images and is_dicom(path)}
    slices = {path for path in dicom if not is_dicom_segmentation(path)}
    for path in files:
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if path in images:
            if why := _why_not(relative, images[path], pattern):
                tree.left_out[relative] = why
            else:
                tree.volumes.append(images[path])
        elif path not in slices:
            tree.left_out[relative] = A_SEGMENTATION if path in dicom else "no volume file"
        elif images:
            tree.left_out[relative] = "DICOM beside volume files"
    if slices and not images:
        relative = PurePosixPath(folder.relative_to(root).as_posix())
        if folder == root:
            tree.left_out[relative] = "a DICOM series in the folder itself: give it without --recursive"
        elif matches(relative, pattern):
            tree.dicom_folders.append(folder)
        else:
            tree.left_out[relative] = f"does not match {pattern!r}"


def _why_not(relative: PurePosixPath, file: VolumeFile, pattern: str | None) -> str:
    if not matches(relative, pattern):
        return f"does not match {pattern!r}"
    name = _bids_name(relative)
    if (name and name[1] in _BIDS_MASKS) or file.is_segmentation:
        return A_SEGMENTATION
    return ""


def grouped(left_out: dict[PurePosixPath, str]) -> Iterator[str]:
    """One line for each reason, with some of the names."""
    for why in dict.fromkeys(left_out.values()):
        names = [str(path) for path, other in left_out.items() if other == why]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"{why}: {', '.join(names[:5])}{more}"


def _bids_name(relative: PurePosixPath) -> tuple[str, str] | None:
    """Entities and suffix of a file that lies and is called as in a BIDS dataset."""
    match = _BIDS_NAME.fullmatch(volume_name(Path(relative.name)))
    return (match[1], match[2]) if match and relative.parts[0] == match[1].split("_")[0] != relative.name else None


def is_bids(relative: PurePosixPath) -> bool:
    return _bids_name(relative) is not None


def mask_path(relative: PurePosixPath, model: str, ending: str = SEGMENTATION_SUFFIX) -> PurePosixPath:
    """Of the mask, in the folder of the results: NAME and ending; in BIDS the entities, desc-MODEL and _dseg.nii.gz."""
    name = _bids_name(relative)
    if name is None:
        return relative.with_name(volume_name(Path(relative.name)) + ending)
    entities, former = name[0], ""
    if match := re.search(r"_desc-([A-Za-z0-9]+)", entities):  # it stands last
        entities, former = entities.replace(match[0], ""), match[1]
    return relative.with_name(f"{entities}_desc-{former}{_label(model)}_dseg{MASK_SUFFIX}")


def pairing_key(relative: PurePosixPath) -> PurePosixPath:
    """The same for an image and for what `mask_path` calls its mask, whatever model and ending.

    In BIDS also for images that differ in the suffix or the entity desc.
    """
    name = _bids_name(relative)
    if name is None:
        return relative.with_name(volume_name(Path(relative.name)))
    return relative.with_name(re.sub(r"_desc-[A-Za-z0-9]+", "", name[0]))


def masks_in(root: Path, images: Path) -> list[PurePosixPath]:
    """Segmentations in a tree, relative to it; where no `images` lie among them, plain label maps too."""
    tree = walk(root, None, root)
    found = [path for path, why in tree.left_out.items() if why == A_SEGMENTATION]
    if not root.samefile(images):
        found += [PurePosixPath(file.path.relative_to(root).as_posix()) for file in tree.volumes]
    return sorted(found)


def describe_derivatives(folder: Path, card: ModelCard, sha256: str) -> None:
    """Write what BIDS wants of a folder of derivatives, unless it is there: who made it, and what the values mean."""
    generated = {"Name": "SAM3DSegment", "Version": __version__, "Description": f"model {card.name}, SHA-256 {sha256}"}
    description = {
        "Name": f"Segmentations by the model {card.name}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generated],
    }
    if not (folder / DESCRIPTION).exists():
        write_json(folder / DESCRIPTION, description)
    names = folder / f"desc-{_label(card.name)}{_NAMES_ENDING}"
    if not names.exists():
        rows = [(str(label.value), label.name, "#{:02x}{:02x}{:02x}".format(*label.color)) for label in card.labels]
        write_text(names, "\n".join("\t".join(row) for row in [("index", "name", "color"), *rows]) + "\n")


def names_of_derivative(relative: PurePosixPath, root: Path) -> dict[int, tuple[str, tuple[int, int, int]]]:
    """Names and colours of the values of a mask, where `describe_derivatives` has written them; else empty."""
    match = re.search(r"_desc-([A-Za-z0-9]+)", relative.name)
    if _bids_name(relative) is None or match is None:
        return {}
    # Of an image that has a desc of its own, the mask's desc begins with that.
    for path in sorted(root.glob(f"desc-*{_NAMES_ENDING}"), key=lambda path: -len(path.name)):
        if match[1].endswith(path.name.removeprefix("desc-").removesuffix(_NAMES_ENDING)):
            return _read_names(path)
    return {}


def _read_names(path: Path) -> dict[int, tuple[str, tuple[int, int, int]]]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        red_green_blue = [bytes.fromhex(row["color"].removeprefix("#")) for row in rows]
        return {int(row["index"]): (row["name"], (c[0], c[1], c[2])) for row, c in zip(rows, red_green_blue)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error):
        return {}  # somebody else's, which need not have colours


def _label(model: str) -> str:
    """BIDS allows letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", model) or "sam3d"
