"""Processes killed at random moments (SIGKILL, as a power cut or the out-of-memory killer does) and run again.

Every run is a real process. They are forked from a server that has imported the heavy libraries, so that the moments
fall into the work and not into imports; moments are drawn from a fixed seed over the time of an undisturbed run.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import pytest
import safetensors.torch

from conftest import HIPPOCAMPUS, MRI
from SAM3DSegmentLib.model_file import save_model
from test_model_file import small_model
from web_server import Server

KILLS = 12
IMAGES = HIPPOCAMPUS / "imagesTr"
SETTINGS = {
    "encoder": "compact_vit",
    "image_size": 32,
    "channels": [256, 8, 8, 8, 8],
    "validation_cases": 1,
    "validations": 2,
    "training_depth": 8,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and get SIGKILL"),
]


def work(arguments, environment, log, checkpoint_sha256):
    """In the child: the command line, as `sam3dsegment` runs it."""
    os.environ.update(environment)
    with open(log, "w") as stream:
        sys.stdout = sys.stderr = stream
        from SAM3DSegmentLib.cli import main
        from SAM3DSegmentLib.sam.encoders import published

        if checkpoint_sha256:  # that of the content on the test's server: the published file is 375 MB
            object.__setattr__(published("sam_vit_b"), "sha256", checkpoint_sha256)
        code = main(arguments)
        stream.flush()
    os._exit(code)


@pytest.fixture(scope="module")
def forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "SimpleITK", "safetensors.torch", "monai", "requests", "psutil"])
    return context


@pytest.fixture
def start(forks, tmp_path):
    """start("segment", ...) -> a process that runs the command line; its output is in `process.log`."""
    environment = {key: value for key, value in os.environ.items() if key.startswith("SAM3DSEGMENT_")}
    environment["OMP_NUM_THREADS"] = "1"
    numbers = iter(range(10_000))

    def run(*arguments, checkpoint_sha256=""):
        log = tmp_path / f"log-{next(numbers)}.txt"
        process = forks.Process(target=work, args=([*map(str, arguments)], environment, log, checkpoint_sha256))
        process.start()
        process.log = log
        return process

    return run


def finish(process):
    """Exit code and output of a process that is left alone."""
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    output = process.log.read_text() if process.log.exists() else ""
    assert "Traceback" not in output, output
    return process.exitcode, output


def succeed(process):
    code, output = finish(process)
    assert code == 0, output


def kill_at(process, moment):
    """True if it was killed, False if it had ended before."""
    process.join(moment)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(process.pid, signal.SIGKILL)
        process.join(10)
    return process.exitcode == -signal.SIGKILL


def killed_runs(begin, seconds, seed, count=KILLS):
    """begin() starts a run; kill `count` of them at moments within `seconds`, and yield after each.

    A run that has ended by itself was faster than the one that was timed, as others on a machine that was busy then.
    """
    chance, killed = random.Random(seed), 0
    for _ in range(4 * count):
        moment = chance.uniform(0, seconds)
        if kill_at(begin(), moment):
            killed += 1
            yield
        else:
            seconds = moment
        if killed == count:
            return
    pytest.fail(f"only {killed} of {4 * count} runs were still at work when they were to be killed")


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def contents(folder):
    """Names and bytes of all files that a user sees; what is half-written has a hidden name."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def timed(run):
    began = time.monotonic()
    succeed(run())
    return time.monotonic() - began


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.sam3d"
    save_model(small_model(), path)
    return path


