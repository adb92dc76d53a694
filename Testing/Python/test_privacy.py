"""Nothing that names a patient leaves the input: a DICOM series with such fields is segmented and trained on.

Every file that a command writes or leaves is searched for them, compressed ones unpacked, and so is what it says.
"""

import gzip
import json
import tempfile
import zlib

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, MRI, write_dicom
from SAM3DSegmentLib.model_file import save_model
from test_model_file import small_model

SECRETS = {
    "PatientName": "Zappelphilipp^Ottokar",
    "PatientID": "ZAP-4711-X",
    "PatientBirthDate": "19310704",
    "PatientAddress": "Quittenweg 77",
    "OtherPatientNames": "Knurrhahn",
    "PatientComments": "likes herring",
    "InstitutionName": "Quarkstein Hospital",
    "ReferringPhysicianName": "Wunderlich^Doktor",
    "AccessionNumber": "ACC998877",
    "StudyID": "STU5566",
    "StudyDate": "19991224",
    "DeviceSerialNumber": "SN-31415926",
    "StudyInstanceUID": "1.2.3.4.777001",
    "SeriesDescription": "of Ottokar himself",
}
NEEDLES = {part for value in SECRETS.values() for part in value.split("^")}


@pytest.fixture
def series(tmp_path):
    """The bundled MRI as a DICOM series with all of SECRETS in each file."""
    folder = tmp_path / "input" / "series"
    folder.parent.mkdir()
    write_dicom(folder, sitk.Cast(sitk.ReadImage(str(MRI)), sitk.sitkInt16))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for keyword, value in SECRETS.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)
    assert all(needle.encode() in path.read_bytes() for needle in NEEDLES)
    return folder


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where a command can leave something: outputs, the user's folders, and the folder for temporary files."""
    for name in ("out", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # which it has found before, of this process
    return tmp_path


def unpacked(content):
    """The bytes of a file as they are, and what is compressed in them: whole (.nii.gz) or behind a header (.nrrd)."""
    yield content
    for start in (0, content.find(b"\n\n") + 2):
        for unpack in (gzip.decompress, lambda data: zlib.decompressobj(47).decompress(data)):
            try:
                yield unpack(content[start:])
            except (OSError, EOFError, zlib.error):
                continue


def assert_clean(places, *said):
    """No file but the input has one of the NEEDLES, in its name or content, and neither has what was said."""
    texts = {f"said {number}": [text.encode()] for number, text in enumerate(said)}
    for path in places.rglob("*"):
        if path.is_file() and (places / "input") not in path.parents:
            texts[str(path.relative_to(places))] = [path.name.encode(), *unpacked(path.read_bytes())]
    for name, contents in texts.items():
        for content in contents:
            found = [
                needle for needle in NEEDLES if needle.encode() in content or needle.encode("utf-16-le") in content
            ]
            assert not found, f"{found} in {name}"
    return list(texts)


def test_the_search_finds_what_is_hidden(places):
    """The search itself: plain, in a compressed file, behind the header of an NRRD file."""
    for name, content in (
        ("a.json", b"by Zappelphilipp"),
        ("a.nii.gz", gzip.compress(b"of ZAP-4711-X")),
        ("a.nrrd", b"NRRD0004\nencoding: gzip\n\n" + gzip.compress(b"Knurrhahn")),
    ):
        (places / "out" / name).write_bytes(content)
        with pytest.raises(AssertionError, match=name):
            assert_clean(places)
        (places / "out" / name).unlink()


@pytest.mark.parametrize("name", ["x.seg.nrrd", "x.nrrd", "x.nii.gz", "x.mha"])
def test_segment(run_cli, places, series, name):
    save_model(small_model(), places / "m.sam3d")
    out = places / "out"
    result = run_cli(
        *("segment", series, "-o", out / name, "--report", out / "report.json", "--confidence", out / "c.nrrd"),
        *("--model", places / "m.sam3d", "--device", "cpu", "--progress", "json", "--page", out / "qc.html"),
    )
    assert result.returncode == 0, result.stderr
    looked_at = assert_clean(places, result.stdout, result.stderr)
    assert {f"out/{name}", "out/report.json", "out/c.nrrd", "out/qc.html", "out/qc_files/cases.json"} <= set(looked_at)
    assert not list((places / "temporary").iterdir())
    image = sitk.ReadImage(str(out / name))
    assert not [key for key in image.GetMetaDataKeys() if key.startswith("00")]  # DICOM tags


def test_a_dicom_segmentation_alone_names_the_patient(run_cli, places, series):
    """Because the standard demands it; SECURITY.md says so."""
    pytest.importorskip("highdicom")
    save_model(small_model(), places / "m.sam3d")
    out = places / "out"
    result = run_cli(
        *("segment", series, "-o", out / "x.dcm", "--report", out / "report.json"),
        *("--model", places / "m.sam3d", "--device", "cpu", "--progress", "json"),
    )
    assert result.returncode == 0, result.stderr
    written = pydicom.dcmread(out / "x.dcm")
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID"):
        assert written[keyword].value == SECRETS[keyword]
    assert "SeriesDescription" in written
    assert "Ottokar himself" not in written.SeriesDescription
    (out / "x.dcm").unlink()
    assert "out/report.json" in assert_clean(places, result.stdout, result.stderr)


@pytest.mark.slow
def test_what_fails_says_nothing_of_the_patient(run_child, places, series):
    for path in sorted(series.iterdir())[3:6]:
        path.unlink()
    save_model(small_model(), places / "m.sam3d")
    result = run_child("segment", series, "-o", places / "out" / "x.nrrd", "--model", places / "m.sam3d")
    assert result.returncode == 1
    assert_clean(places, result.stdout, result.stderr)


@pytest.mark.slow
def test_train(run_child, places, series):
    """On images whose files carry the fields as ITK keeps them, in their metadata."""
    data = places / "input" / "data"
    (data / "imagesTr").mkdir(parents=True)
    (data / "labelsTr").mkdir()
    for label in sorted((HIPPOCAMPUS / "labelsTr").iterdir())[:3]:
        name = label.name.replace(".nii.gz", ".nrrd")
        for kind in ("imagesTr", "labelsTr"):
            image = sitk.ReadImage(str(HIPPOCAMPUS / kind / label.name))
            for number, (keyword, value) in enumerate(SECRETS.items()):
                image.SetMetaData(f"0010|{number:04x}", value)
                image.SetMetaData(keyword, value)
            sitk.WriteImage(image, str(data / kind / name))
            assert b"Zappelphilipp" in (data / kind / name).read_bytes()
    settings = {"encoder": "compact_vit", "image_size": 32, "channels": [256, 8, 8, 8, 8], "training_depth": 8}
    (places / "input" / "settings.json").write_text(json.dumps(settings))
    result = run_child(
        *("train", "--data", data, "-o", places / "out" / "m.sam3d", "--config", places / "input" / "settings.json"),
        *("--epochs", 1, "--device", "cpu", "--progress", "json"),
    )
    assert result.returncode == 0, result.stderr
    assert "out/m.sam3d" in assert_clean(places, result.stdout, result.stderr)
    labels = places / "out" / "labels"
    labels.mkdir()
    written = run_child("segment", series, "-o", labels / "x.nrrd", "--model", places / "out" / "m.sam3d")
    assert written.returncode == 0, written.stderr
    assert np.isin(sitk.GetArrayFromImage(sitk.ReadImage(str(labels / "x.nrrd"))), (0, 1, 2)).all()
    assert_clean(places, written.stdout, written.stderr)
