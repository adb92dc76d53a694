"""Commands end when their standard input does, behind a launcher that passes no signal on, whatever they are doing.

Each test starts the real command as 3D Slicer does: a launcher waits for the real Python, and the input is a pipe.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, MODULE
from SAM3DSegmentLib import cli
from SAM3DSegmentLib.model_store import read_card

STOP_S = 20.0  # on a free computer 2; what is stopped here would go on for minutes, or for ever
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"


def is_running(process_id):
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def launched(*python_arguments, **environment):
    """(launcher, process id of the real Python) of `python ARGUMENTS`, with a pipe for its input; killed at the end."""
    command = [sys.executable, "-c", LAUNCHER, *map(str, python_arguments)]
    variables = {"PYTHONPATH": str(MODULE), "SAM3DSEGMENT_STOP_AT_EOF": "1", "OMP_NUM_THREADS": "1", **environment}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    ) as launcher:
        process_id = json.loads(launcher.stdout.readline())["process_id"]
        assert process_id != launcher.pid
        try:
            yield launcher, process_id
        finally:
            if is_running(process_id):
                psutil.Process(process_id).kill()


def assert_it_stops(launcher, process_id):
    """Within STOP_S of the end of its input, as cancelled and without a traceback."""
    began = time.monotonic()
    launcher.stdin.close()
    code = launcher.wait(60)
    seconds = time.monotonic() - began
    errors = launcher.stderr.read()
    assert not is_running(process_id)
    assert seconds < STOP_S
    assert "Traceback" not in errors
    assert code == 130, errors


def wait_until(condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 120
        time.sleep(0.02)


def command(*arguments):
    return ("-m", "SAM3DSegmentLib", *arguments)


@pytest.fixture
def large(tmp_path):
    """A volume that keeps a CPU busy for minutes."""
    path = tmp_path / "large.nrrd"
    array = np.random.default_rng(0).integers(0, 200, (400, 64, 64)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


@pytest.mark.parametrize("wait_s", [0, 0.4, 1.0])
def test_segment_stops_while_it_imports_and_loads(large, tmp_path, wait_s):
    with launched(*command("segment", large, "-o", tmp_path / "out.nrrd", "--progress", "json")) as (launcher, pid):
        time.sleep(wait_s)
        assert_it_stops(launcher, pid)
    assert [path.name for path in tmp_path.iterdir()] == [large.name]


@pytest.mark.slow
def test_segment_stops_while_it_computes_and_removes_the_folder_of_the_program_that_began_it(large, tmp_path):
    folder, other = tmp_path / "SAM3DSegment-abc", tmp_path / "precious"
    for path in (folder, other):
        path.mkdir()
        (path / "volume.nrrd").write_bytes(large.read_bytes())
    arguments = command("segment", folder / "volume.nrrd", "-o", folder / "out.nrrd", "--progress", "json")
    with launched(*arguments, SAM3DSEGMENT_TEMPORARY_FOLDER=str(folder)) as (launcher, pid):
        assert "segment" in launcher.stdout.readline()
        assert_it_stops(launcher, pid)
    assert not folder.exists()
    with launched(*arguments, SAM3DSEGMENT_TEMPORARY_FOLDER=str(other)) as (launcher, pid):
        assert_it_stops(launcher, pid)
    assert list(other.iterdir())


def test_an_interrupt_that_came_out_of_an_import_as_another_error_cancels():
    """As Python 3.10 and 3.11 have it, when one comes while a class is made."""

    class Interrupted:
        def __set_name__(self, owner, name):
            raise KeyboardInterrupt

    def import_something(_options):
        try:
            type("Made", (), {"field": Interrupted()})
        except KeyboardInterrupt as error:  # newer ones
            raise RuntimeError("Error calling __set_name__") from error

    assert cli._run(argparse.Namespace(run=import_something)) == 130


def test_a_download_stops_while_the_server_says_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        arguments = command("weights", "download", "--progress", "json")
        with launched(*arguments, SAM3DSEGMENT_WEIGHTS_URL=url) as (launcher, pid), server.accept()[0]:
            assert_it_stops(launcher, pid)
    assert not list((tmp_path / "user-weights").iterdir())


def test_verify_stops(tmp_path):
    checkpoint = tmp_path / "huge.pth"
    with open(checkpoint, "wb") as file:
        file.truncate(2**40)
    with launched(*command("weights", "verify", "--file", checkpoint)) as (launcher, pid):
        time.sleep(0.5)
        assert_it_stops(launcher, pid)


def train_command(folder, model):
    """Of ten minutes, with small steps."""
    settings = {"image_size": 32, "channels": [256, 16, 16, 8, 8], "validation_cases": 1, "encoder": "compact_vit"}
    (folder / "settings.json").write_text(json.dumps(settings))
    arguments = command("train", "--data", HIPPOCAMPUS, "-o", model, "--minutes", "10", "--progress", "json")
    return (*arguments, "--config", folder / "settings.json", "--device", "cpu")


@pytest.mark.slow
def test_train_stops(tmp_path):
    model = tmp_path / "out" / "m.sam3d"
    model.parent.mkdir()
    with launched(*train_command(tmp_path, model)) as (launcher, pid):
        while "train" not in (line := launcher.stdout.readline()):
            assert line, launcher.stderr.read()
        assert_it_stops(launcher, pid)
    assert not list(model.parent.glob("*partial*"))
    assert not model.exists()


@pytest.mark.slow
def test_train_finishes_early_with_a_model_when_it_is_asked_to(tmp_path):
    model = tmp_path / "m.sam3d"
    with launched(*train_command(tmp_path, model)) as (launcher, _pid):
        while "train" not in (line := launcher.stdout.readline()):
            assert line, launcher.stderr.read()
        for part in ("fin", "ish\n"):
            launcher.stdin.write(part)
            launcher.stdin.flush()
        lines = launcher.stdout.readlines()
        assert launcher.wait(60) == 0, launcher.stderr.read()
    assert [json.loads(line)["event"] for line in lines if "event" in line][-2:] == ["validation", "report"]
    assert 0 < read_card(model).training.steps < 100
    assert "result" in json.loads((tmp_path / "m.training" / "run.json").read_text())


@pytest.fixture
def noise(tmp_path):
    """A folder with a label map whose surface is everywhere: distances on it take minutes."""
    array = np.random.default_rng(0).integers(0, 2, (250, 250, 250)).astype(np.uint8)
    (tmp_path / "labels").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "labels" / "a.nrrd"))
    return tmp_path / "labels"


@pytest.mark.slow
def test_evaluate_stops_while_it_compares(noise, tmp_path):
    arguments = command("evaluate", "--predictions", noise, "--labels", noise, "--csv", tmp_path / "out.csv")
    with launched(*arguments) as (launcher, pid):
        wait_until(lambda: psutil.Process(pid).memory_info().rss > 700 * 2**20)  # all is loaded, and distances begun
        assert_it_stops(launcher, pid)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM")
def test_a_request_to_terminate_is_heard_by_commands_that_never_ask(noise):
    with launched(*command("evaluate", "--predictions", noise, "--labels", noise)) as (launcher, pid):
        wait_until(lambda: psutil.Process(pid).memory_info().rss > 100 * 2**20)
        psutil.Process(pid).terminate()
        assert launcher.wait(60) == 130
        assert launcher.stderr.read() == "WARNING: cancelled.\n"


def measuring(process_id):
    """The children of bench that measure; it has others, such as those that ask the system for its name."""
    found = []
    for child in psutil.Process(process_id).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "measure_volume" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


@pytest.mark.slow
def test_bench_stops_with_the_process_that_it_measures():
    with launched(*command("bench", "volume", "--slices", "2000", "--device", "cpu")) as (launcher, pid):
        wait_until(lambda: measuring(pid))
        (measured,) = measuring(pid)
        assert_it_stops(launcher, pid)
        wait_until(lambda: not is_running(measured))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_what_bench_measures_stops_even_if_bench_is_killed():
    with launched(*command("bench", "volume", "--slices", "2000", "--device", "cpu")) as (_launcher, pid):
        wait_until(lambda: measuring(pid))
        (measured,) = measuring(pid)
        psutil.Process(pid).kill()
        wait_until(lambda: not is_running(measured))


def test_doctor_stops_while_it_measures():
    with launched(*command("doctor", "--model", "hippocampus-mri")) as (launcher, pid):
        wait_until(lambda: psutil.Process(pid).memory_info().rss > 250 * 2**20)  # torch is there
        assert_it_stops(launcher, pid)


BUSY = """
from SAM3DSegmentLib.base.stop import stop_at_end_of_input
stop_at_end_of_input()
from pathlib import Path
from SAM3DSegmentLib.base.files import written_whole
with written_whole(Path({path!r})) as partial:
    partial.write_text("half")
    print("at work", flush=True)
    {work}
"""


WORK = {
    "waiting": "import time; time.sleep(600)",
    "Python": "while True: pass",
    "library": "import zlib; zlib.compress(bytes(10**9), 9); zlib.compress(bytes(10**9), 9)",
    "deaf": "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)",
}


@pytest.mark.parametrize("work", WORK)
def test_whatever_it_does_it_stops_and_leaves_no_partial_file(tmp_path, work):
    with launched("-c", BUSY.format(path=str(tmp_path / "out.txt"), work=WORK[work])) as (launcher, pid):
        assert launcher.stdout.readline() == "at work\n"
        began = time.monotonic()
        launcher.stdin.close()
        launcher.wait(60)
        assert time.monotonic() - began < STOP_S
        assert not is_running(pid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_terminal_has_nothing_of_it():
    """Without the variable nothing is written first, and the end of input means nothing."""
    source = (
        "from SAM3DSegmentLib.base import stop; stop.stop_at_end_of_input(); import time; time.sleep(2); print('here')"
    )
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    started = [sys.executable, "-c", source]
    result = subprocess.run(started, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    assert result.stdout == "here\n"