def test_segment(start, tmp_path, model):
    def segment(folder):
        folder.mkdir(exist_ok=True)
        return start("segment", MRI, "-o", folder / "x.seg.nrrd", "--model", model, "--device", "cpu", "--overwrite")

    succeed(segment(tmp_path / "warm"))
    seconds = timed(lambda: segment(tmp_path / "undisturbed"))
    expected = contents(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    for _ in killed_runs(lambda: segment(emptied(folder)), seconds, 100):
        assert contents(folder) in ({}, expected)
        succeed(segment(folder))
        assert contents(folder) == expected
        assert len(list(folder.iterdir())) == 1, "what the killed process left half-written is gone"


def test_a_result_survives_a_killed_replacement(start, tmp_path, model):
    """With --overwrite the old result stays whole until the new one is."""
    out = tmp_path / "x.nii.gz"
    command = ("segment", MRI, "-o", out, "--model", model, "--device", "cpu", "--overwrite")
    succeed(start(*command))  # the first run is slower
    seconds = timed(lambda: start(*command))
    before = out.read_bytes()
    for _ in killed_runs(lambda: start(*command), seconds, 200, 5):
        assert out.read_bytes() == before


def test_a_folder_run_goes_on_where_it_was_killed(start, tmp_path, model):
    def segment(folder):
        return start("segment", IMAGES, "-o", folder, "--model", model, "--device", "cpu")

    seconds = timed(lambda: segment(tmp_path / "undisturbed"))
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 4
    folder = tmp_path / "killed"

    def go_on():
        """Of how many volumes a mask was there."""
        there = contents(folder) if folder.exists() else {}
        assert there.items() <= expected.items()
        times = {name: (folder / name).stat().st_mtime_ns for name in there}
        succeed(segment(folder))
        assert contents(folder) == expected
        assert {name: (folder / name).stat().st_mtime_ns for name in times} == times, "what was done is not done again"
        assert len(list(folder.iterdir())) == 4
        return len(there)

    for _ in killed_runs(lambda: segment(emptied(folder)), seconds, 300):
        go_on()
    process = segment(emptied(folder))
    while process.is_alive() and not (folder.exists() and contents(folder)):
        time.sleep(0.001)
    kill_at(process, 0)
    assert go_on() > 0, "killed as soon as the first mask was there"


def test_train(start, tmp_path):
    """Killed, it goes on with --resume and ends with the weights of an undisturbed run."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(SETTINGS))

    def train(folder, *more):
        folder.mkdir(exist_ok=True)
        return start(
            *("train", "--data", HIPPOCAMPUS, "-o", folder / "m.sam3d", "--config", settings),
            *("--epochs", 3, "--device", "cpu", "--progress", "none", *more),
        )

    seconds = timed(lambda: train(tmp_path / "undisturbed"))
    expected = safetensors.torch.load_file(tmp_path / "undisturbed" / "m.sam3d")
    folder, resumed = tmp_path / "killed", 0
    for _ in killed_runs(lambda: train(emptied(folder)), seconds, 400, count=6):
        if not (folder / "m.sam3d").exists():
            code, output = finish(train(folder, "--resume"))
            resumed += code == 0
            if code:
                assert "without --resume" in output, output
                succeed(train(folder))
        found = safetensors.torch.load_file(folder / "m.sam3d")
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in expected)
        left = {path.name for path in folder.iterdir()} - {path.name for path in (tmp_path / "undisturbed").iterdir()}
        assert not left
    assert resumed > 0


@pytest.fixture
def server(monkeypatch):
    content = random.Random(1).randbytes(2_000_000)
    running = Server(content)
    running.bytes_per_s = 4e6
    monkeypatch.setenv("SAM3DSEGMENT_WEIGHTS_URL", running.url)
    yield running
    running.close()


def test_weights_download(server, start, tmp_path):
    digest = hashlib.sha256(server.content).hexdigest()
    folder = tmp_path / "user-weights"

    def download():
        return start("weights", "download", "--progress", "none", checkpoint_sha256=digest)

    seconds = timed(download)
    name = "sam_vit_b_01ec64.pth"
    assert contents(folder) == {name: server.content}

    def begin():
        emptied(folder)
        return download()

    for _ in killed_runs(begin, seconds, 500):
        there = contents(folder) if folder.exists() else {}
        assert there in ({}, {name: server.content})
        succeed(download())
        assert contents(folder) == {name: server.content}
        assert len(list(folder.iterdir())) == 1
    assert any(asked for _, asked in server.requests), "none went on from what was there"


def test_two_processes_on_one_output(start, tmp_path, model):
    succeed(start("segment", IMAGES, "-o", tmp_path / "undisturbed", "--model", model, "--device", "cpu"))
    expected = contents(tmp_path / "undisturbed")
    for _ in range(5):
        folder = tmp_path / "shared"
        shutil.rmtree(folder, ignore_errors=True)
        command = ("segment", IMAGES, "-o", folder, "--model", model, "--device", "cpu")
        both = [start(*command), start(*command)]
        for process in both:
            succeed(process)
        assert contents(folder) == expected
        assert len(list(folder.iterdir())) == 4


def test_two_trainings_on_one_cache(start, tmp_path, model):
    """Both encode the same cases with the same frozen encoder at the same time."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({**SETTINGS, "encoder": str(model)}))

    def train(name):
        return start(
            *("train", "--data", HIPPOCAMPUS, "-o", tmp_path / name, "--config", settings),
            *("--epochs", 2, "--device", "cpu", "--progress", "none"),
        )

    both = [train("a.sam3d"), train("b.sam3d")]
    for process in both:
        succeed(process)
    succeed(train("c.sam3d"))
    first, *others = (safetensors.torch.load_file(tmp_path / f"{name}.sam3d") for name in "abc")
    for other in others:
        assert all((first[name] == other[name]).all() for name in first)


def test_two_downloads_of_one_file(server, start, tmp_path):
    digest = hashlib.sha256(server.content).hexdigest()
    both = [start("weights", "download", "--progress", "none", checkpoint_sha256=digest) for _ in range(2)]
    ends = [finish(process) for process in both]
    assert 0 in [code for code, _ in ends]
    for code, output in ends:
        assert code == 0 or "already being downloaded" in output
    assert contents(tmp_path / "user-weights") == {"sam_vit_b_01ec64.pth": server.content}
