"""Cases of a tree of DICOM files, told by UIDs, wherever in it they lie."""

from __future__ import annotations

from pathlib import Path

from ..formats.dicom_tree import DicomTree
from .case_files import CaseFiles
from .pairing import Pairs


def pair_series(folder: Path, tree: DicomTree) -> Pairs:
    """Each DICOM segmentation or structure set below `folder`, of which `tree` is, with its series."""
    pairs = {uid: path for uid, path in tree.by_series.items() if uid in tree.series}
    lonely = [str(path.relative_to(folder)) for path, uid in tree.segmentations.items() if uid not in tree.series]
    notices = [f"DICOM segmentations whose series are not here, left out: {', '.join(lonely)}."] if lonely else []
    if alone := len(tree.series) - len(pairs):
        notices.append(f"{alone} DICOM series without a segmentation, left out.")
    names = _names_in_tree(folder, [(tree.series[uid], path) for uid, path in pairs.items()])
    cases = [CaseFiles(name, tree.series[uid], path, uid) for name, (uid, path) in zip(names, pairs.items())]
    return tuple(sorted(cases, key=lambda case: case.name)), tuple(notices)


def _names_in_tree(folder: Path, cases: list[tuple[Path, Path]]) -> list[str]:
    """A name for each case (the folder of its series, its segmentation): the shortest part of a path that differs."""
    images = [image.relative_to(folder).parts or (image.name,) for image, _ in cases]
    label_maps = [path.relative_to(folder).with_suffix("").parts for _, path in cases]
    kinds = ([parts[0] for parts in images], ["_".join(parts) for parts in images])
    return next((names for names in kinds if len(set(names)) == len(cases)), ["_".join(parts) for parts in label_maps])
