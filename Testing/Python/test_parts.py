"""A folder done by several processes: parts, claims, and the report and table that they share."""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from conftest import HIPPOCAMPUS, MODULE, ROOT
from SAM3DSegmentLib.base import claims
from SAM3DSegmentLib.base.claims import claim_path, claimed, in_turn, owner_of, remove_dead_claims
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.base.files import partial_path
from SAM3DSegmentLib.base.owners import this_computer
from SAM3DSegmentLib.commands.parts import Part, parse_part

IMAGES = HIPPOCAMPUS / "imagesTr"
posix = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and get SIGKILL")


def test_each_case_is_in_one_part_and_stays_there():
    names = [PurePosixPath(f"sub-{i:03d}/anat/x.nii.gz") for i in range(200)]
    parts = [{name for name in names if Part(k, 8).has(name)} for k in range(1, 9)]
    assert sum(map(len, parts)) == 200
    assert set().union(*parts) == set(names)
    assert min(map(len, parts)) > 10
    assert Part(2, 5).has(PurePosixPath("Mu\u0308ller.nii")) == Part(2, 5).has(PurePosixPath("M\u00fcller.nii"))


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/0", "-1/2", "a/b", "", "1/2/3", "1.0/2", "\u0663/8"])
def test_what_is_no_part_is_told(text):
    with pytest.raises(InputError, match="is not a part; give K/N"):
        parse_part(text, {})


def array(**values):
    return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        (array(ID=3, MIN=1, MAX=8, COUNT=8, STEP=1), Part(3, 8)),
        (array(ID=0, MIN=0, MAX=7, COUNT=8, STEP=1), Part(1, 8)),
        (array(ID=9, MIN=1, MAX=13, COUNT=4, STEP=4), Part(3, 4)),
        (array(ID=9, MIN=1, MAX=13, STEP=4), Part(3, 4)),
        (array(ID=2, COUNT=4), Part(2, 4)),
        (array(ID=5, MIN=5, MAX=5, COUNT=1), Part(1, 1)),
    ],
)
def test_a_job_array_numbers_the_parts(environment, part):
    assert parse_part("auto", environment) == part


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "which are not set; start it in a job array"),
        (array(ID=3), "which are not set"),
        (array(MIN=1, MAX=3), "which are not set"),
        (array(ID=7, MIN=1, MAX=7, COUNT=3, STEP=1), "cannot number the tasks.*TASK_ID=7"),
        (array(ID=4, MIN=1, MAX=9, COUNT=3, STEP=4), "cannot number the tasks"),
    ],
)
def test_an_array_that_cannot_be_numbered_is_told(environment, message):
    with pytest.raises(InputError, match=message):
        parse_part("auto", environment)


def test_a_claim_is_had_by_one_and_leaves_nothing(tmp_path):
    out = tmp_path / ("x" * 240 + ".seg.nrrd")
    with claimed(out) as first, claimed(out) as second:
        assert (first, second) == (True, False)
        assert owner_of(out).process_id == os.getpid()
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), claimed(out):
        _ = 1 / 0
    with claimed(out) as again:
        assert again
    assert not list(tmp_path.iterdir())


def dead_claim(out, **changes):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    fields = {"computer": this_computer(), "process_id": ended.pid, "token": "t", **changes}
    claim_path(out).write_text(json.dumps(fields))


def test_a_claim_of_a_process_that_has_ended_is_taken_over(tmp_path):
    out = tmp_path / "x.seg.nrrd"
    dead_claim(out)
    with claimed(out) as ours:
        assert ours
        assert owner_of(out).process_id == os.getpid()
    assert not list(tmp_path.iterdir())
    dead_claim(out)
    left = "import sys; from pathlib import Path; from SAM3DSegmentLib.base.files import partial_path;"
    left += "partial_path(Path(sys.argv[1])).touch()"
    subprocess.run([sys.executable, "-c", left, claim_path(out)], check=True)
    being_written = partial_path(claim_path(out))
    being_written.touch()
    assert len(list(tmp_path.iterdir())) == 3
    remove_dead_claims(tmp_path)
    assert list(tmp_path.iterdir()) == [being_written]


@pytest.mark.parametrize("content", [{"computer": "elsewhere"}, None])
def test_a_claim_of_another_computer_or_of_nobody_counts_until_it_is_old(tmp_path, content):
    out = tmp_path / "x.seg.nrrd"
    dead_claim(out, **(content or {}))
    if content is None:
        claim_path(out).write_text("")
    with claimed(out) as ours:
        assert not ours
    remove_dead_claims(tmp_path)
    assert claim_path(out).exists()
    old = time.time() - claims.EXPIRY_S - 5
    os.utime(claim_path(out), (old, old))
    with claimed(out) as ours:
        assert ours


