"""The computing process and the job around it: real launchers, real children, real ends of them."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import slicer
from panel_fixtures import JOB_CLASSES, STOP_S, add_volume, is_running, seconds_until_gone, temporary_folders

import host
from SAM3DSegmentLib.bridge.logic import startSegment
from SAM3DSegmentLib.bridge.scene import segmentations
from SAM3DSegmentLib.bridge.worker import CommandProcess

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "SAM3DSegment" / "Resources" / "SampleData" / "hippocampus_015.nii.gz"
TIMEOUT_S = 180

# A stubborn child behind a launcher: it says who it is, and ends neither at the end of its input nor when asked to.
STUBBORN = """
import subprocess, sys
if "child" not in sys.argv:
    sys.exit(subprocess.call([sys.executable, __file__, "child"]))
import json, os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"process_id": os.getpid()}), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _cold(monkeypatch):
    """As in Slicer: the child starts with nothing imported."""
    monkeypatch.setenv("SLICER_HOST_COLD", "1")


class Ends:
    """Callbacks that remember what they were called with."""

    def __init__(self):
        self.lines, self.calls = [], []

    def run(self, **options):
        process = CommandProcess(
            ["models", "list"],
            options.get("onLine", self.lines.append),
            lambda: self.calls.append("finished"),
            lambda message: self.calls.append(message),
            lambda: self.calls.append("cancelled"),
            options.get("folder"),
        )
        process.start()
        return process

    def wait(self):
        assert host.pump(lambda: self.calls, TIMEOUT_S)
        [call] = self.calls
        return call


def start(volume, model, **callbacks):
    """A job whose end is appended to the list that is returned with it."""
    ended = []
    job = startSegment(
        volume,
        model=model,
        device="cpu",
        onFinished=ended.append,
        onFailed=ended.append,
        onCancelled=lambda: ended.append("cancelled"),
        **callbacks,
    )
    return job, ended


@pytest.fixture
def large_volume():
    """Enough slices for a tiny model to work on for a while."""
    array = np.random.default_rng(0).normal(size=(3000, 40, 40)).astype(np.float32)
    return add_volume(array, np.diag([1.0, 1.0, 1.0, 1.0]))


@pytest.mark.slow
def test_a_child_that_ends_neither_by_itself_nor_by_its_launcher_is_killed(use_program):
    use_program(STUBBORN)
    ends = Ends()
    process = ends.run()
    assert host.pump(process.childId, TIMEOUT_S)
    child = process.childId()
    began = time.monotonic()
    process.cancel()
    assert ends.wait() == "cancelled"
    assert not is_running(child)
    assert time.monotonic() - began < STOP_S


def test_abandoning_leaves_no_process_and_calls_nobody(use_program):
    use_program(STUBBORN)
    ends = Ends()
    process = ends.run()
    assert host.pump(process.childId, TIMEOUT_S)
    child = process.childId()
    began = time.monotonic()
    process.abandon()
    assert not is_running(child)
    assert time.monotonic() - began < STOP_S
    host.process_events()
    assert ends.calls == []


def test_a_killed_child_is_told_by_its_launcher_and_taken_for_a_lack_of_memory(use_program):
    use_program(
        "import sys; sys.stderr.write('error: [python-real] exit abnormally - Report the problem.'); sys.exit(1)"
    )
    ends = Ends()
    ends.run()
    assert "memory" in ends.wait()


def test_a_line_of_the_log_may_come_in_pieces_and_in_any_language(use_program):
    use_program(
        "import sys, time\n"
        "for piece in ('ERR', 'OR: the fold', 'er caf\\u00e9 is not there; make it.\\nINFO: bye'):\n"
        "    sys.stderr.buffer.write(piece.encode()); sys.stderr.flush(); time.sleep(0.2)\n"
        "sys.exit(1)"
    )
    ends = Ends()
    ends.run()
    assert ends.wait() == "the folder caf\u00e9 is not there; make it."


def test_an_exception_while_a_line_is_read_ends_the_run_with_it(use_program):
    use_program("import sys, time; print('hello', flush=True); sys.stdin.read()")
    ends = Ends()

    def read(line):
        raise KeyError(line)

    ends.run(onLine=read)
    message = ends.wait()
    assert "unexpected error: KeyError" in message
    assert "hello" in message


def test_a_program_that_cannot_be_started_is_an_error(monkeypatch):
    from SAM3DSegmentLib.bridge import worker

    monkeypatch.setattr(worker, "pythonExecutable", lambda: "/nowhere/PythonSlicer")
    ends = Ends()
    ends.run()
    assert "'/nowhere/PythonSlicer' could not be started" in ends.wait()


