"""An image and a segmentation of which some slices were painted, from files to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..base.watch import UNWATCHED, Watch
from ..formats.label_maps import check_dicom_output, check_label_output, write_delivered
from ..formats.volumes import check_axes
from ..model_file import load_model
from ..model_store import find_model
from ..suitability import VolumeFacts, find_and_warn
from .completion import COMPLETION, Completion, Matched, complete_classes
from .painted_volume import labels_with_codes, match_model, read_painted


def complete_file(
    image: Path,
    segmentation: Path,
    output: Path,
    model: str | None = None,
    completion: Completion = COMPLETION,
    overwrite: bool = False,
    watch: Watch = UNWATCHED,
) -> str:
    """Fill the volume `image`, of which slices are painted in `segmentation`, into a label map or `.seg.nrrd`.

    model: the name or file of one that finds the structures. A segmentation that was delivered before is corrected by
    the slices that were repainted since. Returns what was there, such as "5 of 35 sagittal slices are painted". Raises
    an error of `base.errors`; the file appears whole or not at all.
    """
    read = [image, segmentation, *(path for path in (model and find_model(model), completion.sam_checkpoint) if path)]
    check_label_output(output, overwrite, [Path(path) for path in read])
    check_dicom_output(output, is_series=False)
    painted = read_painted(image, segmentation, completion.extend)
    volume, labels = painted.image, painted.labels
    check_axes(output, volume.ijk_to_ras)
    matched = None
    if model is not None:
        loaded = load_model(model)
        matched = Matched(loaded, match_model(loaded.card, painted.keys, painted.by_name))
        labels = labels_with_codes(painted, loaded.card)
        facts = VolumeFacts.of_array(volume.array_kji, volume.ijk_to_ras, volume.modality)
        find_and_warn(loaded.card, [facts], repr(str(image)))
    classes = complete_classes(
        *(volume.array_kji, volume.ijk_to_ras, painted.known_kji, painted.painted),
        *(matched, completion, watch, painted.delivered),
    )
    values = np.array([0, *(label.value for label in labels)], np.uint8)
    watch.check()
    if painted.added_kji is not None:
        classes = np.where(painted.added_kji > 0, painted.added_kji, classes)
    added = tuple(labels[index - 1] for index in painted.added)
    write_delivered(output, values[classes], volume, labels, painted.drawn, added)
    return painted.described
