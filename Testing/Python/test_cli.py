"""The command line: in this process, and in real child processes where a process makes a difference."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS, MODULE, MRI, MRI_LABEL
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.commands.sources import Outputs, find_targets
from SAM3DSegmentLib.inference import Segmenter
from SAM3DSegmentLib.model_file import save_model

LABELS = HIPPOCAMPUS / "labelsTr"


def one_line_error(result):
    """Exit 1 with one line on standard error and no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_segment_writes_a_named_segmentation_and_a_report(run_child, tmp_path):
    out, report = tmp_path / "x.seg.nrrd", tmp_path / "x.json"
    result = run_child("segment", MRI, "-o", out, "--device", "cpu", "--report", report, "--progress", "json")
    assert result.returncode == 0, result.stderr
    image, source = sitk.ReadImage(str(out)), sitk.ReadImage(str(MRI))
    assert image.GetSize() == source.GetSize()
    np.testing.assert_allclose(image.GetOrigin(), source.GetOrigin())
    mask, reference = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(sitk.ReadImage(str(MRI_LABEL)))
    overlap = 2 * np.count_nonzero((mask > 0) & (reference > 0))
    assert overlap / (np.count_nonzero(mask) + np.count_nonzero(reference)) > 0.85
    progress = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(set(line) == {"stage", "done", "total", "eta_s"} for line in progress)
    assert progress[-1]["done"] == progress[-1]["total"]
    assert progress[-1]["eta_s"] == 0
    record = json.loads(report.read_text())["segmented"][0]
    assert record["model"] == "hippocampus-mri"
    assert len(record["model_sha256"]) == 64
    assert record["segments"][0]["volume_ml"] == pytest.approx(np.count_nonzero(mask == 1) / 1000, rel=1e-3)


