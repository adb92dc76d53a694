"""Commands where something is missing: a terminal that shows all letters, room to write, a home, the user's name."""

import io
import json
import logging
import os
import select
import shlex
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import image_files as make
from conftest import HIPPOCAMPUS, MODULE, MRI
from SAM3DSegmentLib.base import progress
from SAM3DSegmentLib.base.progress import Bar, LogLines, bar_or_lines

LABELS = HIPPOCAMPUS / "labelsTr"
on_posix = pytest.mark.skipif(os.name == "nt", reason="of POSIX shells and users")


def shell(*arguments, redirections="", **environment):
    """A child process of the command line, its streams redirected by a shell."""
    words = [sys.executable, "-m", "SAM3DSegmentLib", *map(str, arguments)]
    return subprocess.run(
        f"{shlex.join(words)} {redirections}",
        shell=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.slow
@on_posix
@pytest.mark.parametrize(
    ("redirections", "more"),
    [
        (">/dev/full 2>/dev/full", ("--progress", "json")),
        ("<&- >&- 2>&-", ()),
    ],
)
def test_the_work_is_done_though_nobody_can_be_told(tmp_path, tiny, redirections, more):
    make.write(tmp_path / "a.nrrd")
    out, report = tmp_path / "o.nrrd", tmp_path / "r.json"
    result = shell(
        "segment", tmp_path / "a.nrrd", "-o", out, "--model", tiny, "--report", report, *more, redirections=redirections
    )
    assert result.returncode == 0, result.stderr
    assert out.exists()
    assert len(json.loads(report.read_text())["segmented"]) == 1
    assert out.read_bytes()[:4] == b"NRRD"
    assert b"Traceback" not in result.stderr


@on_posix
def test_the_files_of_an_evaluation_are_written_before_its_table(tmp_path, run_cli, monkeypatch):
    arguments = ["evaluate", "--predictions", LABELS, "--labels", LABELS]
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        result = run_cli(*arguments, "--json", tmp_path / "e.json", "--csv", tmp_path / "e.csv")
    message = "the result cannot be written to standard output (No space left on device); give it another place."
    assert (result.returncode, result.stderr) == (1, f"ERROR: {message}\n")
    assert len(json.loads((tmp_path / "e.json").read_text())["rows"]) == 10
    assert (tmp_path / "e.csv").exists()


@on_posix
@pytest.mark.parametrize("redirections", ["| true", ">&-", ">/dev/full"])
def test_a_command_that_only_says_something_ends_without_a_traceback(redirections):
    result = shell("models", "list", redirections=redirections)
    assert b"Traceback" not in result.stderr
    assert b"Exception" not in result.stderr
    assert result.returncode == (1 if "full" in redirections else 0)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_in_other_alphabets_are_shown_on_any_terminal(tmp_path, run_cli, monkeypatch, encoding):
    for folder in "pl":
        (tmp_path / folder).mkdir()
        names = {1: "Hüfte", 2: "海马体"}
        make.named_segments(tmp_path / folder / "Müller 海.seg.nrrd", make.voxels("u1") // 120, names)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    result = run_cli("evaluate", "--predictions", tmp_path / "p", "--labels", tmp_path / "l", "--csv", tmp_path / "e")
    assert result.returncode == 0, result.stderr
    assert rb"\u6d77" in terminal.buffer.getvalue()
    assert "Müller 海,Hüfte" in (tmp_path / "e").read_text(encoding="utf-8")


def test_an_unforeseen_error_is_one_line(run_cli, monkeypatch):
    from SAM3DSegmentLib import model_store

    def odd():
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(model_store, "list_models", odd)
    result = run_cli("models", "list")
    assert result.returncode == 1
    assert result.stderr == (
        "ERROR: unexpected error (OverflowError: cannot convert float infinity to integer); please report it with what "
        "SAM3DSEGMENT_DEBUG=1 shows.\n"
    )
    monkeypatch.setenv("SAM3DSEGMENT_DEBUG", "1")
    assert "Traceback" in run_cli("models", "list").stderr
    logging.getLogger("SAM3DSegmentLib").setLevel(logging.NOTSET)


# ---- progress


@on_posix
def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch):
    import fcntl
    import pty
    import termios

    assert isinstance(bar_or_lines(), LogLines)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = bar_or_lines()
        bar.progress("segment", 1, 4)
        bar.progress("segment", 2, 4)
        bar.close()
        assert select.select([ours], [], [], 10)[0]
        assert b"segment:" in os.read(ours, 10_000)
    os.close(ours)


def test_a_log_gets_a_line_every_few_seconds(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO)
    lines = LogLines(every_s=5)
    for done in range(13):
        lines.progress("segment", done, 24)
        now[0] += 1
    assert [record.getMessage() for record in caplog.records] == [
        "segment: 5 of 24, 19 s to go",
        "segment: 10 of 24, 14 s to go",
    ]


def test_a_terminal_that_has_gone_does_not_end_the_work(monkeypatch):
    class Gone:
        encoding = "utf-8"

        def write(self, *text):
            raise OSError(5, "Input/output error")

        flush = write

    monkeypatch.setattr(sys, "stderr", Gone())
    bar = Bar()
    for done in range(3):
        bar.progress("segment", done, 3)
    bar.close()


# ---- people without a home

WITHOUT = """
import os, sys
os.setresuid(54321, os.geteuid(), os.geteuid())  # a user of no name, who can still read this Python
for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
for name in ("MODELS", "WEIGHTS", "CACHE"):
    os.environ.pop(f"SAM3DSEGMENT_{name}", None)
home, *arguments = sys.argv[1:]
if home:
    os.environ["HOME"] = home
from SAM3DSegmentLib.cli import main
sys.exit(main(arguments))
"""
as_root = pytest.mark.skipif(
    not hasattr(os, "setresuid") or os.geteuid() != 0, reason="only root may become another user"
)


@as_root
def test_a_user_id_of_no_name_gets_one():
    """Before packages ask for it when they are imported."""
    source = (
        "import os, getpass; os.setresuid(54321, 0, 0); from SAM3DSegmentLib.base.surroundings import name_the_user; "
        "name_the_user(); print(getpass.getuser())"
    )
    environment = {"PYTHONPATH": str(MODULE), "PATH": os.environ["PATH"]}
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environment)
    assert result.stdout == "unknown\n", result.stderr


