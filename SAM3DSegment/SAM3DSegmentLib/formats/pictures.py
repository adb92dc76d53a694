"""Pictures for people, as the bytes of a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

PNG, JPEG = ".png", ".jpg"
_JPEG_QUALITY = 90  # of 100


def encode_picture(rgb: np.ndarray, ending: str) -> bytes:
    """(rows, columns, 3) uint8 as PNG or JPEG, which ITK writes to disk only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{ending}"
        image = sitk.GetImageFromArray(np.ascontiguousarray(rgb), isVector=True)
        sitk.WriteImage(image, str(path), compressionLevel=_JPEG_QUALITY if ending == JPEG else -1)
        return path.read_bytes()
