"""A case's voxels: its image, and the classes that its label map gives them."""

from __future__ import annotations

import numpy as np

from ..card import Label
from ..formats.channels import read_channels
from ..formats.label_maps import read_label_map
from ..formats.volumes import Volume
from .case_files import CaseFiles
from .classes import COMPLETE, LabelRules, classes_on


def read_case(case: CaseFiles, labels: tuple[Label, ...], rules: LabelRules = COMPLETE) -> tuple[Volume, np.ndarray]:
    """The image, and class indices (K, J, I) uint8 on its grid. Raises InputError where they do not fit."""
    image = read_channels(case.channels, rules.resample, case.frame)
    label_map = read_label_map(case.label_map, case.frame, lambda: image.grid)
    return image, classes_on(image, label_map, labels, rules)[0]
