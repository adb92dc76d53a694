"""Channels, DICOM studies, frames, regions and pages with `--remote`: the same files as here. A real sshd answers."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk

from channel_cases import make_case, make_model, write_image, write_nnunet
from far_computer import needs_sshd
from image_files import dicom
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.model_file import save_model

pytestmark = [needs_sshd, pytest.mark.slow]
REGION = "4:44,0:48,2:12"
UID = "1.2.826.0.1.3680043.2.1125"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model of two channels, untrained."""
    path = tmp_path_factory.mktemp("pair") / "pair.sam3d"
    save_model(make_model(), path)
    return path


@pytest.fixture
def both(run_cli, there, d):
    """both("segment", ...) runs it here and there, with OUT as the outputs' folder, and compares the masks."""

    def run(*arguments):
        arguments = [*map(str, arguments), "--device", "cpu", "--progress", "none"]
        for folder, start in (("here", run_cli), ("there", there)):
            (d / folder).mkdir(exist_ok=True)
            done = start(*(text.replace("OUT", folder) for text in arguments))
            assert done.returncode == 0, done.stderr
        made, wanted = ({path.relative_to(d / at): path for path in (d / at).rglob("*")} for at in ("there", "here"))
        assert made.keys() == wanted.keys()
        for name in (
            name for name in wanted if name.suffix not in (".json", ".html", ".csv") and wanted[name].is_file()
        ):
            assert made[name].read_bytes() == wanted[name].read_bytes(), name
        return made

    return run


def rows(path):
    """Of a table, without what differs between two runs."""
    return [{key: row[key] for key in row if key not in ("seconds", "date")} for row in csv.DictReader(path.open())]


def test_a_folder_of_channels_with_its_page_and_table(both, d, pair):
    """Numbered files of two cases, of which a region is segmented."""
    write_nnunet(d / "data", [0, 1])
    files = ("-o", "OUT/masks", "--page", "OUT/qc.html", "--table", "OUT/t.csv", "--report", "OUT/r.json")
    made = both("segment", d / "data" / "imagesTr", *files, "--region", REGION, "--model", pair)
    assert len([path for path in made.values() if path.suffix == ".jpg"]) == 2
    assert rows(d / "here" / "t.csv") == rows(d / "there" / "t.csv")
    here, there = (json.loads((d / at / "r.json").read_text())["segmented"] for at in ("here", "there"))
    assert [record["channels"] for record in here] == [record["channels"] for record in there]
    assert {record["region"] for record in there} == {REGION}
    mask = read_volume(d / "there" / "masks" / "case_00.seg.nrrd").array_kji
    assert mask.any()
    assert not mask[:2].any()


def test_channels_of_any_name_and_of_one_dicom_folder(both, there, d, pair):
    """Given by hand, on grids that differ; and as series of a study that lie in one folder."""
    (first, second), _ = make_case(0)
    write_image(d / "Müller, ä" / "the first.nii.gz", first)
    moved = sitk.GetImageFromArray(second)
    moved.SetOrigin((0.5, 0, 0))
    sitk.WriteImage(moved, str(d / "Müller, ä" / "the second.nrrd"))
    given = [d / "Müller, ä" / "the first.nii.gz", "--channel", f"t2={d / 'Müller, ä' / 'the second.nrrd'}"]
    both("segment", *given, "--resample", "-o", "OUT/given.nrrd", "--model", pair)
    done = there("segment", *given, "-o", "refused.nrrd", "--model", pair)
    assert done.returncode == 1
    assert f"channel 'T2', {str(d / 'Müller, ä' / 'the second.nrrd')!r}, is not on the grid of 'T1'" in done.stderr
    assert not (d / "refused.nrrd").exists()
    for number, array in enumerate((first, second), 1):
        dicom(
            d / "study",
            array,
            f"{UID}.{number}",
            f"{number}-{{:03d}}.dcm",
            lambda _k, data, number=number: setattr(data, "SeriesDescription", f"AX T{number}"),
        )
    made = both("segment", d / "study", "-o", "OUT/study.nrrd", "--model", pair)
    assert read_volume(next(path for path in made.values() if path.name == "study.nrrd")).array_kji.any()


def test_frames_with_their_page_and_the_volumes_over_time(both, d):
    """Into one file and into a folder; of two channels over time too."""
    images = [sitk.GetImageFromArray(array) for seed in range(3) for array in make_case(seed)[0]]
    for number in (0, 1):
        sitk.WriteImage(sitk.JoinSeries(images[number::2]), str(d / f"movie {number}.nii.gz"))
    save_model(make_model(()), d / "one.sam3d")
    save_model(make_model(), d / "two.sam3d")
    files = ("--page", "OUT/qc.html", "--table", "OUT/t.csv", "--report", "OUT/r.html")
    one = ("segment", "movie 0.nii.gz", "--model", "one.sam3d", "--frames")
    both(*one, "1:3", "-o", "OUT/m.nii.gz", "--confidence", "OUT/c.nii.gz", *files)
    assert [row["frame"] for row in rows(d / "there" / "t.csv")] == ["1", "2"]
    assert rows(d / "here" / "t.csv") == rows(d / "there" / "t.csv")
    assert np.ptp([read_volume(d / "there" / "m.nii.gz", frame=n).array_kji.sum() for n in (0, 1)]) > 0
    two = ("--channel", "T2=movie 1.nii.gz", "--model", "two.sam3d", "--frames", "2")
    both("segment", "movie 0.nii.gz", *two, "-o", "OUT/two.nrrd", "--region", REGION)
