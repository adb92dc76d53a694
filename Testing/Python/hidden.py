"""Child processes that see only what a fresh Slicer has: Python, and the packages that Slicer ships."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HOST = Path(__file__).resolve().parents[1] / "Host"

_LIST = """
import pathlib, sys, packages
file = pathlib.Path(sys.argv[1])
with packages.Hiding(file).hide(packages.notShipped()):
    content = file.read_text()
file.write_text(content)
"""
_LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import host, packages
host.install()
with host.hide_packages():
    host.load_module(sys.argv[2])
    host.process_events()
    host.assert_clean()
    seen = sorted(name for name in sys.modules if name.partition(".")[0] in sys.argv[4:])
    assert not seen, seen
    from SAM3DSegmentLib.bridge import dependencies
    assert dependencies.__file__.startswith(sys.argv[3]), dependencies.__file__
    print(dependencies.missingPackages())
    host.unload_all()
"""


def run_bare(folder: Path, *arguments, pythonpath=""):
    """Run Python with all that Slicer does not ship out of its sight, by the stand-in host's own means.

    The list of what is hidden is kept in `folder`.
    """
    listed = folder / "hidden.json"
    if not listed.exists():
        environment = {**os.environ, "PYTHONPATH": str(HOST)}
        subprocess.run([sys.executable, "-c", _LIST, str(listed)], check=True, env=environment)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, filter(None, (HOST / "child_site", pythonpath)))),
        "SLICER_HOST_HIDDEN_PACKAGES": str(listed),
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def load_bare(module: Path, *unwanted: str) -> str:
    """Load a module of Slicer's and open its panel with nothing but what Slicer ships; return what it misses.

    None of the packages `unwanted` may have been imported for it.
    """
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    command = [sys.executable, "-c", _LOAD, HOST, module, module.parent, *unwanted]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
