"""What is built, installed and submitted: CMake through a stub of Slicer's macros, and the catalog files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cmake
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SAM3DSegment"
HOST = ROOT / "Testing" / "Host"
NOT_INSTALLED = {"CMakeLists.txt"}
CATEGORIES = {"Segmentation"}


def run(*command, **environment):
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Folders of a build and of its installation."""
    folder = tmp_path_factory.mktemp("cmake")
    program = Path(cmake.CMAKE_BIN_DIR) / "cmake"
    test_command = f"{sys.executable};{HOST / 'selftest.py'}"
    run(
        *(program, "-S", ROOT, "-B", folder / "build"),
        f"-DSlicer_DIR={ROOT / 'Testing' / 'Packaging' / 'slicer_stub'}",
        f"-DSlicer_TEST_COMMAND={test_command}",
        f"-DCMAKE_INSTALL_PREFIX={folder / 'installed'}",
    )
    run(program, "--build", folder / "build", "--target", "install")
    return folder


@pytest.fixture(scope="session")
def installed(build):
    return build / "installed" / "lib" / "Slicer-5.13" / "qt-scripted-modules"


def metadata():
    """EXTENSION_* values of CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^set\(EXTENSION_(\w+) \"?(.*?)\"?\)$", text, re.MULTILINE))


def test_the_installed_tree_is_exactly_the_tracked_runtime_files(installed):
    tracked = run("git", "-C", ROOT, "ls-files", "SAM3DSegment").split()
    expected = {name.removeprefix("SAM3DSegment/") for name in tracked} - NOT_INSTALLED
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {name for name in found if "__pycache__" not in name} == expected


def test_the_panel_works_from_the_installed_tree(installed):
    output = run(
        *(sys.executable, "-m", "pytest", "-q", ROOT / "Testing" / "Gui" / "test_panel.py"),
        *("-k", "one_click or sample or survives", "-p", "no:cacheprovider"),
        SAM3DSEGMENT_MODULE=str(installed),
    )
    assert "3 passed" in output


def test_the_self_test_is_registered_and_passes(build):
    output = run(Path(cmake.CMAKE_BIN_DIR) / "ctest", "--test-dir", build / "build", "--verbose")
    assert "py_SAM3DSegment" in output
    assert "Ran 4 tests" in output
    assert "100% tests passed" in output


def test_the_self_test_fails_when_the_logic_fails(installed, tmp_path):
    broken = tmp_path / "modules"
    run("cp", "-r", installed, broken)
    inference = broken / "SAM3DSegmentLib" / "inference.py"
    text = inference.read_text(encoding="utf-8")
    line = "        return slicing.to_kji(labels), slicing.to_kji(confidence)\n"
    assert line in text
    inference.write_text(text.replace(line, line.replace("(labels)", "(labels[::-1])")), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, HOST / "selftest.py", broken / "SAM3DSegment.py"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "FAIL: test_segment" in result.stderr


def test_without_torch_the_self_test_says_skipped(tmp_path):
    """torch is hidden by a finder, because it cannot be uninstalled from a running test."""
    script = tmp_path / "without_torch.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HOST)!r})\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'torch' else real(name, *more)\n"
        f"sys.argv = ['selftest.py', {str(MODULE / 'SAM3DSegment.py')!r}]\n"
        "import selftest; sys.exit(selftest.main())\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert result.stderr.count("skipped 'torch not installed'") == 4, result.stderr


def test_the_catalog_files_say_the_same_as_cmake():
    cmake_says = metadata()
    entry = json.loads((ROOT / "SAM3DSegment.json").read_text(encoding="utf-8"))
    lines = (ROOT / "SAM3DSegment.s4ext").read_text(encoding="utf-8").splitlines()
    s4ext = dict(line.split(" ", 1) for line in lines if not line.startswith("#"))
    assert re.search(r"^project\((\w+)\)$", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)[1] == "SAM3DSegment"
    assert entry["build_dependencies"] == cmake_says["DEPENDS"].split() == s4ext["depends"].split()
    assert entry["scm_url"] == s4ext["scmurl"] == cmake_says["HOMEPAGE"].removesuffix("#readme")
    assert entry["category"] == s4ext["category"]
    assert entry["category"] in CATEGORIES
    assert str(entry["tier"]) == cmake_says["TIER"]
    for key in ("homepage", "contributors", "description", "iconurl", "screenshoturls"):
        assert s4ext[key] == cmake_says[key.upper()]
    assert set(entry) <= {
        *("$schema", "build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_url", "tier")
    }


def test_the_pictures_that_the_catalog_shows_are_in_the_repository():
    urls = [metadata()["ICONURL"], *metadata()["SCREENSHOTURLS"].split()]
    for url in urls:
        path = ROOT / url.split("/main/")[1]
        assert path.read_bytes().startswith(b"\x89PNG"), path


def test_the_repository_fits_into_the_index():
    """The Extensions Index refuses a clone of more than 100 MB, history included."""
    kib = re.search(r"size-pack: (\d+)", run("git", "-C", ROOT, "count-objects", "-v"))
    loose = re.search(r"^size: (\d+)", run("git", "-C", ROOT, "count-objects", "-v"), re.MULTILINE)
    tracked = sum((ROOT / name).stat().st_size for name in run("git", "-C", ROOT, "ls-files").split())
    assert (int(kib[1]) + int(loose[1])) * 1024 + tracked < 100e6


def test_the_entry_file_is_wiring_only():
    assert len((MODULE / "SAM3DSegment.py").read_text(encoding="utf-8").splitlines()) < 150