def test_a_claim_is_refreshed_while_its_process_works(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "REFRESH_S", 0.02)
    out = tmp_path / "x.seg.nrrd"
    with claimed(out):
        os.utime(claim_path(out), (0, 0))
        for _ in range(500):
            if claim_path(out).stat().st_mtime > 1e9:
                break
            time.sleep(0.01)
        assert claim_path(out).stat().st_mtime > 1e9


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_take_over_a_dead_claim_one_has_it_at_a_time(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    out, inside, total = tmp_path / "x.csv", [], []

    def work():
        for _ in range(10):
            with in_turn(out, lambda: None):
                inside.append(1)
                total.append(len(inside))
                inside.pop()

    dead_claim(out)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert total == [1] * 40
    assert not list(tmp_path.iterdir())


def work(arguments, environment, log):
    """In the child: the command line, as `sam3dsegment` runs it."""
    os.environ.update(environment)
    with open(log, "w") as stream:
        sys.stdout = sys.stderr = stream
        from SAM3DSegmentLib.cli import main

        code = main(arguments)
        stream.flush()
    os._exit(code)


@pytest.fixture(scope="module")
def forks():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "SimpleITK", "safetensors.torch", "psutil"])
    return context


@pytest.fixture
def start(forks, tmp_path, tiny):
    """start(folder, "--part", "1/8") -> a process that segments into it, with a report and a table beside it."""
    environment = {key: value for key, value in os.environ.items() if key.startswith("SAM3DSEGMENT_")}
    environment["OMP_NUM_THREADS"] = "1"

    def run(images, folder, *more):
        command = ["segment", images, "-o", folder, "--model", tiny, "--device", "cpu", "--progress", "none"]
        command += ["--report", f"{folder}.json", "--table", f"{folder}.csv", *more]
        log = tmp_path / f"log-{random.getrandbits(60)}.txt"
        process = forks.Process(target=work, args=([*map(str, command)], environment, log))
        process.start()
        process.log = log
        return process

    return run


def succeed(process):
    process.join(200)
    output = process.log.read_text() if process.log.exists() else ""
    assert process.exitcode == 0, output
    assert "Traceback" not in output
    return output


def contents(folder):
    """Names and bytes of all files, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(table):
    """By case and label, without what differs from run to run."""
    with open(table, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    keyed = {(row["case"], row["label"]): row for row in found}
    assert len(keyed) == len(found)
    return {key: {k: v for k, v in row.items() if k not in ("seconds", "date")} for key, row in keyed.items()}


@pytest.fixture
def images(tmp_path):
    """Two real volumes under six names."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate([*sorted(IMAGES.iterdir())[:2]] * 3):
        shutil.copy(path, folder / f"case-{number}.nii.gz")
    return folder


@posix
@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_parts_two_at_a_time_give_what_one_process_gives(start, tmp_path, images, kill):
    began = time.monotonic()
    succeed(start(images, tmp_path / "one"))
    seconds = time.monotonic() - began
    expected, out, chance = contents(tmp_path / "one"), tmp_path / "parts", random.Random(5)
    assert len(expected) == 6
    parts = [f"{k}/8" for k in range(1, 9)]
    victim = chance.choice([0, 2, 4]) if kill else None
    for first in (0, 2, 4, 6):
        pair = [start(images, out, "--part", part) for part in parts[first : first + 2]]
        if first == victim:
            time.sleep(chance.uniform(0.2, seconds / 2))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pair[0].pid, signal.SIGKILL)
            pair.pop(0).join(10)
        for process in pair:
            succeed(process)
    if kill:
        succeed(start(images, out, "--part", parts[victim]))
    assert contents(out) == expected
    assert rows(f"{out}.csv") == rows(f"{tmp_path / 'one'}.csv")
    report = json.loads(Path(f"{out}.json").read_text())
    assert len({record["input"] for record in report["segmented"]}) == len(report["segmented"]) == 6
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".claim")]


@pytest.mark.slow
@posix
def test_two_processes_with_all_volumes_do_each_once(start, tmp_path, images):
    out = tmp_path / "both"
    page = f"{out}.html"
    both = [start(images, out, "--page", page), start(images, out, "--page", page)]
    outputs = [succeed(process) for process in both]
    assert sum(output.count(" -> ") for output in outputs) == 6
    assert len(contents(out)) == 6
    assert len(rows(f"{out}.csv")) == 6
    assert Path(page).read_text().count("<tbody") == 6
    assert len(contents(tmp_path / "both_files")) == 7  # a picture of each, and what the page is made of