def without_home(home, *arguments):
    command = [sys.executable, "-c", WITHOUT, home, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture
def open_folder():
    """That anybody may write into."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@as_root
@pytest.mark.parametrize("home", ["", pytest.param("/", marks=pytest.mark.slow)])
def test_a_bundled_model_needs_no_home_and_no_name(open_folder, home):
    result = without_home(home, "segment", MRI, "-o", open_folder / "o.seg.nrrd", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert (open_folder / "o.seg.nrrd").exists()


@as_root
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("models", "list"), 0, ""),
        pytest.param(("doctor",), 0, "", marks=pytest.mark.slow),
        pytest.param(("evaluate", "--predictions", LABELS, "--labels", LABELS), 0, "", marks=pytest.mark.slow),
        pytest.param(("train", "--data", HIPPOCAMPUS, "--check"), 0, "", marks=pytest.mark.slow),
        pytest.param(  # whose embeddings are kept there
            ("train", "--data", HIPPOCAMPUS, "--check", "--encoder", "hippocampus-mri"),
            1,
            "set SAM3DSEGMENT_CACHE to a folder for the cache",
            marks=pytest.mark.slow,
        ),
        (("weights", "list"), 1, "set SAM3DSEGMENT_WEIGHTS to a folder for the weights"),
        (("weights", "path"), 1, "set SAM3DSEGMENT_WEIGHTS to a folder for the weights"),
        (("cache", "info"), 1, "ERROR: this user has no home folder; set SAM3DSEGMENT_CACHE to a folder for the cache"),
        pytest.param(
            ("models", "import", MODULE / "Resources" / "Models" / "hippocampus-mri.sam3d"),
            1,
            "SAM3DSEGMENT_MODELS",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_command_needs_no_home_or_names_the_variable(arguments, code, message):
    result = without_home("", *arguments)
    assert "Traceback" not in result.stderr
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("ERROR")]) == code
