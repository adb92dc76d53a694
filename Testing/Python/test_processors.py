"""How the program shares the processor with others: waiting threads sleep, and there are no more than may run."""

import math
import os
import re
import subprocess
import sys

import pytest

from conftest import MODULE
from SAM3DSegmentLib.base import processors
from SAM3DSegmentLib.base.processors import PASSIVE, THREADS, WAITING, processor_quota, share_processors


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in (*WAITING, THREADS):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)


def display_of_openmp(**environment):
    """What the OpenMP that torch has loaded says of its settings, after a command of the command line."""
    variables = {**os.environ, "PYTHONPATH": str(MODULE), "OMP_DISPLAY_ENV": "VERBOSE", **environment}
    run = "from SAM3DSegmentLib.cli import main; main(['cache', 'info']); import torch"
    command = [sys.executable, "-c", run]
    said = subprocess.run(command, capture_output=True, text=True, env=variables).stderr
    assert "OPENMP DISPLAY ENVIRONMENT BEGIN" in said
    return said


@pytest.mark.skipif(sys.platform != "linux", reason="torch comes with GNU's OpenMP on Linux only")
def test_the_threads_of_the_command_line_sleep_while_they_wait():
    said = display_of_openmp()
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said
    assert "GOMP_SPINCOUNT = '0'" in said


@pytest.mark.skipif(sys.platform != "linux", reason="torch comes with GNU's OpenMP on Linux only")
def test_the_users_own_choice_is_left():
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in display_of_openmp(OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="3")


@pytest.mark.parametrize("name", WAITING)
def test_one_variable_of_the_user_is_a_choice(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    share_processors()
    assert [other for other in WAITING if other in os.environ] == [name]


@pytest.mark.parametrize(
    ("quota", "expected"), [(math.inf, None), (4, None), (1e9, None), (2.5, "3"), (2, "2"), (0.25, "1")]
)
def test_threads_are_as_many_as_the_quota_of_the_container(monkeypatch, quota, expected):
    monkeypatch.setattr(processors, "processor_quota", lambda: quota)
    monkeypatch.setattr(processors, "_allowed_processors", lambda: 4)
    share_processors()
    assert os.environ.get(THREADS) == expected
    assert {name: os.environ[name] for name in PASSIVE} == PASSIVE
    monkeypatch.setenv(THREADS, "7")
    share_processors()
    assert os.environ[THREADS] == "7"


def write(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu.max": "nonsense\n"}, math.inf),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),  # of the group around
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "150000 100000\n"}, 0.5),
        (
            "3:cpu,cpuacct:/a\n1:memory:/b\n",
            {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
    ],
)
def test_the_quota_is_read_of_both_versions_of_control_groups(tmp_path, groups, files, expected):
    write(tmp_path, "proc/self/cgroup", groups)
    for path, text in files.items():
        write(tmp_path, f"sys/fs/cgroup/{path}", text)
    assert processor_quota(tmp_path) == expected


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert processor_quota(tmp_path) == math.inf


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors are given to processes on Linux only")
def test_a_process_that_may_use_one_processor_computes_with_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from SAM3DSegmentLib.base.processors import share_processors; share_processors()\n"
        "import torch; print(torch.get_num_threads())"
    )
    variables = {**os.environ, "PYTHONPATH": str(MODULE)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True)
    assert re.fullmatch(r"1\s*", result.stdout)
