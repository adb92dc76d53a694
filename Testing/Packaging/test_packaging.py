"""What is built, installed and submitted: CMake through a stub of Slicer's macros, and the catalog files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cmake
import pytest
import SimpleITK as sitk

from hidden import load_bare
from SAM3DSegmentLib import __version__
from SAM3DSegmentLib.commands import examination

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
def package(tmp_path_factory):
    """The archive for Slicer 5.13 on Linux that `make package` makes."""
    return make_package(tmp_path_factory.mktemp("dist"), "--os", "linux", "--arch", "amd64")


def make_package(folder, *options):
    output = run(
        *(sys.executable, ROOT / "Utilities" / "package.py", "--slicer-version", "5.13"),
        *("--slicer-revision", "34000", "--output", folder, *options),
    )
    return Path(output.strip())


@pytest.fixture(scope="session")
def extension(package, tmp_path_factory):
    """The folder that the Extensions Manager makes of the archive."""
    folder = tmp_path_factory.mktemp("extensions")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    return folder / package.name.removesuffix(".tar.gz")


@pytest.fixture(scope="session")
def installed(extension):
    return extension / "lib" / "Slicer-5.13" / "qt-scripted-modules"


def entries(archive):
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    with tarfile.open(archive) as file:
        return file.getnames()


@pytest.mark.parametrize(
    ("system", "architecture", "ending", "inside"),
    [
        ("linux", "amd64", ".tar.gz", ""),
        ("win", "amd64", ".zip", ""),
        ("macosx", "arm64", ".tar.gz", "Slicer.app/Contents/Extensions-34000/SAM3DSegment/"),
    ],
)
def test_the_archive_is_what_the_extensions_manager_takes(tmp_path, system, architecture, ending, inside):
    archive = make_package(tmp_path, "--os", system, "--arch", architecture)
    name = archive.name.removesuffix(ending)
    assert re.fullmatch(rf"34000-{system}-{architecture}-SAM3DSegment-git[0-9a-f]{{7,}}-\d{{4}}-\d\d-\d\d", name)
    found = entries(archive)
    assert {entry.split("/")[0] for entry in found} == {name}
    assert f"{name}/{inside}lib/Slicer-5.13/qt-scripted-modules/SAM3DSegment.py" in found
    assert [entry for entry in found if entry.endswith(".s4ext")] == [
        f"{name}/{inside}share/Slicer-5.13/SAM3DSegment.s4ext"
    ]


def test_the_same_commit_gives_the_same_archive(package, tmp_path):
    assert make_package(tmp_path, "--os", "linux", "--arch", "amd64").read_bytes() == package.read_bytes()


def test_an_archive_for_macos_without_slicers_revision_is_refused():
    command = [sys.executable, ROOT / "Utilities" / "package.py", "--os", "macosx"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "About 3D Slicer" in result.stderr


def test_an_archive_for_a_slicer_that_cannot_load_the_module_is_refused():
    command = [sys.executable, ROOT / "Utilities" / "package.py", "--slicer-version", "5.8"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "5.10 or later" in result.stderr


def test_the_description_in_the_archive_names_its_commit(extension):
    shared = (extension / "share" / "Slicer-5.13" / "SAM3DSegment.s4ext").read_text(encoding="utf-8")
    assert f"scmrevision {run('git', '-C', ROOT, 'rev-parse', 'HEAD')}" in shared
    own = (ROOT / "SAM3DSegment.s4ext").read_text(encoding="utf-8")
    assert shared.splitlines()[:3] == own.splitlines()[:3]


def test_the_unpacked_module_loads_without_what_slicer_does_not_ship(installed):
    assert "torch" in load_bare(installed / "SAM3DSegment.py", "torch", "safetensors", "pooch", "platformdirs", "tqdm")


@pytest.mark.slow
def test_the_unpacked_command_line_segments_the_bundled_mri(installed, tmp_path):
    samples = installed / "Resources" / "SampleData"
    out = tmp_path / "x.seg.nrrd"
    command = (sys.executable, "-m", "SAM3DSegmentLib", "segment", samples / "hippocampus_015.nii.gz", "-o", out)
    run(*command, PYTHONPATH=str(installed))
    found, expected = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(path))) > 0
        for path in (out, samples / "hippocampus_015_label.nii.gz")
    )
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.85


def metadata():
    """EXTENSION_* values of CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^set\(EXTENSION_(\w+) \"?(.*?)\"?\)$", text, re.MULTILINE))


