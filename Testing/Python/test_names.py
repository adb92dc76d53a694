"""Names of files that libraries cannot take: bytes that are no text, as long as a name can be, `%`, capital endings."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

import image_files as make
from conftest import write_dicom
from SAM3DSegmentLib.formats.content import image_suffix
from SAM3DSegmentLib.model_file import Sam3dModel, load_model, save_model
from test_bad_input import check_refusal, contents

ODD = os.fsdecode(b"\xff\xfe")
LONGEST = 255  # bytes of a name
bytes_are_names = pytest.mark.skipif(sys.platform != "linux", reason="names are text here")


def named(folder, name, written):
    """A file under a name that its writer cannot take."""
    folder.mkdir(exist_ok=True)
    shutil.move(written, folder / name)


def a_nrrd(d):
    return make.write(d / "plain.nrrd")


def a_nifti(d):
    return make.nifti(d / "plain.nii")


def a_compressed_nifti(d):
    return make.write(d / "plain.nii.gz")


def a_metaimage(d):
    return make.mha(d / "plain.mha")


NAMES = [
    pytest.param(f"a{ODD}.nrrd", a_nrrd, marks=bytes_are_names),
    pytest.param(f"a{ODD}.nii", a_nifti, marks=bytes_are_names),
    pytest.param(f"a{ODD}.NII.GZ", a_compressed_nifti, marks=bytes_are_names),
    pytest.param(f"a{ODD}.mha", a_metaimage, marks=bytes_are_names),
    ("c.Nii.gz", a_compressed_nifti),
    ("c.NII", a_nifti),
    ("c.NRRD", a_nrrd),
    ("%d%s%n.nrrd", a_nrrd),
    ("%03d.nii", a_nifti),
    ("n" * (LONGEST - len(".seg.nrrd")) + ".nrrd", a_nrrd),
    ("n" * (LONGEST - len(".nii.gz") - 2) + ".nii.gz", a_compressed_nifti),
]


@pytest.mark.parametrize(("name", "write"), NAMES)
def test_a_volume_of_any_name_is_segmented(d, command, name, write):
    named(d / "in", name, write(d))
    code, _, err = command("segment", f"in/{name}", "-o", "o.nrrd")
    assert code == 0, err
    assert sitk.ReadImage("o.nrrd").GetSize() == make.image().GetSize()


@bytes_are_names
def test_a_folder_of_any_name_is_done_to_its_end(d, command):
    folder, out = d / f"in{ODD}", f"out{ODD}"
    for name in (f"a{ODD}.nrrd", "b.Nrrd", "%s.nrrd", "n" * 250 + ".nrrd", "z.nrrd"):
        named(folder, name, a_nrrd(d))
    before = contents(folder)
    code, _, err = command("segment", folder.name, "-o", out, "--report", f"r{ODD}.json")
    check_refusal(code, err, "n.seg.nrrd' cannot be written .File name too long.; rename it")
    assert {path.name for path in (d / out).iterdir()} == {f"{name}.seg.nrrd" for name in (f"a{ODD}", "b", "%s", "z")}
    report = json.loads((d / f"r{ODD}.json").read_text())
    assert (len(report["segmented"]), len(report["failed"])) == (4, 1)
    assert contents(folder) == before
    code, _, err = command("evaluate", "--predictions", out, "--labels", out, "--csv", f"e{ODD}.csv")
    assert code == 0, err
    assert "a\\udcff\\udcfe,Blob,1.0" in (d / f"e{ODD}.csv").read_text()


@bytes_are_names
def test_a_dicom_folder_of_any_name_is_read(d, command):
    write_dicom(d / "s", make.image())
    for path in list((d / "s").iterdir()):
        named(d / f"s{ODD}", path.stem + ODD, path)
    code, _, err = command("segment", f"s{ODD}", "-o", "o.nrrd")
    assert code == 0, err


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"o{ODD}.nii.gz", marks=bytes_are_names),
        pytest.param(f"o{ODD}.seg.nrrd", marks=bytes_are_names),
        pytest.param(f"o{ODD}.mha", marks=bytes_are_names),
        "O.NII.GZ",
        "O.Nii",
        "O.MHA",
        "O.SEG.NRRD",
        "%d%s%n.nrrd",
        "n" * (LONGEST - len(".nii.gz")) + ".nii.gz",
    ],
)
def test_a_result_of_any_name_is_written(d, command, name):
    make.write(d / "a.nrrd")
    confidence = f"c{name[1:]}"
    if ".seg" in name.lower():
        confidence = "c.NRRD"
    code, _, err = command("segment", "a.nrrd", "-o", name, "--confidence", confidence)
    assert code == 0, err
    assert {path.name for path in d.iterdir()} == {"a.nrrd", name, confidence}
    again = (d / name).rename(d / f"again{image_suffix(Path(name))}")
    assert sitk.ReadImage(str(again)).GetSize() == make.image().GetSize()


def test_a_result_whose_name_is_too_long_is_one_line(d, command):
    make.write(d / "a.nrrd")
    code, _, err = command("segment", "a.nrrd", "-o", "n" * LONGEST + ".nrrd")
    check_refusal(code, err, "File name too long")
    assert [path.name for path in d.iterdir()] == ["a.nrrd"]


@bytes_are_names
def test_training_cases_of_any_name_are_read(d, command):
    """A model's name has to be text, because TensorBoard cannot write elsewhere."""
    (d / f"data{ODD}").mkdir()
    for name in "abc":
        named(d / f"data{ODD}", f"{name}{ODD}.nrrd", a_nrrd(d))
        labels = make.write(d / "plain.nrrd", make.image((make.voxels() > 200).astype("u1")))
        named(d / f"data{ODD}", f"{name}{ODD}_label.nrrd", labels)
    config = {"encoder": "compact_vit", "image_size": 48, "channels": [256, 4, 4, 4, 4], "validations": 1}
    (d / "c.json").write_text(json.dumps({**config, "validation_cases": 1, "training_depth": 4}))
    train = ["train", "--data", f"data{ODD}", "--config", "c.json", "--epochs", "1", "--progress", "none", "-o"]
    code, _, err = command(*train, f"m{ODD}.sam3d")
    check_refusal(code, err, "is not UTF-8, so no log can be written there; rename it")
    assert {path.name for path in d.iterdir()} == {f"data{ODD}", "c.json"}
    code, _, err = command(*train, "m.sam3d")
    assert code == 0, err


@bytes_are_names
def test_a_model_of_any_name_is_read(d, command, tiny):
    make.write(d / "a.nrrd")
    shutil.copy(tiny, d / f"m{ODD}.sam3d")
    code, _, err = command("segment", "a.nrrd", "-o", "o.nrrd", "--model", f"m{ODD}.sam3d")
    assert code == 0, err
    model = load_model(d / f"m{ODD}.sam3d")
    assert isinstance(model, Sam3dModel)
    save_model(model, d / f"again{ODD}.sam3d")
    assert load_model(d / f"again{ODD}.sam3d").sha256
    assert command("models", "import", f"m{ODD}.sam3d")[0] == 0
    assert command("models", "list")[0] == 0
