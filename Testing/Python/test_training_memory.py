"""Memory does not grow with the number of cases: 20 volumes of the size of a CT."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import MODULE
from SAM3DSegmentLib.model_file import load_model

COUNT, SHAPE = 20, (100, 512, 512)
MOST_BYTES = 4 * 2**30


def write_cases(folder):
    generator = np.random.default_rng(0)
    base = generator.integers(-1000, 400, SHAPE, dtype=np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[40:60, 200:300, 200:300] = 1
    base[labels > 0] += 300
    folder.mkdir()
    for number in range(COUNT):
        for name, array in ((f"c{number}.nrrd", np.roll(base, number)), (f"c{number}_label.nrrd", labels)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((0.8, 0.8, 2.5))
            sitk.WriteImage(image, str(folder / name))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cts") / "cases"
    write_cases(folder)
    return folder


# The child says on its last line how much of it was resident at most.
CHILD = """
import sys
from SAM3DSegmentLib.bench.processes import peak_mib
from SAM3DSegmentLib.cli import main
code = main(sys.argv[1:])
print(int(peak_mib() * 2**20))
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["compact_vit", "hippocampus-mri"])
def test_twenty_cts_train_in_four_gibibytes(cases, tmp_path, encoder):
    config = {
        "channels": [256, 32, 16, 16, 16],
        "look_twice": False,  # whole volumes take more memory than boxes
        "intensity": {"kind": "window", "low": -160, "high": 240},
        "augmented_copies": 0,
        "batch_size": 1,
        "validations": 1,
        "validation_cases": 1,
    }
    if encoder == "compact_vit":
        config["image_size"] = 256  # slices shrink
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ["train", "--data", cases, "-o", tmp_path / "m.sam3d"]
    arguments += [
        "--config",
        tmp_path / "config.json",
        "--encoder",
        encoder,
        "--minutes",
        "0.2",
        "--device",
        "cpu",
        "--progress",
        "none",
    ]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(MODULE)},
    )
    assert child.returncode == 0, child.stderr
    most = int(child.stdout.splitlines()[-1])
    print(f"{encoder}: {most / 2**30:.2f} GiB resident at most")  # noqa: T201
    assert most < MOST_BYTES
    assert load_model(tmp_path / "m.sam3d").card.training.cases == COUNT - 1
