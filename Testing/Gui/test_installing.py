"""Real pip, a real environment and a package index on this computer: what is there stays, in every Slicer.

The wheels are made here. In the index the newest release of everything demands the newest torch, numpy, scipy and
SimpleITK, as MONAI's does of torch.
"""

from __future__ import annotations

import functools
import http.server
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import threading
import types
import zipfile
from pathlib import Path

import pytest
import slicer

import host

pytestmark = pytest.mark.slow

THERE = {
    "torch": "2.6.0+cu124",
    "torchvision": "0.21.0+cu124",
    "numpy": "1.26.4",
    "scipy": "1.13.0",
    "SimpleITK": "2.4.0",
    "segment-anything": "1.0",
    "packaging": "24.0",
}
NEWEST = "99.0"
DEMANDING = [f"{name}>={NEWEST}" for name in ("torch", "numpy", "scipy", "SimpleITK")]


@pytest.fixture
def dependencies():
    from SAM3DSegmentLib.bridge import dependencies

    return dependencies


@pytest.fixture
def fitting(dependencies):
    """The releases of what is missing that go with what is there."""
    wanted = dependencies.requirements(training=True)
    return {item.name: next(iter(item.specifier)).version for item in wanted if item.name not in THERE}


@pytest.fixture
def index(tmp_path, fitting):
    """index(name, version, *requirements) adds a wheel; index.url is the address."""
    root = tmp_path / "index"

    def add(name, version, *requirements):
        folder = root / "simple" / name.lower()
        folder.mkdir(parents=True, exist_ok=True)
        write_wheel(folder, name.replace("-", "_"), version, requirements)

    for name in THERE:
        add(name, NEWEST)
    for name in fitting:
        add(name, NEWEST, *DEMANDING)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=root)
    handler.log_message = None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        add.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
        yield add
        server.shutdown()


def write_wheel(folder, name, version, requirements):
    info = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requirements]
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))


class Environment:
    """A Python of its own in which THERE is installed, and the pip that installs into it from the index."""

    def __init__(self, folder: Path, url: str) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self._folder = folder
        self._site = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        self._environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": url, "NO_PROXY": "*"}
        for name, version in THERE.items():
            write_wheel(folder, name.replace("-", "_"), version, ())
        self.pip(["--no-deps", "--no-index", *map(str, folder.glob("*.whl"))])

    def pip(self, arguments):
        program = next((self._folder / "bin").glob("python"))
        command = [sys.executable, "-m", "pip", "--python", program, "install", "-q", *arguments]
        subprocess.run(command, env=self._environment, check=True)

    def packages(self):
        return {found.name: found.version for found in importlib.metadata.distributions(path=[self._site])}

    def version(self, name):
        return self.packages().get(name.replace("-", "_"), "")


@pytest.fixture
def environment(tmp_path, index, dependencies, use_program, monkeypatch):
    """What is installed into it is what the panel finds."""
    use_program("print('{\"problems\": []}')")
    environment = Environment(tmp_path / "environment", index.url)
    monkeypatch.setattr(dependencies, "_version", environment.version)
    monkeypatch.setattr(slicer.util, "pip_install", environment.pip)
    return environment


def pip_of_newer_slicer(environment, monkeypatch):
    module = types.SimpleNamespace(pip_install=lambda arguments, show_progress: environment.pip(arguments))
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)


@pytest.mark.parametrize("newer", [False, True])
def test_what_is_there_stays_and_older_releases_that_fit_are_taken(
    index, environment, dependencies, fitting, newer, monkeypatch
):
    if newer:
        pip_of_newer_slicer(environment, monkeypatch)
    for name, version in fitting.items():
        index(name, version)
    dependencies.Installer(lambda: None).install(training=True)
    installed = {name.replace("-", "_"): version for name, version in (THERE | fitting).items()}
    assert environment.packages() == installed
    assert not dependencies.missingPackages(training=True)


def test_without_the_panels_care_they_would_be_replaced(index, environment, fitting):
    for name, version in fitting.items():
        index(name, version)
    environment.pip([f"{name}>={version}" for name, version in fitting.items()])
    assert {environment.version(name) for name in ("torch", "numpy", "scipy", "SimpleITK")} == {NEWEST}


def test_where_nothing_fits_all_stays_and_the_user_is_told(environment, dependencies):
    with pytest.raises(dependencies.DependencyError, match="could not be installed"):
        dependencies.Installer(lambda: None).install(training=True)
    assert environment.packages() == {name.replace("-", "_"): version for name, version in THERE.items()}
    assert [message.kind for message in host.messages] == ["question"]
