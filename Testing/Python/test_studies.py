"""The series of a DICOM study are the channels of a model by their names, or the study is refused in one line."""

import json

import numpy as np
import pytest

from channel_cases import make_case, make_model
from image_files import dicom
from SAM3DSegmentLib.channel import channels_called, is_sure, match_channels, modality_agrees
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import segment_volume
from SAM3DSegmentLib.model_file import load_model, save_model

UID = "1.2.826.0.1.3680043.2.1125"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model of two channels, untrained."""
    path = tmp_path_factory.mktemp("pair") / "pair.sam3d"
    save_model(make_model(modality="MRI"), path)
    return path


def series(folder, array, description, study=1, number=1, modality="MR", name="slice", **more):
    """One DICOM series in a folder, which may hold others."""

    def state(_k, data):
        data.StudyInstanceUID, data.SeriesDescription, data.Modality = f"{UID}.9.{study}", description, modality
        for tag, value in more.items():
            setattr(data, tag, value)

    folder.mkdir(parents=True, exist_ok=True)
    return dicom(folder, array, f"{UID}.{study}.{number}", name + "{:03d}.dcm", state)


def write_study(folder, seed, descriptions=("AX T2 TSE", "AX T1 SE"), study=1):
    """A folder for each channel, T2 before T1; the arrays of T1 and T2."""
    (first, second), _ = make_case(seed)
    for number, (array, description) in enumerate(zip((second, first), descriptions)):
        series(folder / f"s{number}", array, description, study, number)
    return first, second


def expected(folder, pair, arrays):
    matrix = read_volume(folder).ijk_to_ras
    return segment_volume(np.stack(arrays), matrix, load_model(pair), "cpu")


def only_error(error):
    (line,) = [line for line in error.splitlines() if line.startswith("ERROR")]
    return line


def test_the_series_of_each_study_of_a_tree_are_its_channels(d, pair, command):
    """One that cannot be told is refused with the names of its series; the others go on."""
    arrays = write_study(d / "in" / "Müller A" / "day 1", 0)
    write_study(d / "in" / "Müller A" / "day 2", 1, ("AX T2 FLAIR", "SAG T1"), study=2)
    others = write_study(d / "in" / "b", 2, ("t2_tse", "T1"), study=3)
    code, _, error = command(
        *("segment", d / "in", "-o", d / "out", "--recursive", "--model", pair, "--report", d / "r.json")
    )
    assert code == 1
    line = only_error(error)
    assert "the model 'pair' reads T1, T2" in line
    assert "none is called T2; give the folder of one as the input, and --channel NAME=FOLDER for each other" in line
    assert "'AX T2 FLAIR' (MR, 12 files, in" in line
    found = {str(path.relative_to(d / "out")) for path in (d / "out").rglob("*.seg.nrrd")}
    assert found == {"Müller A/day 1/s1.seg.nrrd", "b/s1.seg.nrrd"}  # of the first channel
    for folder, both in (("Müller A/day 1", arrays), ("b", others)):
        mask = read_volume(d / "out" / folder / "s1.seg.nrrd").array_kji
        assert np.array_equal(mask, expected(d / "in" / folder / "s1", pair, both))
        assert mask.any()
    report = json.loads((d / "r.json").read_text())
    assert report["segmented"][0]["channels"] == {
        name: str(d / "in" / "Müller A" / "day 1" / folder) for name, folder in (("T1", "s1"), ("T2", "s0"))
    }
    again = command("segment", d / "in", "-o", d / "out", "--recursive", "--model", pair)
    assert "2 already there, 1 failed" in again[2]


def test_one_study_is_one_volume_whether_its_series_have_folders_or_not(d, pair, command):
    """And as its series given by hand; a localizer does not disturb, nor what lies in the same folder."""
    arrays = write_study(d / "study", 0)
    series(d / "study" / "scout", arrays[0][:3], "localizer", number=7)
    series(d / "flat", arrays[0], "T1", number=1, name="a")
    series(d / "flat", arrays[1], "T2", number=2, name="b")
    outputs = {}
    for name, arguments in {
        "study": ["study"],
        "flat": ["flat"],
        "given": ["study/s1", "--channel", "t2=study/s0"],
        "swapped": ["study/s0", "--channel", "T1=study/s1"],
        "half": ["study", "--channel", "T2=flat"],
    }.items():
        arguments = [str(argument) for argument in arguments]
        code, _, error = command("segment", *arguments, "-o", d / f"{name}.nrrd", "--model", pair)
        assert code == 0, error
        outputs[name] = read_volume(d / f"{name}.nrrd").array_kji
    wanted = expected(d / "study" / "s1", pair, arrays)
    assert all(np.array_equal(mask, wanted) for mask in outputs.values())


@pytest.mark.parametrize(
    ("descriptions", "told"),
    [
        (("T1", "AX T1 GD"), "none is called T2"),
        (("3D", "AX T2"), "none is called T1"),
        (("AX T1", "SAG T1"), "T1 may be 'AX T1' or 'SAG T1'; none is called T2"),
        (("T1 and T2", "PD"), "T1 may be 'T1 and T2'; T2 may be 'T1 and T2'"),
    ],
)
def test_a_study_that_does_not_say_which_is_which_is_refused(d, pair, command, descriptions, told):
    write_study(d / "study", 0, descriptions)
    code, _, error = command("segment", d / "study", "-o", d / "o.nrrd", "--model", pair)
    assert code == 1
    assert told in only_error(error)
    assert not (d / "o.nrrd").exists()


def test_what_is_no_study_of_the_model_is_one_line(d, pair, tiny, command):
    first, second = write_study(d / "study", 0)

    def told(*arguments, model=pair):
        code, _, error = command("segment", *arguments, "-o", d / "o.nrrd", "--model", model)
        assert code == 1
        assert not (d / "o.nrrd").exists()
        return only_error(error)

    series(d / "ct" / "a", first, "T1", modality="CT")
    series(d / "ct" / "b", second, "T2", number=2)
    assert "none is called T1" in told(d / "ct")
    series(d / "two" / "a", first, "T1", study=1)
    series(d / "two" / "b", second, "T2", study=2)
    assert "holds the series of several DICOM studies; give the folder of one, or with --recursive" in told(d / "two")
    series(d / "far" / "a", first, "T1")
    series(d / "far" / "b", second[1:], "T2", number=2)
    assert "channel 'T2', " in told(d / "far")
    assert "it has 48 x 48 x 11 voxels instead of 48 x 48 x 12" in told(d / "far")
    code, _, error = command("segment", d / "far", "-o", d / "far.nrrd", "--model", pair, "--resample")
    assert code == 0, error
    series(d / "flat", first, "T1", number=1, name="a")
    series(d / "flat", second, "3D", number=2, name="b")
    line = told(d / "study" / "s1", "--channel", f"T2={d / 'flat'}")
    assert "holds 2 DICOM series, and it is not clear which is the channel 'T2'" in line
    assert "would both be" in told(d / "study" / "s1", "--channel", f"T2={d / 'study' / 's1'}")
    assert "holds no volume file and no DICOM series" in told(d / "study", model=tiny)


def test_patients_whose_studies_lost_their_numbers_are_never_mixed(d, pair, command):
    first, second = make_case(0)[0]
    series(d / "in" / "a" / "T1", first, "T1", StudyInstanceUID="")
    series(d / "in" / "b" / "T2", second, "T2", number=2, StudyInstanceUID="")
    series(d / "in" / "c" / "T1", first, "T1", number=3, PatientID="c")
    series(d / "in" / "d" / "T2", second, "T2", number=4, PatientID="d")
    series(d / "in" / "dump", first, "T1", number=5, study=3, name="a")
    series(d / "in" / "dump", first, "T1", number=6, study=4, name="b")
    code, _, error = command("segment", d / "in", "-o", d / "out", "--recursive", "--model", pair)
    assert code == 1
    assert "0 segmented, 0 already there, 5 failed" in error
    assert "'in/dump' holds series of several DICOM studies".replace("in", str(d / "in"), 1) in error


NAMES = ("T1", "T1 Gd", "T2", "FLAIR")


@pytest.mark.parametrize(
    ("text", "called"),
    [
        ("case_7_T1", ["T1"]),
        ("AX T1 GD 3mm", ["T1 Gd"]),
        ("t1-gd", ["T1 Gd"]),
        ("T1c", []),
        ("AX T2 FLAIR FS", ["FLAIR"]),
        ("t2_tirm_tra_dark-fluid", []),
        ("T2* GRE", []),
        ("T1+C", []),
        ("T1 T2 mapping", ["T1", "T2"]),
    ],
)
def test_a_name_is_a_channels_where_it_has_that_as_a_word(text, called):
    assert channels_called([text], NAMES) == called


def test_what_is_called_as_two_channels_is_neither():
    found = match_channels(("CT", "PET"), [["Abdomen", "CT"], ["PET CT AC", "PET"]], lambda n, k: n == ("CT", "PET")[k])
    assert [is_sure(name, found) for name in found] == [True, True]
    found = match_channels(("T1", "T2"), [["T1 T2"]])
    assert not any(is_sure(name, found) for name in found)
    assert match_channels(("T1",), [["T1"], ["AX T1"]]) == {"T1": [0]}


def test_modalities_agree_as_people_and_dicom_write_them():
    assert all(
        modality_agrees(*both) for both in [("MRI", "MR"), ("PET", "PT"), ("PET/CT", "CT"), ("", "CT"), ("CT", "")]
    )
    assert not any(modality_agrees(*both) for both in [("MRI", "CT"), ("CT", "PT"), ("PET", "CT")])