def test_a_table_of_a_finished_folder_is_measured_and_names_are_no_formulas(command, images, tmp_path):
    out, table = tmp_path / "out", tmp_path / "t.csv"
    for old, new in (("case-0", "=cmd"), ("case-1", "'quoted"), ("case-2", "\u00fcml\u00e4ut, comma")):
        (images / f"{old}.nii.gz").rename(images / f"{new}.nii.gz")
    for name in ("case-3", "case-4", "case-5"):
        (images / f"{name}.nii.gz").unlink()
    assert command("segment", images, "-o", out, "--table", table)[0] == 0
    with open(table, encoding="utf-8", newline="") as file:
        made = {row["case"]: row for row in csv.DictReader(file)}
    assert set(made) == {"'=cmd", "''quoted", "\u00fcml\u00e4ut, comma"}
    row = made["'=cmd"]
    assert row["model"] == "tiny"
    assert row["cut_off"] in ("yes", "no")
    assert time.strptime(row["date"][:19], "%Y-%m-%dT%H:%M:%S")
    before = table.read_bytes()
    assert command("segment", images, "-o", out, "--table", table)[0] == 0
    assert table.read_bytes() == before
    table.unlink()
    assert command("segment", images, "-o", out, "--table", table)[0] == 0
    with open(table, encoding="utf-8", newline="") as file:
        measured = {row["case"]: row for row in csv.DictReader(file)}
    for case, row in measured.items():
        same = ("label", "value", "volume_ml", "voxels", "mean", "sd", "cut_off")
        assert {key: row[key] for key in same} == {key: made[case][key] for key in same}
        assert row["model"] == row["seconds"] == row["confidence"] == ""
        assert row["date"]


def test_measure_agrees_with_the_files(run_cli, tmp_path):
    import numpy as np
    import SimpleITK as sitk

    table = tmp_path / "t.csv"
    done = run_cli("measure", HIPPOCAMPUS, "--table", table, "--progress", "none")
    assert done.returncode == 0, done.stderr
    found = rows(table)
    assert {case for case, _ in found} == {path.name[:-7] for path in IMAGES.iterdir()}
    case = "hippocampus_051"
    image = sitk.ReadImage(str(IMAGES / f"{case}.nii.gz"))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(HIPPOCAMPUS / "labelsTr" / f"{case}.nii.gz")))
    for (_, label), row in found.items():
        if row["case"] != case:
            continue
        values = sitk.GetArrayFromImage(image)[mask == int(row["value"])].astype(float)
        assert int(row["voxels"]) == len(values)
        assert float(row["volume_ml"]) == pytest.approx(len(values) * np.prod(image.GetSpacing()) / 1000, rel=1e-3)
        assert float(row["mean"]) == pytest.approx(values.mean(), rel=1e-5)
        assert float(row["sd"]) == pytest.approx(values.std(), rel=1e-5)
        assert row["cut_off"] == "no"
        assert label
    again = ("--predictions", HIPPOCAMPUS / "labelsTr", "--images", IMAGES)
    assert run_cli("measure", *again, "--table", table, "--progress", "none").returncode == 0
    assert rows(table) == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "measure needs a folder DIR"),
        (["x", "--images", "y"], "measure needs a folder DIR"),
        (["--predictions", "x", "--images", "y"], "does not exist; check the path"),
    ],
)
def test_measure_of_nothing_is_told(run_cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run_cli("measure", *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_table_never_replaces_another_file(command, images, tmp_path):
    notes = tmp_path / "notes.csv"
    notes.write_text("case,label\nmine,1\n")
    code, _, error = command("segment", images, "-o", tmp_path / "out", "--table", notes)
    assert code == 1
    assert "exists already" in error
    assert notes.read_text() == "case,label\nmine,1\n"


def test_a_part_is_of_a_folder(command, images, tmp_path):
    code, _, error = command("segment", images / "case-0.nii.gz", "-o", tmp_path / "x.nii.gz", "--part", "1/2")
    assert code == 1
    assert "is for a folder of volumes" in error


@posix
@pytest.mark.slow
def test_the_job_array_does_the_folder(tmp_path, images, tiny):
    """A stand-in for Slurm starts the array's tasks, as many at once as it says; `srun` runs what it is given."""
    script = ROOT / "Utilities" / "slurm" / "segment.sbatch"
    first, last, at_once = map(int, re.search(r"--array=(\d+)-(\d+)%(\d+)", script.read_text()).groups())
    programs, out = tmp_path / "programs", tmp_path / "masks"
    programs.mkdir()
    for name, line in (("srun", 'exec "$@"'), ("sam3dsegment", f'exec "{sys.executable}" -m SAM3DSegmentLib "$@"')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    shared = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(MODULE),
        **array(MIN=first, MAX=last, COUNT=last - first + 1, STEP=1),
    }
    command = ["bash", script, images, out, "--model", tiny, "--device", "cpu"]
    tasks = list(range(first, last + 1))
    while tasks:
        now, tasks = tasks[:at_once], tasks[at_once:]
        started = [
            subprocess.Popen(
                list(map(str, command)), env=shared | array(ID=task), stderr=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for task in now
        ]
        for process in started:
            _, error = process.communicate(timeout=280)
            assert process.returncode == 0, error.decode()
    assert sorted(contents(out)) == [f"case-{number}.seg.nrrd" for number in range(6)]
    assert len(rows(f"{out}.csv")) == 6
    assert len(json.loads(Path(f"{out}.json").read_text())["segmented"]) == 6


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_process_gives_its_claim_back(start, tmp_path, images, number):
    out = tmp_path / "out"
    process = start(images, out)
    for _ in range(3000):
        if out.is_dir() and list(out.glob(".*.claim")):
            break
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 130, process.log.read_text()
    assert all(not name.startswith(".") for name in contents(out))
    succeed(start(images, out))
    assert len(contents(out)) == 6
