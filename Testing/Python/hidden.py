"""What a fresh Slicer does not have, hidden from a child process: from the path finder and from the metadata."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HOST = Path(__file__).resolve().parents[1] / "Host"
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


def load_bare(folder: Path, module: Path) -> str:
    """Load a module and open its panel on the stand-in host with nothing but what Slicer ships; what it misses."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import host; host.install()\n"
        "python, module, widget = host.load_module(sys.argv[2])\n"
        "host.process_events(); host.assert_clean()\n"
        "seen = sorted(set(sys.modules) & set(sys.argv[3].split(',')))\n"
        "assert not seen, seen\n"
        "from SAM3DSegmentLib.bridge import dependencies\n"
        "assert dependencies.__file__.startswith(sys.argv[4]), dependencies.__file__\n"
        "print(dependencies.missingPackages()); host.unload_all()\n"
    )
    arguments = (HOST, module, ",".join(NOT_IN_SLICER), module.parent)
    result = run_python(folder, "-c", code, *arguments, QT_QPA_PLATFORM="offscreen")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
