"""Files that appear whole or not at all, also where several computers write into one folder."""

import os
import signal
import subprocess
import sys
import time

import pytest

from SAM3DSegmentLib.base import owners
from SAM3DSegmentLib.base.files import ABANDONED_S, partial_path, write_text, written_whole


def test_two_computers_that_write_one_file_do_not_take_each_others_partial_name(tmp_path, monkeypatch):
    """Two containers have equal process ids, and neither can ask whether a process of the other still lives."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    path = tmp_path / "mask.nii.gz"
    with written_whole(path) as other:
        other.write_text("half")
        write_text(path, "ours")
        assert other.read_text() == "half"
        other.write_text("theirs, whole")
    assert path.read_text() == "theirs, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "mask.nii.gz"
    killed = (
        "import os, signal; from pathlib import Path; from SAM3DSegmentLib.base.files import written_whole\n"
        f"with written_whole(Path({str(path)!r})) as partial:\n"
        "    partial.touch()\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    write_text(path, "whole")
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_process_of_another_computer_left_is_removed_by_its_age(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "this_computer", lambda: "elsewhere")
    path = tmp_path / "mask.nii.gz"
    foreign = tmp_path / ".0011223344556677.partial.other.nii.gz"
    old, older_version, young = partial_path(path), tmp_path / ".4711.partial.mask.nii.gz", partial_path(path)
    for left in (foreign, old, older_version, young):
        left.write_text("half")
    for left in (foreign, old, older_version):
        os.utime(left, (time.time() - 2 * ABANDONED_S,) * 2)
    monkeypatch.undo()
    write_text(path, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([foreign, path, young])


@pytest.mark.parametrize("name", ["a" * 247 + ".nii.gz", "ä" * 120 + ".nrrd", os.fsdecode(b"\xff" * 240) + ".nrrd"])
def test_the_longest_names_have_a_partial_file_too(tmp_path, name):
    path = tmp_path / name
    partial = partial_path(path)
    assert partial.name.endswith("".join(path.suffixes))
    assert len(os.fsencode(partial.name)) <= 255
    write_text(path, "whole")
    assert path.read_text() == "whole"
    partial.write_text("half")
    os.utime(partial, (0, 0))
    write_text(path, "again")
    assert list(tmp_path.iterdir()) == [path]
