"""What works with nothing but Python, numpy and what Slicer ships: all that a user meets before the installation."""

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import MODULE
from hidden import load_bare, run_bare
from web_server import Server

HIDDEN = (
    *("platformdirs", "pooch", "psutil", "tqdm", "safetensors", "torch", "torchvision", "segment_anything", "monai"),
    *("lightning", "lightning_fabric"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bare")


@pytest.fixture
def bare(folder):
    """Run the command line with everything hidden: bare("doctor") -> CompletedProcess."""
    return lambda *arguments: run_bare(folder, "-m", "SAM3DSegmentLib", *arguments, pythonpath=MODULE)


def test_the_packages_are_really_hidden(folder):
    code = (
        "import importlib, importlib.metadata, importlib.util, sys\n"
        "for name in sys.argv[1:]:\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "    for look in (importlib.import_module, importlib.metadata.version):\n"
        "        try: look(name)\n"
        "        except ImportError: continue\n"
        "        raise SystemExit(f'{name} is seen')\n"
        "import numpy, requests; importlib.metadata.version('numpy')\n"
    )
    result = run_bare(folder, "-c", code, *HIDDEN)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "segment"),
        (["models", "list"], "hippocampus-mri"),
        (["models", "show", "hippocampus-mri"], '"modality": "MRI"'),
        (["weights", "list"], "not here"),
        (["weights", "path"], "sam_vit_b_01ec64.pth"),
        (["weights", "clear"], ""),
        (["cache", "info"], "0 files"),
        (["cache", "clear"], "removed 0 files"),
    ],
)
def test_a_command_answers(bare, arguments, expected):
    result = bare(*arguments)
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


def test_a_checkpoint_is_downloaded(bare, monkeypatch):
    """As far as it can be where the published file is not: all of another one arrives, and is found to be another."""
    server = Server(bytes(100_000))
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", server.url)
    result = bare("weights", "download")
    assert re.fullmatch(r"ERROR: .*is not the published file.*\n", result.stderr), result.stderr
    assert json.loads(bare("weights", "download", "--progress", "json").stdout.splitlines()[-1])["total"] == 100_000
    server.close()


def test_what_is_wrong_is_still_one_line(bare):
    for arguments in (["weights", "verify"], ["models", "show", "liver"]):
        result = bare(*arguments)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1, result.stderr


def test_the_doctor_says_what_is_missing_and_how_to_install_it(bare):
    result = bare("doctor")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for name in ("torch", "segment-anything", "safetensors", "psutil"):
        assert re.search(rf"^ERROR: {name} is not installed; .*pip install \"{name}[=>]", result.stderr, re.MULTILINE)
    assert "free disk" in result.stdout
    assert "hippocampus-mri" in result.stdout
    found = json.loads(bare("doctor", "--json").stdout)
    assert found["devices"] == []
    assert len(found["problems"]) >= 4


@pytest.mark.parametrize(
    "command", [["segment", "x.nii.gz", "-o", "y.nii.gz"], ["train", "--data", "d", "-o", "m.sam3d"]]
)
def test_what_needs_packages_names_the_command_that_installs_them(bare, command):
    result = bare(*command)
    assert result.returncode == 1
    pattern = (
        r'ERROR: .*No module named \S+; run `pip install .*"torch>=[^`]*"safetensors>=.*`, or in Slicer click .*\n'
    )
    assert re.fullmatch(pattern, result.stderr), result.stderr


PLAIN = """
import sys
class Plain:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("lightning_fabric", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Plain())
from SAM3DSegmentLib.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_what_training_lacks_is_installed_by_one_command(tmp_path):
    """As after a plain `pip install .`."""
    command = [sys.executable, "-c", PLAIN, "train", "--data", tmp_path, "-o", tmp_path / "m.sam3d"]
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 1
    named = r'"lightning-fabric>=\S+" "tensorboard>=[^`]*'
    pattern = f"ERROR: No module named 'lightning_fabric[^;]*; run `pip install {named}`, or in Slicer .*\n"
    assert re.fullmatch(pattern, result.stderr), result.stderr


def test_the_module_loads_and_its_panel_opens():
    missing = load_bare(MODULE / "SAM3DSegment.py", *HIDDEN)
    assert "torch" in missing
    assert "safetensors" in missing
