"""What this computer offers, for people who ask why something does not run."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
import time
from dataclasses import dataclass, field

import numpy as np

from .cache import cache_info
from .folders import models_folder, weights_folder
from .model_store import list_models
from .weights import CHECKPOINTS

_PACKAGES = ("numpy", "SimpleITK", "torch", "torchvision", "segment_anything", "safetensors")
_TRAINING_PACKAGES = ("monai",)


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
    for name in _PACKAGES:
        finding, works = _package(name)
        findings.append((name, finding))
        if not works:
            problems.append(f"{name} {finding}; install it again with `pip install --force-reinstall {name}`.")
    for name in _TRAINING_PACKAGES:
        findings.append((name, _package(name)[0] + " (needed for training and evaluation only)"))
    if not problems:
        result.devices, lines = _devices()
        findings += lines
    free = shutil.disk_usage(_existing_parent()).free
    findings.append(("free disk", f"{free / 2**30:.1f} GiB"))
    if free < 2**30:
        problems.append(f"only {free / 2**20:.0f} MB of disk are free; SAM's weights and embeddings need more.")
    findings.append(("models", ", ".join(path.stem for path in list_models()) or "none"))
    there = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.path.is_file()]
    findings.append(("SAM weights", f"{', '.join(there) or 'none'} in {weights_folder()}"))
    cache = cache_info()
    findings.append(("embedding cache", f"{cache.bytes / 2**20:.0f} MB in {cache.folder}"))
    if model is not None and not problems:
        result.seconds_per_slice = _seconds_per_slice(model)
        findings.append(("speed", f"{result.seconds_per_slice:.3f} s per slice with {model}"))
    return result


def _seconds_per_slice(model: str) -> float:
    """Of the second of two small volumes, so that what happens only once is not counted."""
    from .inference import Segmenter
    from .model_file import load_model

    loaded = load_model(model)
    segmenter = Segmenter.load(loaded)
    side = loaded.card.window.depth
    volume = np.random.default_rng(0).normal(size=(side, side, side)).astype(np.float32)
    segmenter.segment(volume, np.eye(4))
    began = time.monotonic()
    segmenter.segment(volume, np.eye(4))
    return (time.monotonic() - began) / side


def _package(name: str) -> tuple[str, bool]:
    """A half-installed package has a version and cannot be imported, so both are tried."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        installed = importlib.util.find_spec(name) is not None
        return (f"is installed but broken: {error}" if installed else "is not installed"), False
    try:
        return importlib.metadata.version(name), True
    except importlib.metadata.PackageNotFoundError:
        return "is there, without a version", True


def _devices() -> tuple[list[str], list[tuple[str, str]]]:
    """Names for `--device`, and findings about them."""
    import torch

    from .devices import available_memory_bytes, cpu_has_bf16, resolve_device, resolve_precision

    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    names, found = ["auto", "cpu"], [("device", f"{device}, computing in {precision}")]
    for index in range(torch.cuda.device_count()):
        names.append(f"cuda:{index}")
        found.append((f"cuda:{index}", torch.cuda.get_device_name(index)))
    if torch.backends.mps.is_available():
        names.append("mps")
    found.append(
        ("CPU threads", f"{torch.get_num_threads()}, bf16 matrix products: {'yes' if cpu_has_bf16() else 'no'}")
    )
    found.append(("free memory", f"{available_memory_bytes(torch.device('cpu')) / 2**30:.1f} GiB"))
    return names, found


def _existing_parent() -> str:
    folder = models_folder()
    while not folder.exists():
        folder = folder.parent
    return str(folder)
