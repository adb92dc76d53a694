"""A tree of folders: what is taken of it, how the masks are called, and a second run over the same tree."""

import json
import os
import shutil
import sys
from pathlib import PurePosixPath

import pytest

from conftest import HIPPOCAMPUS, write_dicom
from SAM3DSegmentLib.commands.tree import mask_path

IMAGE = HIPPOCAMPUS / "imagesTr" / "hippocampus_051.nii.gz"
links = pytest.mark.skipif(sys.platform == "win32", reason="Windows allows links to some users only")


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".nii.gz"):
            shutil.copy(IMAGE, path)
        else:
            path.write_text("{}")


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def segment(command, *arguments):
    code, _, error = command("segment", *arguments, "--recursive")
    assert code == 0, error
    return error


def test_a_tree_is_mirrored_and_read_once(command, d):
    import SimpleITK as sitk

    put(d, "in/a.nii.gz", "in/p/q/b.nii.gz", "in/p/notes.txt", "in/.hidden/c.nii.gz", "in/p/.d.nii.gz")
    (d / "in" / "scans").mkdir()
    write_dicom(d / "in" / "scans" / "ct", sitk.ReadImage(str(IMAGE), sitk.sitkInt16))
    report, table = d / "r.json", d / "t.csv"
    log = segment(command, "in", "-o", "in/out", "--report", report, "--table", table)
    expected = ["a.seg.nrrd", "p/q/b.seg.nrrd", "scans/ct.seg.nrrd"]
    assert files(d / "in" / "out") == expected
    assert "no volume file: p/notes.txt" in log
    assert json.loads(report.read_text())["left_out"] == {"p/notes.txt": "no volume file"}
    log = segment(command, "in", "-o", "in/out", "--report", report, "--table", table)
    assert "0 segmented, 3 already there, 0 failed" in log
    assert "the folder of the results: out" in log
    assert files(d / "in" / "out") == expected
    cases = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    assert cases == ["a", "p/q/b", "scans/ct"]


def test_masks_beside_their_images_are_no_images(command, d):
    put(d, "in/p/b.nii.gz")
    segment(command, "in", "-o", "in")
    assert "0 segmented, 1 already there, 0 failed" in segment(command, "in", "-o", "in")
    assert files(d / "in") == ["p/b.nii.gz", "p/b.seg.nrrd"]


def test_a_bids_dataset_becomes_bids_derivatives(command, d):
    put(d, "in/dataset_description.json", "in/sub-01/anat/sub-01_T1w.nii.gz", "in/sub-01/anat/sub-01_T2w.nii.gz")
    put(d, "in/sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz", "in/sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.json")
    put(d, "in/derivatives/other/sub-01/anat/sub-01_desc-x_T1w.nii.gz")
    log = segment(command, "in", "-o", "in/derivatives/ours", "--pattern", "sub-*/anat/*_T1w.nii.gz")
    out = d / "in" / "derivatives" / "ours"
    assert "no raw data in BIDS: derivatives" in log
    assert "sub-01/anat/sub-01_desc-tiny_dseg.nii.gz" in files(out)
    assert "sub-02/ses-a/anat/sub-02_ses-a_run-1_desc-tiny_dseg.nii.gz" not in files(out)
    segment(command, "in", "-o", "in/derivatives/ours", "--pattern", "*_T1w.nii.gz")
    assert files(out) == [
        "dataset_description.json",
        "desc-tiny_dseg.tsv",
        "sub-01/anat/sub-01_desc-tiny_dseg.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_desc-tiny_dseg.nii.gz",
    ]
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "SAM3DSegment"
    assert (out / "desc-tiny_dseg.tsv").read_text() == "index\tname\tcolor\n1\tBlob\t#e69f00\n"
    log = segment(command, "in", "-o", "in/derivatives/ours", "--pattern", "*_T1w.nii.gz")
    assert "0 segmented, 2 already there, 0 failed" in log


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", "sub-01/anat/sub-01_desc-preprochippocampusmri_dseg.nii.gz"),
        ("sub-01/sub-01_acq-a_space-b_bold.nii", "sub-01/sub-01_acq-a_space-b_desc-hippocampusmri_dseg.nii.gz"),
        ("anat/sub-01_T1w.nii.gz", "anat/sub-01_T1w.seg.nrrd"),
        ("sub-02/sub-01_T1w.nii.gz", "sub-02/sub-01_T1w.seg.nrrd"),
        ("sub-01.nii.gz", "sub-01.seg.nrrd"),
        ("sub-01/dicom", "sub-01/dicom.seg.nrrd"),
    ],
)
def test_names_of_masks(image, mask):
    assert str(mask_path(PurePosixPath(image), "hippocampus-mri")) == mask


