"""What this computer offers, for people who ask why something does not run."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..base.errors import DependencyError, InputError
from ..base.folders import models_folder, weights_folder
from ..model_store import list_models
from ..sam.cache import cache_info
from ..sam.encoders import ENCODERS

# Module -> what pip installs; held to pyproject.toml by a test.
_PACKAGES = {
    "numpy": "numpy>=1.24",
    "scipy": "scipy>=1.11",
    "SimpleITK": "SimpleITK>=2.3",
    "pydicom": "pydicom>=2.4",
    "torch": "torch>=2.2",
    "segment_anything": "segment-anything==1.0",
    "safetensors": "safetensors>=0.4",
    "psutil": "psutil>=5.9",
    "requests": "requests>=2.31",
    "packaging": "packaging>=22",
    "tqdm": "tqdm>=4.66",
}
_TRAINING_PACKAGES = {
    "lightning_fabric": "lightning-fabric>=2.4",
    "tensorboard": "tensorboard>=2.14",
    "matplotlib": "matplotlib>=3.8",
}
_EVALUATION_PACKAGES = {"monai": "monai>=1.5.2"}
_BENCH_PACKAGES = {"skimage": "scikit-image>=0.22"}
# Imported in place of the package, of which only the encoder is used; the rest needs more packages.
_PROOFS = {"segment_anything": f"{__package__.partition('.')[0]}.encoder"}


@dataclass
class Examination:
    """Lines (name, finding), the problems that keep segmentation from running, and what can be computed with.

    devices: names for `--device`, the automatic choice first; seconds_per_slice: measured with a model, if asked.
    """

    findings: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    seconds_per_slice: float | None = None


def examine(model: str | None = None) -> Examination:
    """Look at packages, devices, memory, disk and folders; with a model's name or file, also measure its speed."""
    result = Examination()
    findings, problems = result.findings, result.problems
    findings += [("Python", f"{platform.python_version()} at {sys.executable}"), ("system", platform.platform())]
    for module, requirement in _PACKAGES.items():
        finding, problem = _package(module, requirement)
        findings.append((module, finding))
        if problem:
            problems.append(problem)
    for purpose, packages in (("training", _TRAINING_PACKAGES), ("evaluation", _EVALUATION_PACKAGES)):
        for module, requirement in packages.items():
            findings.append((module, f"{_package(module, requirement)[0]} (needed for {purpose} only)"))
    if not problems:
        try:
            result.devices, lines = _devices()
            findings += lines
        except DependencyError as error:
            problems.append(str(error))
    free = shutil.disk_usage(_existing_parent()).free
    findings.append(("free disk", f"{free / 2**30:.1f} GiB"))
    if free < 2**30:
        problems.append(
            f"only {free / 2**20:.0f} MB of disk space are free; free at least 1 GiB for SAM's weights and embeddings."
        )
    findings.append(("models", ", ".join(path.stem for path in list_models()) or "none"))
    findings += [("encoder weights", _or_error(_weights)), ("embedding cache", _or_error(_cache))]
    if model is not None and not problems:
        result.seconds_per_slice = _seconds_per_slice(model)
        findings.append(("speed", f"{result.seconds_per_slice:.3f} s per slice with {model}"))
    return result


def _weights() -> str:
    there = [name for name, encoder in ENCODERS.items() if encoder.is_here]
    return f"{', '.join(there) or 'none'} in {weights_folder()}"


def _cache() -> str:
    cache = cache_info()
    return f"{cache.bytes / 1e6:.0f} MB, at most {cache.limit_bytes / 1e9:.1f} GB, in {cache.folder}"


def _or_error(find: Callable[[], str]) -> str:
    """What there is, or why there is no folder for it."""
    try:
        return find()
    except InputError as error:
        return str(error)


def how_to_install(module: str) -> str:
    """What to do about a module that cannot be imported: one command for all that is missing of its kind."""
    for group in (_PACKAGES, _TRAINING_PACKAGES, _EVALUATION_PACKAGES, _BENCH_PACKAGES):
        if module.partition(".")[0] not in group:
            continue
        missing = " ".join(f'"{needed}"' for name, needed in group.items() if not _is_there(name))
        if missing:
            return f'run `pip install {missing}`, or in Slicer click "Install missing packages" in the section Setup.'
    return "run `sam3dsegment doctor` to see what is missing."


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _seconds_per_slice(model: str) -> float:
    """Of the second of two small volumes, so that what happens only once is not counted."""
    from ..inference import Segmenter
    from ..model_file import load_model

    loaded = load_model(model)
    segmenter = Segmenter.load(loaded)
    side = loaded.card.window.depth
    shape = (len(loaded.card.inputs), side, side, side)
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    segmenter.segment(volume, np.eye(4))
    began = time.monotonic()
    segmenter.segment(volume, np.eye(4))
    return (time.monotonic() - began) / side


def _package(module: str, requirement: str) -> tuple[str, str]:
    """Finding, and what to do if it does not work. A half-installed package has a version, so it is imported too."""
    name = requirement.replace("=", ">").partition(">")[0]
    install = f'run `pip install "{requirement}"`, or in Slicer click "Install missing packages" in the section Setup.'
    if importlib.util.find_spec(module) is None:
        return "is not installed", f"{name} is not installed; {install}"
    try:
        importlib.import_module(_PROOFS.get(module, module))
    except ImportError as error:
        if error.name not in _PACKAGES:  # else that one is the problem
            remedy = f'run `pip install --force-reinstall "{requirement}"`.'
            return f"is installed but broken: {error}", f"{name} is installed but broken ({error}); {remedy}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "is installed, without a version", ""
    if _is_too_old(version, requirement):
        return f"{version}, too old", f"{name} {version} is too old; {install}"
    return version, ""


def _is_too_old(version: str, requirement: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return False  # its own line says so
    return not Requirement(requirement).specifier.contains(version, prereleases=True)


def _devices() -> tuple[list[str], list[tuple[str, str]]]:
    """Names for `--device`, and findings about them."""
    import torch

    from ..base.devices import (
        available_memory_bytes,
        cpu_has_bf16,
        fault_of,
        resolve_device,
        resolve_precision,
    )
    from ..sam.layers import attention_method

    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    names, found = ["auto", "cpu"], [("device", f"{device}, computing in {precision}")]
    found.append(("encoder", attention_method()))
    gpus = {f"cuda:{index}": torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        gpus["mps"] = "Apple GPU"
    for name, description in gpus.items():
        fault = fault_of(torch.device(name))
        found.append((name, f"{description}, not used: it {fault}" if fault else description))
        if not fault:
            names.append(name)
    found.append(
        ("CPU threads", f"{torch.get_num_threads()}, bf16 matrix products: {'yes' if cpu_has_bf16() else 'no'}")
    )
    found.append(("free memory", f"{available_memory_bytes(torch.device('cpu')) / 2**30:.1f} GiB"))
    return names, found


def _existing_parent() -> str:
    try:
        folder = models_folder()
    except InputError:
        return os.curdir
    while not folder.exists():
        folder = folder.parent
    return str(folder)
