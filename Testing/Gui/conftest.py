"""Every test here starts in an empty scene of the stand-in host and fails with what Qt and VTK would only print."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, os.environ.get("SLICER_HOST", str(Path(__file__).resolve().parents[1] / "Host")))

import slicer  # noqa: E402

import host  # noqa: E402 - found through the line above

host.install()

from panel_fixtures import array, tiny_model, use_program, volume, widget  # noqa: E402, F401 - fixtures

from far_computer import far, running  # noqa: E402, F401 - fixtures


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A failure of the test itself is reported first, else what was collected during it."""
    result = yield
    host.assert_clean()
    return result


@pytest.fixture(scope="session", autouse=True)
def _warm_python():
    """Importing torch takes longer than most of what children do here; SLICER_HOST_COLD is for tests of their start."""
    with host.warm_python("torch", "SimpleITK", "safetensors.torch", "lightning_fabric"):
        yield


@pytest.fixture(autouse=True)
def slicer_host():
    """The host, with an empty scene and empty records; modules that the test loads are unloaded after it, which ends
    all that they have started."""
    host.reset()
    yield host
    host.take_errors()  # reported already; what unloading raises is not
    host.unload_all()
    host.assert_no_children()
    host.assert_clean()
    host.reset()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """Keep the user's models, weights and cache out of the tests, and theirs out of the user's."""
    for name in ("MODELS", "WEIGHTS", "CACHE"):
        monkeypatch.setenv(f"SAM3DSEGMENT_{name}", str(tmp_path / f"user-{name.lower()}"))


@pytest.fixture
def add_volume():
    """add_volume("CT") puts an oblique 6 x 5 x 4 volume with the voxel values 0 to 119 into the scene."""

    def add(name="CT"):
        voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
        matrix = np.array([[0, -2, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]], float)
        return slicer.util.addVolumeFromArray(voxels, ijkToRAS=matrix, name=name)

    return add