def test_no_file_of_the_current_folder_is_taken_for_a_library(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong json')")
    monkeypatch.chdir(tmp_path)
    ends = Ends()
    ends.run()
    call = ends.wait()
    assert "wrong json" not in call
    assert any(line.startswith("hippocampus-mri ") for line in ends.lines), call


@pytest.mark.slow
def test_the_child_works_in_its_folder_with_bare_names(array, tiny_model, tmp_path, monkeypatch):
    folder = tmp_path / "\u6587\u4ef6 caf\u00e9"
    folder.mkdir()
    monkeypatch.setattr(slicer.app, "temporaryPath", str(folder))
    job, ended = start(add_volume(array, np.eye(4)), tiny_model)
    assert host.pump(job.childId, TIMEOUT_S)
    child = psutil.Process(job.childId())
    assert Path(child.cwd()).parent == folder
    assert not [word for word in child.cmdline() if str(folder) in word]
    assert child.environ()["PYTHONUTF8"] == "1"
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert ended[0].IsA("vtkMRMLSegmentationNode"), ended
    assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["starting", "computing"])
def test_cancel_ends_the_computing_process(large_volume, tiny_model, stage):
    lines = []
    job, ended = start(large_volume, tiny_model, onProgress=lambda *values: lines.append(values))
    assert host.pump(lambda: lines if stage == "computing" else job.childId(), TIMEOUT_S)
    child = job.childId()
    began = time.monotonic()
    job.cancel()
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert time.monotonic() - began < STOP_S
    assert ended == ["cancelled"]
    assert not is_running(child)
    assert not temporary_folders()


def test_cancel_before_the_child_starts(array, tiny_model):
    job, ended = start(add_volume(array, np.eye(4)), tiny_model)
    job.cancel()
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert ended == ["cancelled"]
    assert not host.child_processes()
    assert not temporary_folders()


@pytest.mark.slow
def test_a_job_needs_nobody_to_keep_it(array, tiny_model):
    ended = start(add_volume(array, np.eye(4)), tiny_model)[1]
    gc.collect()
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert ended[0].IsA("vtkMRMLSegmentationNode"), ended


DYING = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import host
host.install()
import numpy as np, slicer
sys.path.insert(0, sys.argv[2])
from SAM3DSegmentLib.bridge.logic import startSegment
slicer.app.temporaryPath = sys.argv[4]
array = np.random.default_rng(0).normal(size=(3000, 40, 40)).astype(np.float32)
lines = []
job = startSegment(slicer.util.addVolumeFromArray(array), model=sys.argv[3], device="cpu",
                   onProgress=lambda *values: lines.append(values))
assert host.pump(lambda: lines, 180)
print(job.childId(), flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_when_slicer_dies_the_computing_process_and_its_files_go(tiny_model, tmp_path):
    command = [sys.executable, "-c", DYING, ROOT / "Testing" / "Host", ROOT / "SAM3DSegment", tiny_model, tmp_path]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert list(tmp_path.glob("SAM3DSegment-*"))
        parent.send_signal(signal.SIGKILL)
        assert seconds_until_gone(child) < STOP_S
    assert not list(tmp_path.glob("SAM3DSegment-*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_child_killed_from_outside_is_a_crash(large_volume, tiny_model):
    lines = []
    job, ended = start(large_volume, tiny_model, onProgress=lambda *values: lines.append(values))
    assert host.pump(lambda: lines, TIMEOUT_S)
    os.kill(job.childId(), signal.SIGKILL)
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert "memory" in ended[0]
    assert not temporary_folders()


@pytest.mark.slow
def test_an_exception_in_delivery_is_a_failure_that_leaves_nothing(array, tiny_model, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(segmentations, "writeSegments", fail)
    _job, ended = start(add_volume(array, np.eye(4)), tiny_model)
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert "unexpected error: RuntimeError: no such luck" in ended[0]
    assert not temporary_folders()


def test_an_exception_in_a_callback_of_progress_ends_the_run(array, tiny_model):
    def fail(*values):
        raise ValueError(json.dumps(values))

    _job, ended = start(add_volume(array, np.eye(4)), tiny_model, onProgress=fail)
    assert host.pump(lambda: ended, TIMEOUT_S)
    assert "unexpected error: ValueError" in ended[0]
    assert not host.child_processes()


@pytest.mark.slow
def test_ended_jobs_leave_nothing_in_memory(array, tiny_model):
    """20 of them, most cancelled at once for speed; each holds a volume of 16 MB while it lasts."""
    large = add_volume(np.zeros((64, 256, 256), np.float32), np.eye(4))
    small = add_volume(array, np.eye(4))
    kept = []  # scripts may keep a job for ever

    def run(volume, cancel):
        job, ended = start(volume, tiny_model)
        kept.append(job)
        if cancel:
            job.cancel()
        assert host.pump(lambda: ended, TIMEOUT_S)

    for _ in range(3):
        run(large, cancel=True)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(15):
        run(large, cancel=True)
    assert psutil.Process().memory_info().rss - before < 2 * 2**24
    run(small, cancel=False)
    kept.append(start(small, "hippocampus-mri")[0])
    kept[-1].abandon()
    host.process_events()
    assert not host.objects_alive("Request")
    kept.clear()
    assert {name: len(host.objects_alive(name)) for name in JOB_CLASSES} == dict.fromkeys(JOB_CLASSES, 0)
