"""Segmenting again and again in one session of the host, whose connections hold their targets as Slicer's do."""

from __future__ import annotations

import gc
import logging

import numpy as np
import psutil
import pytest
from panel_fixtures import JOB_CLASSES, add_volume, segment

import host

logger = logging.getLogger(__name__)

RUNS = 20
WARM_UP = 4  # runs after which the heap has the size that one run needs
VOLUME_MIB = 16


@pytest.mark.slow
def test_twenty_whole_runs_leave_no_object_and_no_memory_behind(widget, tiny_model):
    """Each holds its volume while it lasts: if all did for ever, that would be 256 MiB."""
    array = np.random.default_rng(0).normal(size=(VOLUME_MIB, 512, 512)).astype(np.float32)
    volume = add_volume(array, np.eye(4))
    resident = []
    for _ in range(RUNS):
        assert segment(widget, volume, tiny_model).IsA("vtkMRMLSegmentationNode")
        gc.collect()
        resident.append(psutil.Process().memory_info().rss / 2**20)
    logger.info("MiB resident after each run: %s", " ".join(f"{size:.0f}" for size in resident))
    assert {name: len(host.objects_alive(name)) for name in JOB_CLASSES} == dict.fromkeys(JOB_CLASSES, 0)
    assert resident[-1] - max(resident[:WARM_UP]) < VOLUME_MIB
