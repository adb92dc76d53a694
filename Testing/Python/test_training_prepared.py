"""Prepared cases: maps of files that each process opens for itself, and lets go before the files are removed."""

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from SAM3DSegmentLib.settings import AugmentationConfig, TrainingConfig
from SAM3DSegmentLib.training.prepared import plain_view
from SAM3DSegmentLib.training.samples import FreshViews, Samples
from SAM3DSegmentLib.training.splits import share_out
from test_training import COMPACT, start
from test_training_samples import prepare, write_case


@pytest.fixture
def case(tmp_path):
    return prepare(tmp_path, write_case(tmp_path, "a", size_ijk=(60, 50, 30)))


def mapped(folder):
    """Files below the folder that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if str(folder) in line}


def test_a_case_is_sent_to_another_process_as_a_path(case):
    plain_view(case, 0, 2)
    assert case.grey.nbytes > 100_000
    sent = pickle.dumps(case)
    assert len(sent) < 10_000
    arrived = pickle.loads(sent)
    assert isinstance(arrived.grey, np.memmap)
    assert torch.equal(plain_view(arrived, 3, 9)[0], plain_view(case, 3, 9)[0])


@pytest.mark.slow
def test_workers_that_are_spawned_draw_the_same_samples(case):
    """As on Windows and macOS."""
    plain_view(case, 0, 1)
    config = TrainingConfig(image_size=48, training_depth=4)
    samples = Samples([case], FreshViews([case], AugmentationConfig()), config, 2)
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        found = pool.map(samples.__getitem__, range(3))
    for number, sample in enumerate(found):
        assert torch.equal(sample.grey, samples[number].grey)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux which files are mapped")
def test_a_closed_case_has_no_file_open(tmp_path, case):
    plain_view(case, 0, 1)
    assert len(mapped(tmp_path)) == 2
    case.close()
    assert not mapped(tmp_path)


@pytest.fixture
def windows(monkeypatch):
    """Files that are mapped cannot be removed."""
    unlink, remove = os.unlink, os.remove

    def refuse(original):
        def call(path, *arguments, **options):
            inode = os.stat(path, dir_fd=options.get("dir_fd"), follow_symlinks=False).st_ino
            if any(line.split()[4] == str(inode) for line in Path("/proc/self/maps").read_text().splitlines()):
                raise PermissionError(13, "The process cannot access the file", str(path))
            return original(path, *arguments, **options)

        return call

    monkeypatch.setattr(os, "unlink", refuse(unlink))
    monkeypatch.setattr(os, "remove", refuse(remove))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux which files are mapped")
def test_a_finished_training_leaves_no_prepared_case_where_open_files_cannot_be_removed(tmp_path, windows, caplog):
    start(tmp_path / "m.sam3d", COMPACT)
    assert not (tmp_path / "m.training" / "prepared").exists()
    assert not list(tmp_path.rglob("*.npy"))
    assert "could not be removed" not in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux which files are mapped")
def test_what_cannot_be_removed_is_said(tmp_path, windows, caplog, monkeypatch):
    monkeypatch.setattr("SAM3DSegmentLib.training.prepared.PreparedCase.close", lambda self: None)
    start(tmp_path / "m.sam3d", COMPACT)
    folder = tmp_path / "m.training" / "prepared"
    assert f"{str(folder)!r} could not be removed" in caplog.text
    monkeypatch.undo()
    shutil.rmtree(folder)


def test_processes_share_out_slices_not_cases():
    assert share_out([5, 1, 1, 1, 1], 2) == [[0], [1, 2, 3, 4]]
    assert share_out([2, 2, 2, 2], 2) == [[0, 2], [1, 3]]
    assert share_out([3, 1, 2], 1) == [[0, 1, 2]]
