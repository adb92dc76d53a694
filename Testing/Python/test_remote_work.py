"""What is computed on another computer is what would be computed here, and nothing stays there. A real sshd answers."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, MODULE, MRI, write_dicom
from far_computer import ALIAS, needs_sshd, wait_until
from SAM3DSegmentLib.model_store import read_card

pytestmark = [needs_sshd, pytest.mark.slow]


@pytest.fixture
def child(far):
    """child("segment", ...) -> Popen of the command with --remote, as 3D Slicer starts it; killed at the end."""
    started = []

    def start(*arguments, remote=("--remote", ALIAS)):
        command = [sys.executable, "-m", "SAM3DSegmentLib", *map(str, arguments), *remote]
        variables = {"PYTHONPATH": str(MODULE), "SAM3DSEGMENT_STOP_AT_EOF": "1", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **variables}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def read_until(process, word):
    """The lines of its output up to one with this word."""
    lines = []
    while word not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
        lines.append(line)
    return [*lines, line]


def ssh_of(process):
    [ssh] = [found for found in psutil.Process(process.pid).children() if "ssh" in found.name()]
    return ssh


@pytest.fixture
def large(tmp_path):
    """A volume that keeps a CPU busy for minutes."""
    path = tmp_path / "large.nrrd"
    array = np.random.default_rng(0).integers(0, 200, (400, 64, 64)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def test_one_volume_gives_the_same_files(there, run_cli, far, d, tiny):
    """Mask, confidence and record; the model is sent once, and other files are not kept."""
    received = far.home / "cache" / "received"
    shutil.rmtree(received, ignore_errors=True)  # of other tests
    shutil.copy(MRI, d / "v.nii.gz")
    outputs = ("-o", "m.seg.nrrd", "--confidence", "c.nrrd", "--report", "r.json", "--table", "t.csv")
    arguments = ("segment", "v.nii.gz", *outputs, "--model", tiny, "--device", "cpu", "--progress", "json")
    assert run_cli(*arguments).returncode == 0
    here = {path.name: path.read_bytes() for path in d.iterdir() if path.name != "v.nii.gz"}
    for name in here:
        (d / name).unlink()
    done = there(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"{ALIAS}: SAM3DSegment" in done.stderr
    assert "v.nii.gz -> m.seg.nrrd in " in done.stderr
    assert "@" not in done.stderr
    made = {path.name: path.read_bytes() for path in d.iterdir() if path.name != "v.nii.gz"}
    assert made.keys() == here.keys()
    assert made["c.nrrd"] == here["c.nrrd"]
    assert made["m.seg.nrrd"] == here["m.seg.nrrd"]
    [record], [former] = (json.loads(files["r.json"])["segmented"] for files in (made, here))
    differing = {key for key in record | former if record.get(key) != former.get(key)}
    assert differing <= {"seconds", "date"}
    stages = [json.loads(line).get("stage") for line in done.stdout.splitlines()]
    assert stages[0] == "send"
    assert stages[-1] == "segment"
    assert [path.stat().st_size for path in received.iterdir()] == [tiny.stat().st_size]
    again = there(*arguments, "--overwrite")
    sent = [json.loads(line)["total"] for line in again.stdout.splitlines() if '"send"' in line]
    assert sent[0] == MRI.stat().st_size


def test_a_folder_is_done_volume_by_volume(there, run_cli, d, tiny):
    """DICOM series and volumes in two files too; one that fails is noted, and one that is there stays."""
    image = sitk.ReadImage(str(MRI))
    (d / "in").mkdir()
    (d / "in" / "bad.nii").write_bytes(b"no image")
    sitk.WriteImage(image, str(d / "in" / "pair.nhdr"))
    arguments = ("--model", tiny, "--device", "cpu", "--report", "r.json")
    done = there("segment", "in", "-o", "out", *arguments)
    assert done.returncode == 1, done.stderr
    assert "in/bad.nii" in done.stderr
    assert "1 segmented, 0 already there, 1 failed" in done.stderr
    write_dicom(d / "series", sitk.Cast(image, sitk.sitkInt16))
    assert there("segment", "series", "-o", "s.nrrd", *arguments[:4]).returncode == 0
    assert run_cli("segment", d / "in" / "pair.nhdr", "-o", "p.seg.nrrd", *arguments[:4]).returncode == 0
    assert (d / "p.seg.nrrd").read_bytes() == (d / "out" / "pair.seg.nrrd").read_bytes()
    assert not list((d / "out").glob(".*"))


def test_what_fails_there_is_one_line_in_the_paths_of_here(there, d, tiny):
    (d / "v.nii.gz").write_bytes(MRI.read_bytes()[:5000])
    done = there("segment", "v.nii.gz", "-o", "m.nrrd", "--model", tiny)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert line.startswith(f"ERROR: on '{ALIAS}': 'v.nii.gz' is ")
    assert [path.name for path in d.iterdir()] == ["v.nii.gz"]


def test_cancel_ends_the_far_side(child, far, large, tmp_path):
    process = child("segment", large, "-o", tmp_path / "o.nrrd", "--progress", "json")
    read_until(process, '"segment"')
    assert far.processes()
    process.stdin.close()
    assert process.wait(60) == 130
    wait_until(far.is_clean)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "o"))] == []


@pytest.mark.parametrize("moment", ['"send"', '"segment"'])
def test_a_killed_ssh_leaves_nothing_and_one_line(child, far, large, tmp_path, moment):
    process = child("segment", large, "-o", tmp_path / "o.nrrd", "--progress", "json")
    read_until(process, moment)
    ssh_of(process).kill()
    assert process.wait(120) == 1
    errors = [line for line in process.stderr.read().splitlines() if line.startswith("ERROR")]
    assert errors == [f"ERROR: the connection to '{ALIAS}' was lost; nothing is left there; run the command again."]
    wait_until(far.is_clean)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "o"))] == []


def test_nothing_is_left_there_if_this_end_or_the_far_end_is_killed(child, far, large, tmp_path):
    process = child("segment", large, "-o", tmp_path / "o.nrrd", "--progress", "json")
    read_until(process, '"segment"')
    process.kill()
    wait_until(far.is_clean)
    process = child("segment", large, "-o", tmp_path / "o.nrrd", "--progress", "json")
    read_until(process, '"segment"')
    [serving] = [found for found in far.processes() if "serve-stdio" in found.cmdline()[-1]]
    serving.kill()
    assert process.wait(120) == 1
    wait_until(far.is_clean)


def test_doctor_tells_of_the_far_computer(there, tiny):
    done = there("doctor", "--model", tiny)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:2] == [ALIAS, "SAM3DSegment"]
    assert "s per slice with" in done.stdout
    found = json.loads(there("doctor", "--json").stdout)
    assert found["findings"][0][0] == ALIAS
    assert found["devices"][:2] == ["auto", "cpu"]


def test_complete_gives_the_same_file(there, run_cli, d):
    image, labels = (sitk.ReadImage(str(path)) for path in (MRI, MRI.with_name("hippocampus_015_label.nii.gz")))
    array = sitk.GetArrayFromImage(labels)
    array[[k for k in range(len(array)) if k % 4]] = 0
    painted = sitk.GetImageFromArray(array)
    painted.CopyInformation(image)
    sitk.WriteImage(painted, str(d / "painted.nrrd"))
    for run, name in ((run_cli, "here.seg.nrrd"), (there, "there.seg.nrrd")):
        done = run("complete", MRI, "painted.nrrd", "-o", name, "--device", "cpu")
        assert done.returncode == 0, done.stderr
    assert (d / "here.seg.nrrd").read_bytes() == (d / "there.seg.nrrd").read_bytes()


# ---- training


@pytest.fixture
def training(d):
    """Arguments of a short training on real cases."""
    settings = {"image_size": 32, "channels": [256, 16, 16, 8, 8], "validation_cases": 1, "encoder": "compact_vit"}
    (d / "settings.json").write_text(json.dumps(settings))
    return ("train", "--data", HIPPOCAMPUS, "--config", "settings.json", "--device", "cpu", "--progress", "json")


def test_a_training_brings_its_model_and_its_report(there, far, d, training):
    done = there(*training, "-o", "m.sam3d", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert read_card(d / "m.sam3d").training.steps > 0
    assert {"run.json", "report.html"} <= {path.name for path in (d / "m.training").iterdir()}
    events = [json.loads(line) for line in done.stdout.splitlines() if '"event"' in line]
    assert events[-1] == {"event": "report", "file": "m.training/report.html"}
    assert {path.name for path in d.iterdir()} == {"settings.json", "m.sam3d", "m.training"}
    kept = len(list((far.home / "cache" / "received").iterdir()))
    again = there(*training, "-o", "m.sam3d", "--epochs", "1", "--overwrite")
    assert again.returncode == 0, again.stderr
    sent = [json.loads(line)["total"] for line in again.stdout.splitlines() if '"send"' in line]
    assert sent[0] < 1000  # the settings; no case is sent twice
    assert kept == len(list((far.home / "cache" / "received").iterdir()))
    assert there(*training, "-o", "m.sam3d").returncode == 1  # there is one already


def test_a_detached_training_outlasts_its_connection(child, there, far, d, training):
    process = child(*training, "-o", "m.sam3d", "--epochs", "3", "--detach")
    read_until(process, '"train"')
    ssh_of(process).kill()
    assert process.wait(120) == 1
    assert "the training goes on there; fetch it with --resume." in process.stderr.read()
    assert far.processes()
    refused = subprocess.run(
        [sys.executable, "-m", "SAM3DSegmentLib", *map(str, training), "-o", "m.sam3d", "--remote", ALIAS],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(MODULE)},
    )  # fmt: skip
    assert "was begun on 'gpu'; fetch it with --resume" in refused.stderr
    done = there(*training, "-o", "m.sam3d", "--resume")
    assert done.returncode == 0, done.stderr
    assert '"train"' in done.stdout
    assert {path.name for path in d.iterdir()} == {"settings.json", "m.sam3d", "m.training"}
    assert not list((far.home / "cache" / "trainings").iterdir())


def test_a_detached_training_goes_on_after_a_restart_and_ends_when_it_is_cancelled(child, far, d, training):
    process = child(*training, "-o", "m.sam3d", "--minutes", "10", "--detach")
    read_until(process, '"train"')
    ssh_of(process).kill()
    process.wait(120)
    for found in far.processes():
        found.kill()
    wait_until(lambda: not far.processes())
    process = child(*training, "-o", "m.sam3d", "--resume")
    for _twice in range(2):  # what was said before, and what is said now
        read_until(process, '"look"')
        read_until(process, '"train"')
    process.stdin.close()
    assert process.wait(60) == 130
    wait_until(lambda: far.is_clean() and not list((far.home / "cache" / "trainings").iterdir()))
    assert {path.name for path in d.iterdir()} == {"settings.json"}


# ---- memory

MEGABYTES = int(os.environ.get("SAM3DSEGMENT_REMOTE_MB", "100"))  # of the volume; 1000 to measure, in some minutes


def peaks_of(process, others):
    """Peak memory in MB of a process and its children, and of each of the processes that `others` gives, by name."""
    peaks = {}
    while process.poll() is None:
        for found in (psutil.Process(process.pid), *others()):
            with contextlib.suppress(psutil.Error, OSError, IndexError, ValueError):  # it has just ended
                status = Path(f"/proc/{found.pid}/status").read_text()
                [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
                name = "near" if found.pid == process.pid else found.cmdline()[3]
                peaks[name] = max(peaks.get(name, 0), int(line.split()[1]) / 1000)
        time.sleep(0.05)
    return peaks


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_large_volume_takes_no_more_memory_on_either_side(child, far, tmp_path, tiny):
    """The peak is 300 MB above that of the same command without --remote at most, both here and there."""
    shape = (MEGABYTES * 10**6 // (2 * 512 * 512), 512, 512)
    voxels = np.random.default_rng(0).integers(0, 1000, shape, np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "v.nrrd"))
    arguments = ("segment", tmp_path / "v.nrrd", "--model", tiny, "--device", "cpu", "--progress", "none")
    local = child(*arguments, "-o", tmp_path / "here.nrrd", remote=())
    alone = peaks_of(local, list)["near"]
    assert local.returncode == 0, local.stderr.read()
    process = child(*arguments, "-o", tmp_path / "there.nrrd")
    peaks = peaks_of(process, far.processes)
    assert process.returncode == 0, process.stderr.read()
    logging.getLogger(__name__).info("%d MB: %.0f MB alone; %s", MEGABYTES, alone, peaks)
    assert (tmp_path / "here.nrrd").read_bytes() == (tmp_path / "there.nrrd").read_bytes()
    assert {"near", "serve-stdio", "segment"} <= peaks.keys()
    assert peaks["near"] < alone + 300
    assert peaks["serve-stdio"] + peaks["segment"] < alone + 300
