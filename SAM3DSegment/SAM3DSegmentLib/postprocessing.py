"""What is done to a label map after the decoder."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


def remove_islands(labels: np.ndarray, share: float) -> np.ndarray:
    """A 3-D label map (uint8) without the islands of each label.

    Pieces are connected foreground of any label, by faces, edges or corners. A label loses its voxels in a piece where
    they are fewer than `share` (0..1) of what it has in the piece that holds most of it. Each label is compared with
    itself only, so a small structure is safe beside a large one, and paired structures of similar size both stay.
    """
    foreground = labels > 0
    image = sitk.GetImageFromArray(foreground.astype(np.uint8))
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))[foreground]
    values = labels[foreground]
    counts = np.zeros((256, int(pieces.max(initial=0)) + 1), np.int64)
    np.add.at(counts, (values, pieces), 1)
    island = counts < share * counts.max(axis=1, keepdims=True)
    cleaned = labels.copy()
    cleaned[foreground] = np.where(island[values, pieces], 0, values)
    return cleaned
