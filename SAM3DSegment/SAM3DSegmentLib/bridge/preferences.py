"""Paths that are remembered on this computer, not in the scene, in Slicer's settings."""

from __future__ import annotations

from pathlib import Path

import qt

from ..sam.weights import CHECKPOINTS

SAM = "sam_vit_b"
_SAM_CHECKPOINT = "SAM3DSegment/SamCheckpoint"
_CASES_FOLDER = "SAM3DSegment/CasesFolder"


def samCheckpoint(encoder: str = SAM) -> str | None:
    """The file that the user chose as this encoder's weights; None for the one in the weights folder.

    The panel offers the choice for SAM ViT-B only; its file is of no use to another encoder.
    """
    return (qt.QSettings().value(_SAM_CHECKPOINT) or None) if encoder == SAM else None


def samWeights() -> Path:
    """Where SAM's weights are, or would be."""
    return Path(samCheckpoint() or CHECKPOINTS[SAM].path)


def setSamCheckpoint(path: str | None) -> None:
    if path:
        qt.QSettings().setValue(_SAM_CHECKPOINT, path)
    else:
        qt.QSettings().remove(_SAM_CHECKPOINT)


def casesFolder() -> Path | None:
    """The folder of training cases that the user chose last; None before."""
    path = qt.QSettings().value(_CASES_FOLDER)
    return Path(path) if path else None


def setCasesFolder(folder: Path) -> None:
    qt.QSettings().setValue(_CASES_FOLDER, str(folder))