def test_a_folder_is_segmented_skipping_what_is_there(run_cli, tmp_path, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("hippocampus_051.nii.gz", "hippocampus_340.nii.gz"):
        (folder / name).write_bytes((HIPPOCAMPUS / "imagesTr" / name).read_bytes())
    (folder / "broken.nii.gz").write_bytes(b"nonsense")
    first = run_cli("segment", folder, "-o", out, "--device", "cpu", "--progress", "none")
    assert "broken.nii.gz" in one_line_error(first)
    assert "2 segmented, 0 already there, 1 failed" in first.stderr
    assert sorted(path.name for path in out.iterdir()) == ["hippocampus_051.seg.nrrd", "hippocampus_340.seg.nrrd"]
    (folder / "broken.nii.gz").unlink()
    before = (out / "hippocampus_051.seg.nrrd").stat().st_mtime_ns
    monkeypatch.delattr(Segmenter, "load")  # nothing is left to do, so no encoder need be there
    second = run_cli("segment", folder, "-o", out, "--progress", "none")
    assert second.returncode == 0
    assert "0 segmented, 2 already there, 0 failed" in second.stderr
    assert (out / "hippocampus_051.seg.nrrd").stat().st_mtime_ns == before


def test_a_region_of_a_volume_is_segmented_as_if_it_were_all(run_cli, tmp_path, tiny):
    region, options = "4:30,6:40,3:26", ("--model", tiny, "--progress", "none")
    crop = tmp_path / "crop.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(MRI))[4:30, 6:40, 3:26], str(crop))
    for image, out, more in ((MRI, "here", ("--region", region)), (crop, "there", ())):
        report = ("--report", tmp_path / f"{out}.json")
        assert run_cli("segment", image, "-o", tmp_path / f"{out}.nii.gz", *options, *report, *more).returncode == 0
    here, there = (sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("here", "there"))
    records = [json.loads((tmp_path / f"{name}.json").read_text())["segmented"][0] for name in ("here", "there")]
    assert (records[0]["region"], records[0]["boxes"]) == (region, [region])
    assert (records[1]["region"], records[1]["boxes"]) == ("auto", ["0:26,0:34,0:23"])
    assert records[0]["segments"] == records[1]["segments"]
    inside = sitk.GetArrayFromImage(here)[3:26, 6:40, 4:30]
    np.testing.assert_array_equal(inside, sitk.GetArrayFromImage(there))
    assert 0 < np.count_nonzero(inside) == np.count_nonzero(sitk.GetArrayFromImage(here))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.nii.gz", "-o", "x.nii.gz"], "nowhere.nii.gz"),
        ([str(MODULE / "SAM3DSegmentLib" / "cli.py"), "-o", "x.nii.gz"], "not in a known format"),
        ([str(MRI), "-o", "x.png"], "unknown ending"),
        ([str(MRI), "-o", "nowhere/x.nii.gz"], "make it first"),
        (
            [str(MRI), "-o", "x.nii.gz", "--model", "liver"],
            "'liver' is unknown; use a model file, or one of hippocampus-mri",
        ),
        ([str(MRI), "-o", "x.nii.gz", "--model", str(MRI)], "not a model file"),
        ([str(MRI), "-o", "x.nii.gz", "--device", "abacus"], "'abacus' is unknown"),
        ([str(MRI), "-o", "x.nii.gz", "--region", "0:9,0:9"], "region '0:9,0:9' is unknown; give auto, whole, or"),
        ([str(MRI), "-o", "x.nii.gz", "--region", "9:9,0:9,0:9"], "region '9:9,0:9,0:9' has no voxel"),
        ([str(MRI), "-o", "x.nii.gz", "--region", "0:9,0:9,0:999"], "region '0:9,0:9,0:999' reaches beyond the volume"),
        ([str(MRI), "-o", "x.nii.gz", "--precision", "fp16", "--device", "cpu"], "not available on the CPU"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run_cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in one_line_error(run_cli("segment", *arguments, "--progress", "none"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", HIPPOCAMPUS, "-o", "nowhere/m.sam3d"], "make it first"),
        (["train", "--data", HIPPOCAMPUS, "-o", "m.txt"], "unknown ending; use .sam3d"),
        (["train", "--data", HIPPOCAMPUS, "-o", "folder.sam3d"], "is a folder"),
        (["train", "--data", HIPPOCAMPUS, "-o", "m.sam3d", "--minutes", "-1"], "minutes -1.0 is not a duration"),
        (["train", "--data", "nowhere", "-o", "m.sam3d"], "check the path"),
        (["segment", MRI, "-o", "x.nii.gz", "--report", "nowhere/r.json"], "make it first"),
        (["segment", MRI, "-o", "x.nii.gz", "--confidence", "nowhere/c.nrrd"], "make it first"),
        (["evaluate", "--predictions", LABELS, "--labels", LABELS, "--csv", "nowhere/e.csv"], "make it first"),
        (["evaluate", "--predictions", LABELS, "--labels", LABELS, "--tolerance-mm", "-1"], "tolerance"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_work(run_cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.sam3d").mkdir()
    assert message in one_line_error(run_cli(*arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.sam3d"]


def test_a_model_on_sams_encoder_says_how_to_get_the_weights(run_cli, tmp_path, bundled_model):
    encoder = dataclasses.replace(bundled_model.card.encoder, name="sam_vit_b", vit=None)
    card = dataclasses.replace(bundled_model.card, encoder=encoder)
    save_model(dataclasses.replace(bundled_model, card=card, encoder_tensors={}), tmp_path / "m.sam3d")
    arguments = ["segment", MRI, "-o", tmp_path / "x.nii.gz", "--model", tmp_path / "m.sam3d"]
    assert "weights download sam_vit_b" in one_line_error(run_cli(*arguments))
    assert "is not a file" in one_line_error(run_cli(*arguments, "--sam-checkpoint", tmp_path / "gone.pth"))
    assert not (tmp_path / "x.nii.gz").exists()


def test_an_existing_result_is_not_overwritten_unless_asked(run_cli, tmp_path):
    out = tmp_path / "x.nii.gz"
    out.write_bytes(b"precious")
    assert "--overwrite" in one_line_error(run_cli("segment", MRI, "-o", out))
    assert out.read_bytes() == b"precious"
    assert run_cli("segment", MRI, "-o", out, "--overwrite", "--progress", "none").returncode == 0
    assert sitk.ReadImage(str(out)).GetSize() == sitk.ReadImage(str(MRI)).GetSize()


def test_wrong_usage_is_2(run_cli, run_child):
    assert run_child("segment").returncode == 2
    assert run_cli("juggle").returncode == 2
    assert run_cli("train", "--data", "x", "-o", "y", "--minutes", "1", "--epochs", "1").returncode == 2
    for option in ("--cases", "--epochs"):
        result = run_cli("train", "--data", "x", "-o", "y", option, "0")
        assert result.returncode == 2
        assert "'0' is not a whole number above 0" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a child")
def test_an_interrupt_cancels_with_130_and_leaves_nothing(tmp_path):
    out = tmp_path / "x.nii.gz"
    large = tmp_path / "large.nrrd"
    image = sitk.ReadImage(str(MRI))
    sitk.WriteImage(sitk.GetImageFromArray(np.tile(sitk.GetArrayFromImage(image), (1, 40, 1))), str(large))
    command = [sys.executable, "-m", "SAM3DSegmentLib", "segment", str(large), "-o", str(out), "--progress", "json"]
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        child.stdout.readline()  # it is at work
        asked = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert time.monotonic() - asked < 30
    assert "cancelled" in errors
    assert "Traceback" not in errors
    assert not out.exists()


@pytest.mark.slow
def test_train_and_evaluate_and_segment_with_the_new_model(run_cli, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "encoder": "compact_vit",
                "image_size": 48,
                "channels": [256, 16, 16, 8, 8],
                "validation_cases": 1,
                "validations": 1,
                "training_depth": 12,
            }
        )
    )
    model = tmp_path / "mine.sam3d"
    script = MODULE / "Scripts" / "train_sam3d.py"
    command = [sys.executable, script, "--data", HIPPOCAMPUS, "-o", model, "--config", config, "--epochs", "1"]
    trained = subprocess.run(
        [str(c) for c in command] + ["--progress", "none"], capture_output=True, text=True, timeout=300
    )
    assert trained.returncode == 0, trained.stderr
    assert (
        json.loads(run_cli("models", "show", model).stdout)["training"]["steps"] == 6
    )  # three cases of four windows, two a step
    out = tmp_path / "out"
    segmented = run_cli("segment", HIPPOCAMPUS / "imagesTr", "-o", out, "--model", model, "--progress", "none")
    assert segmented.returncode == 0, segmented.stderr
    table = run_cli(
        "evaluate",
        "--predictions",
        out,
        "--labels",
        HIPPOCAMPUS / "labelsTr",
        "--json",
        tmp_path / "e.json",
        "--csv",
        tmp_path / "e.csv",
    )
    assert table.returncode == 0, table.stderr
    assert "mean" in table.stdout
    assert len(json.loads((tmp_path / "e.json").read_text())["rows"]) == 4 * 2 + 2
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 4 * 2 + 2 + 1


@pytest.mark.slow
def test_models_weights_cache_and_doctor_answer(run_cli, tmp_path):
    assert run_cli("models", "list").stdout.startswith("hippocampus-mri")
    card = json.loads(run_cli("models", "show", "hippocampus-mri").stdout)
    assert card["labels"][0]["type"]["scheme"] == "SCT"
    assert run_cli("weights", "path").stdout.strip().endswith("sam_vit_b_01ec64.pth")
    assert "weights download sam_vit_b" in one_line_error(run_cli("weights", "verify"))
    assert "not here" in run_cli("weights", "list").stdout
    assert run_cli("cache", "info").stdout.startswith("0 files")
    doctor = run_cli("doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert "torch" in doctor.stdout
    assert "attention, positions folded" in doctor.stdout
    assert "hippocampus-mri" in doctor.stdout
    measured = json.loads(run_cli("doctor", "--json", "--model", "hippocampus-mri").stdout)
    assert measured["devices"][:2] == ["auto", "cpu"]
    assert not measured["problems"]
    assert 0 < measured["seconds_per_slice"] < 10


def test_help_needs_no_heavy_import(run_cli):
    code = (
        "import sys; sys.argv = ['sam3dsegment', '--help']\n"
        "from SAM3DSegmentLib.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'SimpleITK') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(MODULE)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert "segment" in result.stdout


def test_two_inputs_never_share_an_output(tmp_path):
    for name in ("a.nii", "a.nrrd"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="rename one"):
        find_targets([tmp_path], Outputs(tmp_path / "out"))


def test_a_file_that_is_replaced_after_it_was_looked_at_is_read_as_it_is_now(tmp_path):
    """In a folder run hours may pass between the two."""
    for name, depth in (("a", 4), ("b", 6)):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((depth, 8, 8), np.int16)), str(tmp_path / f"{name}.nrrd"))
    targets = find_targets([tmp_path], Outputs(tmp_path / "out"))
    (tmp_path / "b.nrrd").replace(tmp_path / "a.nrrd")
    assert targets.each[0].source.read(None).array_kji.shape == (6, 8, 8)
