"""Paths, and a computer, that are remembered on this computer, not in the scene, in Slicer's settings."""

from __future__ import annotations

from pathlib import Path

import qt

from ..sam.encoders import ENCODERS

SAM = "sam_vit_b"
_SAM_CHECKPOINT = "SAM3DSegment/SamCheckpoint"  # the others' names follow it
_CASES_FOLDER = "SAM3DSegment/CasesFolder"
_NEXT_FOLDER = "SAM3DSegment/NextFolder"
_IMAGES_FOLDER, _RESULTS_FOLDER = "SAM3DSegment/ImagesFolder", "SAM3DSegment/ResultsFolder"
_REMOTE = "SAM3DSegment/ComputeOn"


def samCheckpoint(encoder: str = SAM) -> str | None:
    """The file that the user chose as this encoder's weights; None for the one in the weights folder.

    None too for what has no weights of its own to choose, such as a model that lends its encoder.
    """
    return (qt.QSettings().value(_key(encoder)) or None) if encoder in ENCODERS else None


def samWeights(encoder: str = SAM) -> Path:
    """Where this encoder's weights are, or would be."""
    return Path(samCheckpoint(encoder) or ENCODERS[encoder].path)


def setSamCheckpoint(path: str | None, encoder: str = SAM) -> None:
    if path:
        qt.QSettings().setValue(_key(encoder), path)
    else:
        qt.QSettings().remove(_key(encoder))


def _key(encoder: str) -> str:
    return _SAM_CHECKPOINT if encoder == SAM else f"{_SAM_CHECKPOINT}-{encoder}"


def remote() -> str:
    """The computer to compute on, as `ssh` takes it; empty for this one."""
    return qt.QSettings().value(_REMOTE) or ""


def setRemote(host: str) -> None:
    if host:
        qt.QSettings().setValue(_REMOTE, host)
    else:
        qt.QSettings().remove(_REMOTE)


def remoteOption(host: str) -> list[str]:
    """Of the command line."""
    return ["--remote", host] if host else []


def casesFolder() -> Path | None:
    """The folder of training cases that the user chose last; None before."""
    return _folder(_CASES_FOLDER)


def setCasesFolder(folder: Path) -> None:
    qt.QSettings().setValue(_CASES_FOLDER, str(folder))


def nextFolder() -> Path | None:
    """The folder of volumes to be drawn that the user chose last; None before."""
    return _folder(_NEXT_FOLDER)


def setNextFolder(folder: Path) -> None:
    qt.QSettings().setValue(_NEXT_FOLDER, str(folder))


def imagesFolder() -> Path | None:
    """The folder of volumes that the user chose last; None before."""
    return _folder(_IMAGES_FOLDER)


def setImagesFolder(folder: Path) -> None:
    qt.QSettings().setValue(_IMAGES_FOLDER, str(folder))


def resultsFolder() -> Path | None:
    """The folder for their segmentations that the user chose last; None before."""
    return _folder(_RESULTS_FOLDER)


def setResultsFolder(folder: Path) -> None:
    qt.QSettings().setValue(_RESULTS_FOLDER, str(folder))


def _folder(key: str) -> Path | None:
    path = qt.QSettings().value(key)
    return Path(path) if path else None
