"""The steps of the Dockerfile without a container: installed, then run without network by a user that has no name.

What pip would download is taken from this environment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "SAM3DSegment" / "Resources" / "SampleData"
IMAGE, REFERENCE = (SAMPLES / f"hippocampus_015{end}.nii.gz" for end in ("", "_label"))
USER = 12345

# In its own view of the disk, in which a user without rights can read this Python, also where it is in root's home.
ISOLATED = """
set -eu
as_user="setpriv --reuid {user} --regid {user} --clear-groups"
mount --bind {theirs} {folder}/packages
if ! $as_user test -r {python}; then
  mount --bind {prefix} {folder}/prefix
  mount -t tmpfs -o mode=755 tmpfs {home}
  mkdir -p {prefix}
  mount --bind {folder}/prefix {prefix}
fi
cd {folder}/out
exec $as_user env -i PATH=/usr/bin:/bin {environment} "$@"
"""


def instructions():
    """Instruction -> its text, the last of each."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


def can_isolate():
    tools = all(map(shutil.which, ("unshare", "setpriv", "mount")))
    return tools and subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True).returncode == 0


def test_the_image_gets_all_that_pip_packs():
    taken = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in taken)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'^readme = "(.*)"|^license-files = \["(.*)"\]', project, re.MULTILINE)
    assert {name for pair in named for name in pair if name} <= taken
    assert {"SAM3DSegment", "pyproject.toml", "constraints.txt"} <= taken


@pytest.fixture
def folder():
    """One that every user can look into."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path).resolve()
        folder.chmod(0o755)
        for name in ("out", "packages", "prefix"):
            (folder / name).mkdir()
        (folder / "out").chmod(0o777)
        yield folder


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another user")
def test_any_user_segments_without_network_and_home(folder):
    if not can_isolate():
        pytest.skip("needs `unshare`, `setpriv` and the right to use them")
    steps = instructions()
    assert re.fullmatch(r'pip install --no-cache-dir --constraint \S+ "/opt/SAM3DSegment\[dicom\]"', steps["RUN"])
    [program] = json.loads(steps["ENTRYPOINT"])
    environment, theirs = folder / "venv", site.getsitepackages()[0]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    [packages] = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, ROOT], check=True, env={**os.environ, "PYTHONPATH": theirs})  # where hatchling is
    (packages / "theirs.pth").write_text(f"{folder / 'packages'}\n")
    shutil.copy(IMAGE, folder)

    def run(*words):
        prefix = Path(sys.base_prefix)
        script = ISOLATED.format(
            user=USER,
            theirs=theirs,
            python=Path(sys.executable).resolve(),
            prefix=prefix,
            home=Path(*prefix.parts[:2]),
            folder=folder,
            environment=steps["ENV"],
        )
        command = ["unshare", "--mount", "--net", "sh", "-c", script, "sh", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    asked = run(
        python, "-c", "import SAM3DSegmentLib, os; print(SAM3DSegmentLib.__file__, os.getuid(), dict(os.environ))"
    )
    assert asked.stdout.startswith(f"{packages / 'SAM3DSegmentLib' / '__init__.py'} {USER} "), asked.stderr
    assert "HOME" not in asked.stdout
    offline = run(python, "-c", "import socket; socket.create_connection(('1.1.1.1', 80), 2)")
    assert "Network is unreachable" in offline.stderr
    mask = folder / "out" / "mask.nii.gz"
    done = run(environment / "bin" / program, "segment", folder / IMAGE.name, "-o", mask, "--progress", "none")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert mask.stat().st_uid == USER
    found, drawn = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (mask, REFERENCE))
    assert 2 * ((found > 0) & (drawn > 0)).sum() / ((found > 0).sum() + (drawn > 0).sum()) > 0.85
