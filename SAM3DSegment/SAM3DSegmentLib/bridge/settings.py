"""What is remembered on this computer, not in the scene: Slicer's own settings."""

from __future__ import annotations

import qt

_SAM_CHECKPOINT = "SAM3DSegment/SamCheckpoint"


def samCheckpoint() -> str | None:
    """The file that the user chose as SAM's weights; None for the one in the weights folder."""
    return qt.QSettings().value(_SAM_CHECKPOINT) or None


def setSamCheckpoint(path: str | None) -> None:
    if path:
        qt.QSettings().setValue(_SAM_CHECKPOINT, path)
    else:
        qt.QSettings().remove(_SAM_CHECKPOINT)
