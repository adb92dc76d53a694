"""Which device, number format and memory are taken.

What needs a GPU is marked `gpu` and runs where CUDA is. Elsewhere the decisions alone are tested, with torch's own
questions about the hardware answered by the test; no GPU computes there.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import HIPPOCAMPUS, MODULE
from SAM3DSegmentLib.base import devices
from SAM3DSegmentLib.base.errors import DependencyError, InputError
from SAM3DSegmentLib.base.halving import RetryInHalves
from SAM3DSegmentLib.commands.evaluation import evaluate_folders
from SAM3DSegmentLib.commands.examination import examine

CPU = torch.device("cpu")
HAS_NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here: nothing was tried on a GPU")


def in_child(code):
    """Standard output of Python code in a process of its own, whose limits and allocator it may change."""
    environment = {**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(autouse=True)
def _forget_the_self_check():
    devices.fault_of.cache_clear()
    yield
    devices.fault_of.cache_clear()


@pytest.fixture
def hardware(monkeypatch):
    """Let torch say that there are such GPUs: hardware(cuda=[(7, 5), (8, 0)], mps=True)."""

    def pretend(cuda=(), mps=False, right=True):
        asked = []
        monkeypatch.setattr(devices, "computes_like_the_cpu", lambda device: asked.append(str(device)) or right)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cuda))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cuda[torch.device(device).index or 0])
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # as it says where bf16 is emulated
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return asked

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        ([], False, "auto", "cpu"),
        ([(8, 0)], False, "auto", "cuda"),
        ([(8, 0)], True, "auto", "cuda"),
        ([(7, 5), (8, 0)], False, "cuda:1", "cuda:1"),
        ([(8, 0)], False, "cpu", "cpu"),
    ],
)
def test_the_device(hardware, cuda, mps, name, expected):
    hardware(cuda, mps)
    assert str(devices.resolve_device(name)) == expected


@pytest.mark.parametrize("name", ["cuda:1", "mps", "abacus", "xpu"])
def test_a_device_that_is_not_there(hardware, name):
    hardware([(8, 0)])
    with pytest.raises(InputError, match=name):
        devices.resolve_device(name)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((8, 9), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_bf16_is_taken_where_this_very_gpu_multiplies_in_it(hardware, capability, expected):
    hardware([(8, 0), capability])
    assert str(devices.resolve_precision("auto", torch.device("cuda:1"))) == f"torch.{expected}"


def test_the_self_check_accepts_the_cpu():
    assert devices.computes_like_the_cpu(CPU)


@pytest.mark.parametrize(
    "operation",
    [
        "F.conv2d",
        "F.conv3d",
        "F.conv_transpose3d",
        "F.group_norm",
        "F.layer_norm",
        "F.leaky_relu",
        "F.gelu",
        "F.linear",
        "F.interpolate",
        "F.scaled_dot_product_attention",
        "torch.softmax",
        "torch.bmm",
        "torch.baddbmm",
        "torch.lerp",
        "Tensor.index_select",
        "Tensor.flip",
        "Tensor.contiguous",
    ],
)
def test_the_self_check_sees_wrong_numbers_of_each_operation(monkeypatch, operation):
    """The second time that it is asked, the operation errs in one number: there is no MPS here that does."""
    owner, _, name = operation.partition(".")
    module = {"F": F, "torch": torch, "Tensor": torch.Tensor}[owner]
    right = getattr(module, name)
    expected = devices._sample_of_operations
    asked = []

    def sample(*tensors):
        asked.append(tensors)
        if len(asked) == 2:

            def wrong(*arguments, **options):
                result = right(*arguments, **options).clone(memory_format=torch.contiguous_format)
                result.view(-1)[3] += 0.1
                return result

            monkeypatch.setattr(module, name, wrong)
        return expected(*tensors)

    monkeypatch.setattr(devices, "_sample_of_operations", sample)
    assert not devices.computes_like_the_cpu(CPU)
    assert len(asked) == 2


def test_the_self_check_sees_a_device_without_the_operations():
    """Tensors of the device "meta" have shapes and no numbers, so that reading them raises."""
    assert "cannot be used by torch" in devices.fault_of(torch.device("meta"))


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("gpu", ["cuda", "mps"])
def test_a_gpu_is_taken_only_after_the_self_check(hardware, caplog, right, gpu):
    asked = hardware([(8, 0)] if gpu == "cuda" else [], gpu == "mps", right)
    for _ in range(2):
        assert str(devices.resolve_device("auto")) == (gpu if right else "cpu")
    assert asked == [gpu]
    assert ("wrong results" in caplog.text) is not right
    if not right:
        with pytest.raises(InputError, match=f"'{gpu}' gives wrong results"):
            devices.resolve_device(gpu)


NO_KERNELS = RuntimeError(
    "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors ..."
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NO_KERNELS, r"cannot be used by torch \S+ \(CUDA error: no kernel image is available .* device\)"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB."), "has no free memory"),
    ],
)
def test_a_gpu_that_fails_at_the_first_operation_is_left_and_doctor_says_why(
    hardware, monkeypatch, caplog, error, reason
):
    """Such as one that is older than all that this build of torch has kernels for."""
    hardware([(5, 2)])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "GeForce GTX 970")

    def fail(device):
        raise error

    monkeypatch.setattr(devices, "computes_like_the_cpu", fail)
    assert str(devices.resolve_device("auto")) == "cpu"
    assert re.search(f"device 'cuda' {reason}; computing on the CPU", caplog.text)
    with pytest.raises(InputError, match=f"device 'cuda:0' {reason}; update torch, or use cpu"):
        devices.resolve_device("cuda:0")
    result = examine()
    assert result.devices == ["auto", "cpu"]
    assert re.search(f"GTX 970, not used: it {reason}", dict(result.findings)["cuda:0"])


def test_float32_on_cuda_is_float32(hardware):
    """By default cuDNN rounds the factors of convolutions to 10 bits, with an error a thousand times as large."""
    hardware([(8, 0)])
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        devices.resolve_device("cuda")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_what_torch_keeps_of_apples_memory_is_given_back_too(hardware, monkeypatch):
    hardware(mps=True)
    emptied = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    attempts = []

    def on_two_at_most(part):
        attempts.append(len(part))
        if len(part) > 2:
            raise RuntimeError("MPS backend out of memory")
        return part

    assert len(RetryInHalves(on_two_at_most, "{count} at a time")(torch.zeros(4))) == 4
    assert attempts == [4, 2, 2]
    assert emptied == ["mps"]


def test_memory_kept_by_the_allocator_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2000)
    assert devices.available_memory_bytes(torch.device("cuda")) == 1000 + 5000 - 2000


def test_memory_of_the_host():
    import psutil

    assert 0 < devices.available_memory_bytes(CPU) <= psutil.virtual_memory().total


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_limit_of_the_process_counts():
    code = (
        "import resource, torch, psutil; from SAM3DSegmentLib.base.devices import available_memory_bytes\n"
        "taken = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 300_000_000,) * 2)\n"
        "print(available_memory_bytes(torch.device('cpu')))\n"
    )
    assert 200_000_000 < int(in_child(code)) <= 300_000_000


def test_out_of_memory_is_recognised_when_it_really_happens():
    for allocate in (lambda: torch.empty(2**60), lambda: np.empty(2**52, np.uint8), lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as error:
            allocate()
        assert devices.is_out_of_memory(error.value), error.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libscipy_openblas.so: failed to map segment from shared object"), True),
        (ImportError("libscipy_openblas.so: cannot open shared object file: No such file or directory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert devices.is_out_of_memory(error) is expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is set on Linux only")
def test_freed_memory_is_kept_up_to_a_gibibyte():
    code = (
        "import numpy as np, psutil; from SAM3DSegmentLib.base.devices import keep_freed_memory\n"
        "keep_freed_memory(); process = psutil.Process(); before = process.memory_info().rss\n"
        "for megabytes in (300, 1300):\n"
        "    array = np.empty(megabytes * 2**20, np.uint8); array[::4096] = 1; del array\n"
        "    print((process.memory_info().rss - before) // 2**20)\n"
    )
    small, large = map(int, in_child(code).split())
    assert small > 250
    assert large < 250


def test_a_torch_that_cannot_work_with_this_numpy_is_told_in_one_line(monkeypatch):
    """torch 2.2, the last one for Macs with an Intel processor, was made for numpy 1."""

    def refuse(array):
        raise RuntimeError("Numpy is not available")

    assert devices.resolve_device("auto").type in ("cpu", "cuda", "mps")
    monkeypatch.setattr(torch, "from_numpy", refuse)
    with pytest.raises(DependencyError, match='run `pip install "numpy<2"`') as error:
        devices.resolve_device("auto")
    assert f"numpy {np.__version__}" in str(error.value)
    assert examine().problems == [str(error.value)]
    with pytest.raises(DependencyError):
        evaluate_folders(HIPPOCAMPUS / "labelsTr", HIPPOCAMPUS / "labelsTr")


@pytest.mark.gpu
@HAS_NO_GPU
def test_on_a_gpu_the_self_check_holds_and_the_memory_is_right():
    device = torch.device("cuda")
    assert devices.computes_like_the_cpu(device)
    before = devices.available_memory_bytes(device)
    block = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert before - devices.available_memory_bytes(device) == pytest.approx(2**28, rel=0.2)
    del block  # kept by torch's allocator
    assert devices.available_memory_bytes(device) == pytest.approx(before, rel=0.01)


@pytest.mark.gpu
@HAS_NO_GPU
def test_on_a_gpu_out_of_memory_is_recognised():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**44, device="cuda")
    assert devices.is_out_of_memory(error.value)