@links
def test_links_that_lead_back_end(command, d):
    put(d, "in/a/x.nii.gz", "elsewhere/y.nii.gz")
    (d / "in" / "a" / "up").symlink_to(d / "in", target_is_directory=True)
    (d / "in" / "0-first").symlink_to(d / "in" / "a", target_is_directory=True)
    (d / "in" / "there").symlink_to(d / "elsewhere", target_is_directory=True)
    os.symlink("self", d / "in" / "self")
    log = segment(command, "in", "-o", "out")
    assert files(d / "out") == ["a/x.seg.nrrd", "there/y.seg.nrrd"]
    assert "a folder that was read already: 0-first, a/up" in log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "-o", "out", "--pattern", "*.nii"], "is for a tree of folders; add --recursive"),
        (["in", "-o", "out", "--recursive", "--pattern", "*.mha"], "hold no volume that matches '*.mha'"),
        (["in", "-o", "out", "--recursive", "--pattern", ""], "matches nothing; give one such as"),
        (["in/p", "-o", "out", "--recursive", "--series", "1.2"], "is for one DICOM folder"),
        (["in", "in", "-o", "out", "--recursive"], "--recursive is for one folder"),
        (["in/p/b.nii.gz", "-o", "out", "--recursive"], "--recursive is for one folder"),
        (["in", "-o", "out.nii.gz", "--recursive"], "is the name of one file"),
        (["bids", "-o", "bids", "--recursive"], "is the BIDS dataset itself; give a folder of its own"),
        (["bids", "-o", "out", "--recursive"], "would both become"),
    ],
)
def test_what_cannot_be_done_with_a_tree_is_told(command, d, arguments, message):
    put(d, "in/p/b.nii.gz", "bids/sub-1/sub-1_T1w.nii.gz", "bids/sub-1/sub-1_T2w.nii.gz")
    code, _, error = command("segment", *arguments)
    assert code == 1
    assert message in error
    assert error.count("\n") <= 3


def cases(table, columns=1):
    return [tuple(line.split(",")[:columns]) for line in table.read_text().splitlines()[1:]]


def test_the_masks_of_a_tree_are_measured_under_the_names_of_their_images(command, d):
    import SimpleITK as sitk

    put(d, "in/a.nii.gz", "in/p/q/b.nii.gz", "in/sub-01/anat/sub-01_T1w.nii.gz", "in/sub-01/anat/sub-01_T2w.nii.gz")
    (d / "in" / "scans").mkdir()
    write_dicom(d / "in" / "scans" / "ct", sitk.ReadImage(str(IMAGE), sitk.sitkInt16))
    for pattern in ("*_T1w.nii.gz", "[abc]*"):
        segment(command, "in", "-o", "out", "--pattern", pattern, "--table", "made.csv")
    measure = ("measure", "--predictions", "out", "--images", "in", "--recursive", "--progress", "none")
    code, _, error = command(*measure)
    assert code == 1
    assert "sub-01_T1w.nii.gz" in error
    assert "take only one of them with --pattern" in error
    assert command(*measure, "--pattern", "*_T1w.nii.gz", "--table", "t.csv")[0] == 0
    assert cases(d / "t.csv", 2) == [("sub-01/anat/sub-01_T1w", "Blob")]
    (d / "in" / "sub-01" / "anat" / "sub-01_T2w.nii.gz").unlink()
    assert command(*measure, "--table", "t.csv", "--page", "qc.html")[0] == 0
    names = ["a", "p/q/b", "scans/ct", "sub-01/anat/sub-01_T1w"]
    assert cases(d / "t.csv", 2) == cases(d / "made.csv", 2) == [(name, "Blob") for name in names]
    put(d, "out/a.nii.gz")
    code, _, error = command(*measure)
    assert code == 1
    assert "are masks of one image; keep one of them" in error


def test_masks_beside_their_images_are_measured_in_a_tree(command, d):
    put(d, "in/p/b.nii.gz")
    segment(command, "in", "-o", "in")
    assert command("measure", "in", "--recursive", "--table", "t.csv", "--progress", "none")[0] == 0
    assert cases(d / "t.csv") == [("p/b",)]
    code, _, error = command("measure", "in/p", "--pattern", "b*")
    assert code == 1
    assert "add --recursive" in error
