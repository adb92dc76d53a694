"""What works with nothing but Python, numpy and what Slicer ships: all that a user meets before the installation."""

import json
import re

import pytest

from conftest import MODULE
from hidden import load_bare, run_python


@pytest.fixture
def bare(tmp_path):
    """Run the command line with everything hidden: bare("doctor") -> CompletedProcess."""
    return lambda *arguments: run_python(tmp_path / "hook", "-m", "SAM3DSegmentLib", *arguments, pythonpath=MODULE)


def test_the_packages_are_really_hidden(tmp_path):
    code = (
        "import importlib, importlib.metadata, importlib.util, os\n"
        "for name in os.environ['HIDDEN_PACKAGES'].split(','):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "    for look in (importlib.import_module, importlib.metadata.version):\n"
        "        try: look(name)\n"
        "        except ImportError: continue\n"
        "        raise SystemExit(f'{name} is seen')\n"
        "import numpy, requests; importlib.metadata.version('numpy')\n"
    )
    result = run_python(tmp_path / "hook", "-c", code)
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
def test_what_needs_packages_names_the_doctor_in_one_line(bare, command):
    result = bare(*command)
    assert result.returncode == 1
    assert re.fullmatch(r"ERROR: .*`sam3dsegment doctor`.*\n", result.stderr), result.stderr


def test_the_module_loads_and_its_panel_opens(tmp_path):
    missing = load_bare(tmp_path / "hook", MODULE / "SAM3DSegment.py")
    assert "torch" in missing
    assert "safetensors" in missing
