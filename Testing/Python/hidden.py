"""What a fresh Slicer does not have, hidden from a child process: from the path finder and from the metadata."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NOT_IN_SLICER = (
    *("platformdirs", "pooch", "psutil", "tqdm", "safetensors", "torch", "torchvision", "segment_anything", "monai"),
    *("lightning", "lightning_fabric", "lightning_utilities", "torchmetrics", "tensorboard", "einops", "nibabel"),
)

_HOOK = """
import importlib.metadata, importlib.machinery, os, sys
hidden = set(os.environ["HIDDEN_PACKAGES"].split(","))
find_spec = importlib.machinery.PathFinder.find_spec.__func__
def find(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find_spec(cls, name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find)
from_name = importlib.metadata.Distribution.from_name.__func__
def named(cls, name):
    if name.replace("-", "_") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(cls, name)
importlib.metadata.Distribution.from_name = classmethod(named)
"""


def run_python(folder: Path, *arguments, hidden=NOT_IN_SLICER, pythonpath="", **environment):
    """Run Python with `hidden` out of its sight, by a sitecustomize.py in `folder` that its own children read too."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, (folder, pythonpath)))),
            "HIDDEN_PACKAGES": ",".join(hidden),
            **environment,
        },
    )