def test_the_installed_tree_is_exactly_the_tracked_runtime_files(installed):
    tracked = run("git", "-C", ROOT, "ls-files", "SAM3DSegment").split()
    expected = {name.removeprefix("SAM3DSegment/") for name in tracked} - NOT_INSTALLED
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {name for name in found if "__pycache__" not in name} == expected


@pytest.mark.slow
def test_the_panel_works_from_the_installed_tree(installed):
    files = [ROOT / "Testing" / "Gui" / name for name in ("test_panel.py", "test_segment_section.py")]
    output = run(
        *(sys.executable, "-m", "pytest", "-q", *files),
        *("-k", "one_click or sample or survives", "-p", "no:cacheprovider"),
        SAM3DSEGMENT_MODULE=str(installed),
    )
    assert "3 passed" in output


@pytest.mark.slow
def test_the_self_test_is_registered_and_passes(build):
    output = run(Path(cmake.CMAKE_BIN_DIR) / "ctest", "--test-dir", build / "build", "--verbose")
    assert "py_SAM3DSegment" in output
    for name in ("test_segment", "test_cancel", "test_missing_model", "test_oblique"):
        assert name in output
    assert "100% tests passed" in output


@pytest.mark.slow
def test_the_self_test_fails_when_the_logic_fails(installed, tmp_path):
    broken = tmp_path / "modules"
    run("cp", "-r", installed, broken)
    inference = broken / "SAM3DSegmentLib" / "inference.py"
    text = inference.read_text(encoding="utf-8")
    line = "        return labels_kji, "
    assert line in text
    inference.write_text(text.replace(line, line.replace("labels_kji", "labels_kji[::-1]")), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, HOST / "selftest.py", broken / "SAM3DSegment.py"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "AssertionError" in result.stderr


def test_without_torch_the_self_test_says_skipped():
    code = (
        "import logging, sys; sys.path.insert(0, sys.argv[1])\n"
        "logging.basicConfig(level=logging.INFO)  # Slicer's displays go to the log\n"
        "import host; host.install()\n"
        "with host.hide_packages('torch'):\n"
        "    host.load_module(sys.argv[2]); host.run_self_test('SAM3DSegment'); host.unload_all()\n"
    )
    command = [sys.executable, "-c", code, HOST, MODULE / "SAM3DSegment.py"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (result.stdout + result.stderr).count("is skipped: not installed: torch") == 4, result.stderr


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


def test_the_description_says_what_people_would_ask():
    """What it is not, how it is trained, and the licence of what is bundled: the catalog shows nothing else."""
    text = metadata()["DESCRIPTION"]
    assert all(part in text for part in ("arXiv:2309.03493", "Meta", "command line", "Apache-2.0", "CC BY-SA 4.0"))


def test_the_citation_names_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == __version__


def test_the_pictures_that_the_catalog_shows_are_in_the_repository():
    urls = [metadata()["ICONURL"], *metadata()["SCREENSHOTURLS"].split()]
    for url in urls:
        path = ROOT / url.split("/main/")[1]
        assert path.read_bytes().startswith(b"\x89PNG"), path


def test_the_repository_fits_into_the_index():
    """The Extensions Index refuses a clone of more than 100 MB, history included."""
    history = int(run("git", "-C", ROOT, "rev-list", "--disk-usage", "--objects", "HEAD"))  # as packed, each once
    tracked = sum((ROOT / name).stat().st_size for name in run("git", "-C", ROOT, "ls-files").split())
    assert history + tracked < 100e6


def requirements(lines):
    """Name -> what pip installs on any computer, without comments, hashes and the blanks that pip does not mind."""
    stripped = (line.partition("#")[0].partition("--hash")[0].strip() for line in lines if ";" not in line)
    return {re.split("[=<>]", line)[0].lower(): line for line in stripped if line}


def test_the_doctor_looks_for_what_pip_installs_and_the_pins_cover_it():
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = requirements(project["dependencies"])
    assert requirements(examination._PACKAGES.values()) == wanted
    extras = project["optional-dependencies"]
    assert requirements(examination._TRAINING_PACKAGES.values()) == requirements(extras["train"])
    assert requirements(examination._EVALUATION_PACKAGES.values()) == requirements(extras["evaluate"])
    pinned = requirements((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    assert set(wanted) <= set(pinned)


def test_the_panel_installs_for_training_what_pip_does():
    """All but the packages without which training does no less: logs for TensorBoard, and the benchmark's plot."""
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lines = (MODULE / "Resources" / "requirements-training.txt").read_text(encoding="utf-8").splitlines()
    wanted = requirements(extras["train"])
    assert requirements(lines) == {name: wanted[name] for name in wanted if name not in ("tensorboard", "matplotlib")}


def test_the_panel_asks_for_the_torch_that_pip_does():
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = (MODULE / "SAM3DSegmentLib" / "bridge" / "dependencies.py").read_text(encoding="utf-8")
    assert re.search(r'^TORCH = "(.*?)"', source, re.MULTILINE)[1] == requirements(project["dependencies"])["torch"]


def test_the_doctor_names_the_button_as_the_panel_does(monkeypatch):
    form = (MODULE / "Resources" / "UI" / "SAM3DSegment.ui").read_text(encoding="utf-8")
    button = re.search(r'name="installButton">.*?name="text">\s*<string>(.*?)</string>', form, re.DOTALL)[1]
    monkeypatch.setattr(examination, "_PACKAGES", {"surely_not_installed": "surely-not-installed>=1"})
    [problem] = examination.examine().problems
    assert f'click "{button}"' in problem


def test_segment_anything_is_pinned_to_one_file():
    """Its package has no author in its metadata, so pip accepts this exact file only."""
    lines = (MODULE / "Resources" / "requirements-hashed.txt").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if not line.startswith("#")]
    assert re.fullmatch(r"segment-anything==1\.0 --hash=sha256:[0-9a-f]{64}", line)


def test_pip_takes_only_the_file_of_that_hash(tmp_path):
    """With a package of that name and version made here, offline: its hash is another, so that pip refuses it."""
    with zipfile.ZipFile(tmp_path / "segment_anything-1.0-py3-none-any.whl", "w") as wheel:
        folder = "segment_anything-1.0.dist-info"
        wheel.writestr(f"{folder}/METADATA", "Metadata-Version: 2.1\nName: segment-anything\nVersion: 1.0\n")
        wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{folder}/RECORD", "")
    hashed = MODULE / "Resources" / "requirements-hashed.txt"
    own = tmp_path / "own.txt"
    digest = hashlib.sha256((tmp_path / "segment_anything-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    own.write_text(f"segment-anything==1.0 --hash=sha256:{digest}\n")
    for requirement, code in ((hashed, 1), (own, 0)):
        result = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--find-links", tmp_path]
            + ["--target", tmp_path / "target", "-r", requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == code, result.stderr
        assert ("DO NOT MATCH THE HASHES" in result.stderr) == bool(code)


def test_the_entry_file_is_wiring_only():
    assert len((MODULE / "SAM3DSegment.py").read_text(encoding="utf-8").splitlines()) < 180
