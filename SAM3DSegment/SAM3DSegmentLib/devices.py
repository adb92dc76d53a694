"""Which device and number format to compute with."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from pathlib import Path

import torch

from .errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1" or "mps" -> a device that is really there, else InputError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r} is unknown; use auto, cpu, cuda or mps.") from error
    usable = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not usable.get(device.type, False):
        raise InputError(f"device {name!r} is not there; use auto or cpu, or see `sam3dsegment doctor`.")
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto", "fp32", "bf16" or "fp16" -> the type of weights and activations on `device`.

    "auto" takes a half type only where the hardware multiplies in it: elsewhere it is emulated, several times slower.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32
    if name not in PRECISIONS:
        raise InputError(f"precision {name!r} is unknown; use auto, {', '.join(PRECISIONS)}.")
    if name == "fp16" and device.type == "cpu":
        raise InputError("precision 'fp16' is not for the CPU; use bf16 or fp32 there.")
    return PRECISIONS[name]


def cpu_has_bf16() -> bool:
    """True where the processor has bf16 matrix instructions (AMX, AVX512-BF16, or Arm's)."""
    if platform.machine() in ("arm64", "aarch64"):
        return False  # oneDNN's Arm kernels were never measured here
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


def cpu_has_amx() -> bool:
    """True where the processor multiplies bf16 matrices in tiles (AMX), which torch's fused attention uses."""
    with contextlib.suppress(OSError):
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return False


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next tensor instead of giving it back to the system each time.

    Without it every large activation is paged in anew: a third of the time of a training step was spent in the kernel.
    Only for processes that do nothing else; elsewhere than on Linux it does nothing.
    """
    if platform.system() == "Linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_ARENA_MAX, 1)  # the arenas of other threads are too small for tensors without mmap
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_memory_bytes(device: torch.device) -> int:
    """Memory that can be taken now, in bytes; 4 GiB where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(ImportError):
        import psutil

        return int(psutil.virtual_memory().available)
    return 4 * 2**30
