"""Which device and number format to compute with, and how much memory there is for it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import logging
import platform
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import DependencyError, InputError

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """ "auto", "cpu", "cuda", "cuda:1" or "mps" -> a device that exists and computes correctly, else InputError.

    "auto" takes the first of CUDA, MPS and CPU.
    """
    check_numpy()
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        for gpu in (torch.device(kind) for kind, is_there in there.items() if is_there):
            fault = fault_of(gpu)
            if not fault:
                return gpu
            logger.warning("device '%s' %s; computing on the CPU.", gpu, fault)
        return torch.device("cpu")
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
        raise InputError(f"device {name!r} is not available; use auto or cpu, or see `sam3dsegment doctor`.")
    fault = "" if device.type == "cpu" else fault_of(device)
    if fault:
        raise InputError(f"device {name!r} {fault}; update torch, or use cpu.")
    return device


def check_numpy() -> None:
    """Raises DependencyError where torch cannot take numpy's arrays: up to torch 2.2 those of numpy 2.

    2.2.2 is the last torch for Macs with an Intel processor.
    """
    try:
        torch.from_numpy(np.zeros(1))
    except RuntimeError as error:
        raise DependencyError(
            f'torch {torch.__version__} cannot work with numpy {np.__version__}; run `pip install "numpy<2"`, in '
            'Slicer `slicer.util.pip_install("numpy<2")` in the Python console, and restart it.'
        ) from error


@functools.cache
def fault_of(device: torch.device) -> str:
    """Why a GPU is not to be used, as the end of a sentence about it; "" if nothing speaks against it.

    Also makes float32 be float32 on it. Asked once per process and device: the answer takes some tenths of a second.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the first is on by default
    try:
        right = computes_like_the_cpu(device)
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            return "has no free memory"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"cannot be used by torch {torch.__version__} ({reason[0].rstrip('.')})"
    return "" if right else f"gives wrong results with torch {torch.__version__}"


def computes_like_the_cpu(device: torch.device) -> bool:
    """Compare the operations of this program with the CPU's. Raises RuntimeError if one of them is missing.

    Some versions of torch convolve volumes wrongly on MPS without an error (pytorch#141471), others lack the
    antialiased resizing; and a build of torch has no kernels for GPUs that are older or newer than it.
    """
    generator = torch.Generator().manual_seed(0)
    volume, kernel = torch.randn(2, 8, 5, 12, 12, generator=generator), torch.randn(6, 8, 3, 3, 3, generator=generator)
    tokens = torch.randn(2, 2, 16, 8, generator=generator)
    with torch.no_grad():
        expected = _sample_of_operations(volume, kernel, tokens)
        found = _sample_of_operations(*(tensor.to(device) for tensor in (volume, kernel, tokens)))
        return all(torch.allclose(one, other.cpu(), rtol=1e-3, atol=1e-3) for one, other in zip(expected, found))


def _sample_of_operations(volume: Tensor, kernel: Tensor, tokens: Tensor) -> list[Tensor]:
    last = torch.channels_last_3d
    slices, windows = volume[:, :, 0], tokens[0]
    place = torch.tensor([2, 0, 1], device=volume.device)
    return [
        F.conv3d(volume, kernel, padding=1),
        F.conv3d(volume.to(memory_format=last), kernel.to(memory_format=last), padding=1),
        F.conv3d(volume, kernel, stride=2, padding=1),
        F.conv_transpose3d(volume, kernel.transpose(0, 1)[..., :2, :2, :2].contiguous(), stride=2),
        F.conv2d(slices, kernel[:, :, 0], padding=1),
        F.group_norm(volume, 8),
        F.group_norm(volume.to(memory_format=last), 8),
        F.layer_norm(tokens, (8,)),
        F.leaky_relu(volume, 0.01),
        F.gelu(tokens),
        F.linear(tokens, windows[0, :6]),
        F.interpolate(slices, scale_factor=2, mode="bilinear", align_corners=False),
        F.interpolate(slices, scale_factor=2, mode="nearest"),
        F.interpolate(slices, (7, 9), mode="nearest-exact"),
        F.interpolate(slices, (7, 9), mode="bilinear", align_corners=False, antialias=True),
        F.scaled_dot_product_attention(tokens, tokens, tokens),
        torch.softmax(volume, 1),
        torch.bmm(windows, windows.transpose(1, 2)),
        torch.baddbmm(windows @ windows.mT, windows, windows.mT),
        torch.lerp(slices.index_select(2, place), slices.index_select(2, place + 1), 0.25),
        volume.transpose(1, 2).flip(-1).contiguous(),
    ]


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """ "auto", "fp32", "bf16" or "fp16" -> the type of weights and activations on `device`.

    "auto" takes a half type only where the hardware multiplies in it: elsewhere it is emulated, several times slower.
    """
    if name == "auto":
        if device.type == "cuda":
            # torch.cuda.is_bf16_supported() is true where bf16 is emulated, and asks the current device, not this one.
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32
    if name not in PRECISIONS:
        raise InputError(f"precision {name!r} is unknown; use auto, {', '.join(PRECISIONS)}.")
    if name == "fp16" and device.type == "cpu":
        raise InputError("precision 'fp16' is not available on the CPU; use bf16 or fp32.")
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
    """Ask glibc to keep up to a GiB of freed memory for the next tensor instead of giving it back each time.

    Without it every large activation is paged in again: a third of a training step's time was spent in the kernel.
    Only for processes that do nothing else; elsewhere than on Linux it does nothing.
    """
    if platform.system() == "Linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_ARENA_MAX, 1)  # the arenas of other threads are too small for tensors without mmap
            mallopt(_M_TRIM_THRESHOLD, 2**30)


def give_back_unused_memory() -> None:
    """What torch keeps of the GPUs' memory for the next tensor, so that others, or larger tensors, can have it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device: beside its work from pinned memory only, because other memory may be gone before it is read."""
    return tensor.to(device, non_blocking=tensor.is_pinned())


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished, so that times can be measured; a CPU has nothing pending."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def available_memory_bytes(device: torch.device) -> int:
    """Memory that tensors on `device` can take now, in bytes: free, or kept by torch for the next tensor."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if device.type == "mps":
        return _host_memory_bytes() + torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()
    return _host_memory_bytes()


def _host_memory_bytes() -> int:
    """The least of what the system has free and what the limits of this process and its container leave."""
    import psutil

    free = [int(psutil.virtual_memory().available)]
    with contextlib.suppress(ImportError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free.append(limit - psutil.Process().memory_info().vms)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        group = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = Path("/sys/fs/cgroup") / group.lstrip("/")
        limit = int((folder / "memory.max").read_text())  # ValueError: "max"
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        reclaimable = int(statistics["inactive_file"])
        free.append(limit - int((folder / "memory.current").read_text()) + reclaimable)
    return max(0, min(free))


def is_out_of_memory(error: BaseException) -> bool:
    """True if `error` means that memory ran out, on the host or a GPU, so that smaller parts may fit."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # "could not create a primitive" is oneDNN's message when a convolution finds no memory beside its tensors;
    # "failed to map segment" is that of the loader for a library that is imported late.
    texts = (
        *("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc"),
        *("create a primitive", "failed to map segment"),
    )
    return isinstance(error, (RuntimeError, ImportError)) and any(text in str(error) for text in texts)
