"""What this computer offers, for people who ask why something does not run."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys

from .cache import cache_info
from .model_store import list_models, user_folder
from .weights import CHECKPOINTS, weights_folder

_PACKAGES = ("numpy", "SimpleITK", "torch", "torchvision", "segment_anything", "safetensors")
_TRAINING_PACKAGES = ("monai",)


def examine() -> tuple[list[tuple[str, str]], list[str]]:
    """(name, finding) lines, and the problems that keep segmentation from running."""
    findings = [("Python", f"{platform.python_version()} at {sys.executable}"), ("system", platform.platform())]
    problems: list[str] = []
    for name in _PACKAGES:
        finding, works = _package(name)
        findings.append((name, finding))
        if not works:
            problems.append(f"{name} {finding}; install it again with `pip install --force-reinstall {name}`.")
    for name in _TRAINING_PACKAGES:
        findings.append((name, _package(name)[0] + " (needed for training and evaluation only)"))
    if not any(problem.startswith("torch ") for problem in problems):
        findings += _devices()
    free = shutil.disk_usage(_existing_parent()).free
    findings.append(("free disk", f"{free / 2**30:.1f} GiB"))
    if free < 2**30:
        problems.append(f"only {free / 2**20:.0f} MB of disk are free; SAM's weights and embeddings need more.")
    findings.append(("models", ", ".join(path.stem for path in list_models()) or "none"))
    there = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.path.is_file()]
    findings.append(("SAM weights", f"{', '.join(there) or 'none'} in {weights_folder()}"))
    cache = cache_info()
    findings.append(("embedding cache", f"{cache.bytes / 2**20:.0f} MB in {cache.folder}"))
    return findings, problems


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


def _devices() -> list[tuple[str, str]]:
    import torch

    from .devices import available_memory_bytes, cpu_has_bf16, resolve_device, resolve_precision

    device = resolve_device("auto")
    precision = str(resolve_precision("auto", device)).removeprefix("torch.")
    found = [("device", f"{device}, computing in {precision}")]
    for index in range(torch.cuda.device_count()):
        found.append((f"cuda:{index}", torch.cuda.get_device_name(index)))
    found.append(
        ("CPU threads", f"{torch.get_num_threads()}, bf16 matrix products: {'yes' if cpu_has_bf16() else 'no'}")
    )
    found.append(("free memory", f"{available_memory_bytes(torch.device('cpu')) / 2**30:.1f} GiB"))
    return found


def _existing_parent() -> str:
    folder = user_folder()
    while not folder.exists():
        folder = folder.parent
    return str(folder)
