"""Training on real MRIs, shortened: what is checked is that it works, not how far it gets."""

import base64
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import SimpleITK as sitk
import torch
from lightning_fabric.plugins.precision import MixedPrecision

from conftest import HIPPOCAMPUS, MODULE, MRI
from SAM3DSegmentLib.base.errors import Cancelled, InputError, TrainingError, WeightsError
from SAM3DSegmentLib.base.jsonable import from_json, to_json
from SAM3DSegmentLib.base.progress import SILENT, Silent
from SAM3DSegmentLib.base.watch import UNWATCHED, Watch
from SAM3DSegmentLib.card import LEAST_IMAGE_SIZE, Label, SlicingRule
from SAM3DSegmentLib.channel import IntensityRule
from SAM3DSegmentLib.cli import main
from SAM3DSegmentLib.decoder import Sam3dDecoder
from SAM3DSegmentLib.encoder import FrozenEncoder
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import Segmenter, segment_volume
from SAM3DSegmentLib.losses import DeepSupervisionLoss
from SAM3DSegmentLib.metrics import Scores, dice
from SAM3DSegmentLib.model_file import load_model, save_model
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.preparation import Preparation, SquareFit
from SAM3DSegmentLib.settings import AugmentationConfig, TrainingConfig
from SAM3DSegmentLib.training.check import check
from SAM3DSegmentLib.training.checkpoint import Checkpoint, read_checkpoint
from SAM3DSegmentLib.training.loop import GRADIENT_NORM, Budget, Loop, make_fabric
from SAM3DSegmentLib.training.plan import make_config, make_plan
from SAM3DSegmentLib.training.report import draw_case
from SAM3DSegmentLib.training.run import train
from SAM3DSegmentLib.training.run_folder import Options
from SAM3DSegmentLib.training.samples import Sample
from SAM3DSegmentLib.training.validation import Validation
from test_training_samples import write_case

COMPACT = TrainingConfig(
    encoder="compact_vit",
    image_size=32,
    channels=(256, 16, 16, 8, 8),
    slicing=SlicingRule("coronal"),
    batch_size=1,
    training_depth=12,
    validation_cases=1,
    validations=2,
    epochs=1,
)
CPU = Options(device="cpu")


def start(output, config=COMPACT, data=HIPPOCAMPUS, display=SILENT, cancelled=lambda: False, **options):
    return train(data, output, config, dataclasses.replace(CPU, **options), Watch(display, cancelled))


class Recorded(Silent):
    """Keeps what a training tells."""

    def __init__(self):
        self.stages, self.events = [], []

    def progress(self, stage, done, total):
        self.stages.append((stage, done, total))

    def event(self, name, **values):
        self.events.append({"event": name, **values})


@pytest.fixture(scope="module")
def lender(tmp_path_factory):
    """A model with an encoder to lend, made in a second by a training as COMPACT says."""
    path = tmp_path_factory.mktemp("lender") / "lender.sam3d"
    start(path)
    return path


@pytest.fixture(scope="module")
def frozen(lender):
    return dataclasses.replace(COMPACT, encoder=str(lender), augmented_copies=1)


@pytest.fixture(scope="module")
def unbroken(frozen, tmp_path_factory):
    """A model made by a training as `frozen` says, from its beginning to its end."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAM3DSEGMENT_CACHE", str(folder / "cache"))
        return start(folder / "m.sam3d", frozen)


def assert_same_decoder(one, other):
    for key, value in one.decoder.state_dict().items():
        assert torch.equal(other.decoder.state_dict()[key], value), key


def test_the_compact_encoder_is_trained_frozen_and_carried(tmp_path):
    told = Recorded()
    start(tmp_path / "m.sam3d", display=told)
    model = load_model(tmp_path / "m.sam3d")
    assert {tensor.dtype for tensor in safetensors.torch.load_file(tmp_path / "m.sam3d").values()} == {torch.float16}
    assert model.card.encoder.in_model_file
    assert model.card.training.cases == 3
    assert set(model.card.training.dice) == {"Anterior", "Posterior"}
    assert model.card.spacing_mm == (1, 1, 1)
    steps = model.card.training.steps
    assert told.stages[-1] == ("train", steps, steps)
    losses = [event for event in told.events if event["event"] == "loss"]
    assert losses[-1]["step"] == steps
    assert all(event["loss"] > 0 and event["seconds"] >= 0 for event in losses)
    others = [event for event in told.events if event["event"] != "loss"]
    assert [event["event"] for event in others] == ["validation", "validation", "report"]
    assert set(others[0]["dice"]) == {"Anterior", "Posterior"}
    assert sorted(path.name for path in tmp_path.iterdir() if "user-" not in path.name) == ["m.sam3d", "m.training"]
    kept = sorted(path.name for path in (tmp_path / "m.training" / "fold-1").iterdir())
    assert kept == ["best.sam3d", "last.sam3d"]
    record = json.loads((tmp_path / "m.training" / "run.json").read_text())
    assert sorted(record["fingerprint"]) == [f"hippocampus_{n}" for n in ("051", "225", "335", "340")]
    split = record["splits"][0]
    assert sorted(split["training"] + split["validation"]) == sorted(record["fingerprint"])
    assert set(record["result"]["validation"]) == set(split["validation"])


def test_the_report_is_one_page_that_needs_nothing_else(tmp_path):
    config = dataclasses.replace(COMPACT, name="<Left & right>", test_cases=1)
    told = Recorded()
    start(tmp_path / "m.sam3d", config, display=told)
    page = (tmp_path / "m.training" / "report.html").read_text(encoding="utf-8")
    assert told.events[-1] == {"event": "report", "file": str(tmp_path / "m.training" / "report.html")}
    assert "<title>Training of &lt;Left &amp; right&gt;</title>" in page
    assert not re.search(r"https?://|<script|<link", page)
    record = json.loads((tmp_path / "m.training" / "run.json").read_text())
    for case, sha256 in record["fingerprint"].items():
        assert case in page
        assert sha256[:16] in page
    assert page.count("<polyline") == 1 + 2
    assert "Test cases: Dice" in page
    assert "Validation cases: Dice" in page
    png = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    (tmp_path / "worst.png").write_bytes(png)
    width, height = sitk.ReadImage(str(tmp_path / "worst.png")).GetSize()
    assert (width, height) == (3 * 320, 320)


def test_the_picture_shows_the_slice_that_differs_most():
    volume = read_volume(HIPPOCAMPUS / "imagesTr" / "hippocampus_051.nii.gz")
    prepared = Preparation(SlicingRule("coronal"), (IntensityRule(),), 64).prepare(volume.array_kji, volume.ijk_to_ras)
    reference = read_volume(HIPPOCAMPUS / "labelsTr" / "hippocampus_051.nii.gz").array_kji
    dhw = prepared.slicing.to_dhw(reference).copy()
    dhw[11] = 0
    labels = (Label(1, "A", (255, 0, 0)), Label(2, "B", (0, 255, 0)))
    assert (prepared.slicing.to_dhw(reference)[11] > 0).any()
    assert draw_case(prepared, reference, prepared.slicing.to_kji(dhw), labels)[1] == 11


def test_an_epoch_is_a_pass_over_the_cases(lender):
    """A case of d slices is covered by ceil(d / 12) windows."""
    split = json.loads((lender.with_suffix(".training") / "run.json").read_text())["splits"][0]
    paths = [HIPPOCAMPUS / "imagesTr" / f"{name}.nii.gz" for name in split["training"]]
    windows = sum(-(-sitk.ReadImage(str(path)).GetSize()[1] // 12) for path in paths)
    assert load_model(lender).card.training.steps == windows


def test_a_frozen_encoder_is_asked_once_for_each_slice(tmp_path, frozen, monkeypatch):
    start(tmp_path / "a.sam3d", frozen)

    def fail(self, slices):
        raise AssertionError("the embeddings should be in the cache")

    monkeypatch.setattr(FrozenEncoder, "__call__", fail)
    start(tmp_path / "b.sam3d", frozen)


def test_a_model_lends_its_encoder(tmp_path, frozen, lender):
    model, source = start(tmp_path / "m.sam3d", frozen, cases=1), load_model(lender)
    assert model.card.encoder == source.card.encoder
    for key, value in source.encoder_tensors.items():
        assert torch.equal(model.encoder_tensors[key], value)


@pytest.mark.parametrize(("own", "asked", "used"), [(32, 0, 48), (96, 0, 96), (32, 64, 64)])
def test_a_lent_encoder_reads_slices_as_fine_as_they_are(tmp_path, frozen, lender, own, asked, used):
    """Coronal slices have about 38 x 33 pixels here, which a square of 48 shows one by one."""
    source = load_model(lender)
    encoder = dataclasses.replace(source.card.encoder, image_size=own)
    save_model(
        dataclasses.replace(source, card=dataclasses.replace(source.card, encoder=encoder)), tmp_path / "l.sam3d"
    )
    config = dataclasses.replace(frozen, encoder=str(tmp_path / "l.sam3d"), image_size=asked)
    assert make_plan(HIPPOCAMPUS, config).image_size == used
    model = start(tmp_path / "m.sam3d", config, cases=1)
    assert model.card.encoder == dataclasses.replace(encoder, image_size=used)
    assert load_model(tmp_path / "m.sam3d").load_encoder("cpu").image_size == used


@pytest.mark.slow
@pytest.mark.parametrize(("name", "normalisation"), [("sam_vit_b", "sam"), ("medsam_vit_b", "unit")])
def test_training_on_a_published_encoder(tmp_path, untrained_sam, name, normalisation):
    """Of untrained weights. The card says which, and how slices were normalised, for whoever uses the model."""
    config = dataclasses.replace(COMPACT, encoder=name, augmented_copies=0)
    model = start(tmp_path / "a.sam3d", config, cases=1, sam_checkpoint=untrained_sam)
    assert not model.encoder_tensors
    assert len(model.card.encoder.sha256) == 64
    assert (model.card.encoder.name, model.card.encoder.normalisation) == (name, normalisation)
    assert load_model(tmp_path / "a.sam3d").load_encoder("cpu", "fp32", untrained_sam).config == model.card.encoder


def cancel_after(calls):
    """True from the call with this number on."""
    count = iter(range(10**6))
    return lambda: next(count) >= calls


@pytest.mark.parametrize(
    ("device", "minutes", "least_dice"),
    [
        pytest.param("cpu", 0.05, 0, marks=pytest.mark.slow),  # the same in short, so that it is known to work
        pytest.param(
            *("cuda", 1, 0.5),
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")],
        ),
    ],
)
def test_a_training_on_a_device_by_the_clock(run_cli, tmp_path, device, minutes, least_dice):
    model, mask, settings = tmp_path / "m.sam3d", tmp_path / "mask.nii.gz", tmp_path / "settings.json"
    settings.write_text('{"validation_cases": 1}')
    source = ("--encoder", "hippocampus-mri", "--config", settings, "--minutes", minutes, "--device", device)
    done = run_cli("train", "--data", HIPPOCAMPUS, "-o", model, *source)
    assert done.returncode == 0, done.stderr
    summary = load_model(model).card.training
    assert summary.steps > 0
    assert min(summary.dice.values()) >= least_dice
    done = run_cli("segment", MRI, "-o", mask, "--model", model, "--device", device)
    assert done.returncode == 0, done.stderr
    assert mask.is_file()


@pytest.mark.parametrize("calls", [4, 9, 14])
def test_a_stopped_training_goes_on_and_ends_as_an_unbroken_one(tmp_path, frozen, unbroken, calls):
    """Stopped while cases are prepared or encoded, while it trains, and while it validates."""
    with pytest.raises(Cancelled, match=r"--resume|nothing was written"):
        start(tmp_path / "m.sam3d", frozen, cancelled=cancel_after(calls))
    assert not (tmp_path / "m.sam3d").exists()
    resumed = start(tmp_path / "m.sam3d", frozen, resume=True)
    assert resumed.card.training.steps == unbroken.card.training.steps
    assert resumed.card.training.dice == unbroken.card.training.dice
    assert_same_decoder(resumed, unbroken)
    assert not list((tmp_path / "m.training").rglob("checkpoint.pt"))


def test_looking_at_the_cases_is_cancelled_between_two_of_them(tmp_path):
    told = Recorded()
    with pytest.raises(Cancelled, match="nothing was written"):
        start(tmp_path / "m.sam3d", display=told, cancelled=lambda: ("look", 2, 4) in told.stages)
    assert told.stages == [("look", 1, 4), ("look", 2, 4)]
    assert not list(tmp_path.iterdir())


def test_encoding_is_cancelled_within_a_batch(tmp_path, frozen):
    told = Recorded()
    with pytest.raises(Cancelled, match="8 of 153 slices were encoded"):
        start(
            tmp_path / "m.sam3d",
            frozen,
            display=told,
            cancelled=lambda: any(stage == "encode" and done for stage, done, _ in told.stages),
        )
    assert told.stages[-1][:2] == ("encode", 8)


def run_child(*arguments, until, environment=None):
    """Start the command line and kill it without warning when a line of its output satisfies `until`."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "SAM3DSegmentLib",
            "train",
            *map(str, arguments),
            "--device",
            "cpu",
            "--progress",
            "json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1", **(environment or {})},
    )
    try:
        for line in child.stdout:
            if until(json.loads(line)):
                child.send_signal(signal.SIGKILL)
                return
        pytest.fail("the training ended before it could be killed")
    finally:
        child.kill()
        child.wait()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["encode", "train"])
def test_a_killed_training_goes_on_and_ends_as_an_unbroken_one(tmp_path, frozen, stage, monkeypatch):
    torch.set_num_threads(1)
    config = dataclasses.replace(frozen, epochs=3, validations=6)
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    arguments = ("--data", HIPPOCAMPUS, "-o", tmp_path / "m.sam3d", "--config", tmp_path / "config.json")
    enough = {"encode": 16, "train": 9}[stage]
    run_child(*arguments, until=lambda line: line.get("stage") == stage and line["done"] >= enough)
    assert not (tmp_path / "m.sam3d").exists()
    assert main(["train", *map(str, arguments), "--device", "cpu", "--resume", "--progress", "none"]) == 0
    unbroken = start(tmp_path / "u.sam3d", config)
    assert_same_decoder(load_model(tmp_path / "m.sam3d"), unbroken)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training of four steps, stopped; and its data, which a test may change in a copy."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(HIPPOCAMPUS, folder / "data")
    with pytest.raises(Cancelled):
        start(folder / "m.sam3d", data=folder / "data", cancelled=cancel_after(7))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {"config": dataclasses.replace(COMPACT, learning_rate=0.5)}, "other values of learning_rate"),
        (lambda d: {"config": dataclasses.replace(COMPACT, validations=1)}, "other values of validations"),
        (lambda d: {"cases": 1}, "other cases"),
        (lambda d: add_case(d) or {}, r"other data \(added: extra\)"),
        (lambda d: change_case(d) or {}, r"other data \(changed: hippocampus_051\)"),
        (lambda d: rename_label(d) or {}, "other labels"),
        (lambda d: damage(d) or {}, "is damaged; start again with --overwrite"),
    ],
)
def test_another_training_is_not_resumed(tmp_path, stopped, change, message):
    shutil.copytree(stopped, tmp_path / "copy")
    assert (tmp_path / "copy" / "m.training" / "fold-1" / "checkpoint.pt").is_file()
    options = {"config": COMPACT, **change(tmp_path / "copy")}
    with pytest.raises(InputError, match=message) as error:
        start(tmp_path / "copy" / "m.sam3d", data=tmp_path / "copy" / "data", resume=True, **options)
    assert "\n" not in str(error.value)


def add_case(folder):
    for kind in ("imagesTr", "labelsTr"):
        shutil.copy(folder / "data" / kind / "hippocampus_051.nii.gz", folder / "data" / kind / "extra.nii.gz")


def change_case(folder):
    for kind in ("imagesTr", "labelsTr"):
        files = folder / "data" / kind
        shutil.copy(files / "hippocampus_225.nii.gz", files / "hippocampus_051.nii.gz")


def rename_label(folder):
    path = folder / "data" / "dataset.json"
    path.write_text(path.read_text().replace("Anterior", "Front"))


def damage(folder):
    path = folder / "m.training" / "fold-1" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])


def test_nothing_is_overwritten_unasked(tmp_path, stopped):
    shutil.copytree(stopped, tmp_path / "copy")
    with pytest.raises(InputError, match="holds a stopped training; continue it with --resume"):
        start(tmp_path / "copy" / "m.sam3d", data=tmp_path / "copy" / "data")
    (tmp_path / "n.sam3d").write_bytes(b"a model")
    with pytest.raises(InputError, match="exists already; add --overwrite"):
        start(tmp_path / "n.sam3d")
    (tmp_path / "o.training").mkdir()
    (tmp_path / "o.training" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="does not belong to a training"):
        start(tmp_path / "o.sam3d", overwrite=True)
    with pytest.raises(InputError, match="no stopped training"):
        start(tmp_path / "p.sam3d", resume=True)
    assert (tmp_path / "n.sam3d").read_bytes() == b"a model"


def test_overwrite_starts_anew_and_leaves_what_is_not_ours(tmp_path, stopped):
    shutil.copytree(stopped, tmp_path / "copy")
    (tmp_path / "copy" / "m.training" / "notes.txt").write_text("mine")
    start(tmp_path / "copy" / "m.sam3d", data=tmp_path / "copy" / "data", overwrite=True)
    assert load_model(tmp_path / "copy" / "m.sam3d").card.training.steps > 4
    assert (tmp_path / "copy" / "m.training" / "notes.txt").read_text() == "mine"


def test_a_finished_training_is_kept_until_the_one_that_replaces_it_has_made_its_model(tmp_path, lender):
    folder, old = tmp_path / "m.training", tmp_path / "m.training.old"
    shutil.copytree(lender.with_suffix(".training"), folder)  # its model has been moved elsewhere
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def kept(where):
        return all((where / name).read_bytes() == content for name, content in before.items())

    with pytest.raises(InputError, match="holds a finished training; move it along with its model"):
        start(tmp_path / "m.sam3d")
    assert kept(folder)
    for _ in range(2):  # the second replaces what the first has reached, not what was there before both
        with pytest.raises(Cancelled):
            start(tmp_path / "m.sam3d", overwrite=True, cancelled=cancel_after(6))
        assert kept(old)
        assert "result" not in json.loads((folder / "run.json").read_text())
    start(tmp_path / "m.sam3d", resume=True)
    assert not old.exists()
    assert "result" in json.loads((folder / "run.json").read_text())


def test_an_interrupt_within_a_step_keeps_the_steps_before(tmp_path, monkeypatch, lender):
    """Whoever cannot wait for the end of a step, such as one of SAM on a CPU, loses that step only."""
    step, count = Loop._loss, iter(range(10**6))

    def loss(self, samples):
        if next(count) == 5:
            raise KeyboardInterrupt
        return step(self, samples)

    monkeypatch.setattr(Loop, "_loss", loss)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "m.sam3d")
    checkpoint = read_checkpoint(tmp_path / "m.training" / "fold-1" / "checkpoint.pt")
    assert json.loads(checkpoint["state"])["step"] == 5
    start(tmp_path / "m.sam3d", resume=True)
    assert_same_decoder(load_model(tmp_path / "m.sam3d"), load_model(lender))


def test_an_interrupt_while_weights_change_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    def update(self, parameters):
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.optim.swa_utils.AveragedModel.update_parameters", update)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "m.sam3d")
    assert not list((tmp_path / "m.training").rglob("checkpoint.pt"))


@pytest.mark.skipif(torch.__version__.startswith("2.2."), reason="this torch scales on CUDA only")
def test_the_scaling_of_the_loss_in_float16_is_kept(tmp_path):
    """Without it a resumed training leaves its first steps out."""
    loops = [make_loop(Budget(4, 0)) for _ in range(2)]
    for loop in loops:
        loop.fabric._precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    scaler = loops[0].fabric._precision.scaler
    scaler.scale(torch.ones(()))  # it begins with its first use
    scaler.update(256.0)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {})
    checkpoint.save(loops[0])
    checkpoint.restore(loops[1])
    loops[1].fabric._precision.scaler.scale(torch.ones(()))
    assert loops[1].fabric._precision.scaler.get_scale() == 256


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
        MemoryError("Unable to allocate 3 GiB for an array"),
    ],
)
def test_a_training_without_memory_ends_in_one_line_that_names_what_takes_less(tmp_path, monkeypatch, run_cli, error):
    def fail(self, samples):
        raise error

    monkeypatch.setattr(Loop, "_loss", fail)
    (tmp_path / "config.json").write_text(json.dumps(to_json(COMPACT)))
    arguments = ("--data", HIPPOCAMPUS, "-o", tmp_path / "m.sam3d", "--config", tmp_path / "config.json")
    result = run_cli("train", *arguments, "--device", "cpu", "--progress", "none")
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("ERROR: memory ran out in training (")
    assert "batch_size than 1, training_depth than 12 or image_size than 32" in last
    assert "Traceback" not in result.stderr


def test_slices_are_encoded_in_halves_where_memory_runs_out(tmp_path, frozen, unbroken, monkeypatch, caplog):
    """Which changes nothing of the result."""
    encode = FrozenEncoder.__call__

    def small(self, slices):
        if len(slices) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return encode(self, slices)

    monkeypatch.setattr(FrozenEncoder, "__call__", small)
    found = start(tmp_path / "m.sam3d", frozen)
    assert "memory ran out; continuing with 2 slices at a time." in caplog.text
    assert found.card.training.steps == unbroken.card.training.steps
    assert found.card.training.dice == pytest.approx(unbroken.card.training.dice, abs=0.02)


def test_copies_that_the_cache_has_no_room_for_are_not_made_and_that_is_said(tmp_path, frozen, monkeypatch, caplog):
    asked = dataclasses.replace(frozen, augmented_copies=3)
    plan = make_plan(HIPPOCAMPUS, asked)
    assert (plan.config.augmented_copies, plan.notices) == (3, ())
    monkeypatch.setenv("SAM3DSEGMENT_CACHE_GB", str(2.5 * plan.view_bytes / 1e9))
    lines, _ = check(HIPPOCAMPUS, asked, CPU)
    [line] = [line for line in lines if "of the cache" in line]
    assert line.startswith("suspicious: embeddings take ")
    assert "augmented_copies is 1 instead of 3; raise SAM3DSEGMENT_CACHE_GB" in line
    start(tmp_path / "m.sam3d", asked)
    assert "augmented_copies is 1 instead of 3" in caplog.text
    monkeypatch.setenv("SAM3DSEGMENT_CACHE_GB", "0")
    [notice] = make_plan(HIPPOCAMPUS, asked).notices
    assert "augmented_copies is 0 instead of 3, and slices are encoded again and again" in notice


def test_a_beginning_with_one_decoder_of_several_is_said(tmp_path, lender, frozen, caplog):
    model = load_model(lender)
    save_model(dataclasses.replace(model, more_decoders=(model.decoder,)), tmp_path / "two.sam3d")
    start(tmp_path / "m.sam3d", dataclasses.replace(frozen, start_from=str(tmp_path / "two.sam3d")))
    assert "has 2 decoders; the first is begun with." in caplog.text


def test_a_replacing_training_that_was_stopped_goes_on(tmp_path, lender):
    shutil.copy(lender, tmp_path / "m.sam3d")
    with pytest.raises(Cancelled):
        start(tmp_path / "m.sam3d", overwrite=True, cancelled=cancel_after(6))
    assert (tmp_path / "m.sam3d").read_bytes() == lender.read_bytes()
    start(tmp_path / "m.sam3d", resume=True)
    assert (tmp_path / "m.sam3d").read_bytes() != lender.read_bytes()


@pytest.mark.slow
def test_a_model_to_begin_with_must_read_the_same_encoder(tmp_path, frozen, lender):
    start(tmp_path / "other.sam3d", dataclasses.replace(COMPACT, seed=1))
    begun = dataclasses.replace(frozen, start_from=str(lender))
    start(tmp_path / "m.sam3d", begun)
    with pytest.raises(InputError, match=r"was trained on the encoder compact_vit \w{16}"):
        start(tmp_path / "n.sam3d", dataclasses.replace(begun, start_from=str(tmp_path / "other.sam3d")))
    with pytest.raises(InputError, match="differs from the one to train"):
        start(tmp_path / "n.sam3d", dataclasses.replace(begun, channels=(256, 16, 8, 8, 8)))
    refined = start(tmp_path / "r.sam3d", dataclasses.replace(COMPACT, start_from=str(lender), image_size=48))
    assert refined.card.encoder.image_size == 48


@pytest.mark.slow
def test_a_model_of_fewer_levels_begins_with_the_coarse_ones_of_another(tmp_path):
    whole = start(tmp_path / "whole.sam3d", dataclasses.replace(COMPACT, levels=4))
    fewer = dataclasses.replace(COMPACT, levels=2, start_from=str(tmp_path / "whole.sam3d"), learning_rate=1e-12)
    short = start(tmp_path / "short.sam3d", fewer)
    before = whole.decoders[0].state_dict()
    for key, value in short.decoders[0].state_dict().items():
        torch.testing.assert_close(value, before[key], atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="at most its levels"):
        start(
            tmp_path / "more.sam3d",
            dataclasses.replace(COMPACT, levels=4, start_from=str(tmp_path / "short.sam3d")),
        )


def test_slices_and_decoder_are_as_in_the_lending_model_unless_asked_otherwise(tmp_path, lender):
    """`lender` was trained on coronal slices. A mirrored view is not taken over: these labels may have sides."""
    assert make_config({}, {}).slicing == SlicingRule()
    lent = make_config({"encoder": str(lender)}, {"minutes": 2.0})
    assert (lent.slicing, lent.minutes) == (SlicingRule("coronal"), 2.0)
    assert make_config({}, {"encoder": str(lender)}).slicing == SlicingRule("coronal")
    asked = make_config({"slicing": {"plane": "sagittal"}}, {"encoder": str(lender)})
    assert asked.slicing == SlicingRule("sagittal")
    model = load_model(lender)
    assert (lent.channels, lent.detail) == (model.card.decoder.channels, model.card.decoder.detail)
    assert make_config({"detail": [4, 6]}, {"encoder": str(lender)}).detail == (4, 6)
    mirrored = dataclasses.replace(model, card=dataclasses.replace(model.card, mirror=True))
    save_model(mirrored, tmp_path / "mirrored.sam3d")
    assert not make_config({"encoder": str(tmp_path / "mirrored.sam3d")}, {}).mirror
    for settings in ([], {"slicing": "coronal"}, {"planes": 3}):
        with pytest.raises(InputError):
            make_config(settings, {"encoder": str(lender)})


@pytest.mark.slow
def test_a_detail_part_is_trained_kept_and_used(tmp_path, frozen):
    """Beside an encoder that learns, and on the kept embeddings of a frozen one, beginning with a model without it."""
    end_to_end = start(tmp_path / "m.sam3d", dataclasses.replace(COMPACT, detail=(4, 6, 8)))
    config = dataclasses.replace(frozen, detail=(4, 6), start_from=frozen.encoder)
    on_frozen = start(tmp_path / "frozen.sam3d", config)
    volume = read_volume(HIPPOCAMPUS / "imagesTr" / "hippocampus_051.nii.gz")
    for name, made in (("m", end_to_end), ("frozen", on_frozen)):
        model = load_model(tmp_path / f"{name}.sam3d")
        assert_same_decoder(model, made)
        part = model.decoder.detail
        segment = functools.partial(segment_volume, volume.array_kji, volume.ijk_to_ras, device="cpu")
        labels = segment(model)
        torch.nn.init.zeros_(part.head.weight)
        torch.nn.init.constant_(part.head.bias, 0)
        part.head.bias.data[1] = 1e4
        assert (segment(model) == model.card.labels[0].value).all()
        assert (labels != model.card.labels[0].value).any()
    with pytest.raises(InputError, match="detail and at most its levels"):
        start(tmp_path / "n.sam3d", dataclasses.replace(config, detail=(8,), start_from=str(tmp_path / "frozen.sam3d")))


def test_a_damaging_learning_rate_stops_in_one_line_and_keeps_the_last_good_weights(tmp_path):
    """Real arithmetic: with a case whose grey values are not finite after preparation nothing could be trained."""
    config = dataclasses.replace(COMPACT, epochs=40, validations=40)

    class Poison(Silent):
        def event(self, name, **values):
            """After the first validation a weight is lost, as by overflow."""
            for found in loops if name == "validation" else ():
                with torch.no_grad():
                    next(iter(found.learner.module.parameters())).fill_(float("nan"))

    loops = []
    with pytest.MonkeyPatch.context() as patch:
        original = Loop.run
        patch.setattr(Loop, "run", lambda self, *a: loops.append(self) or original(self, *a))
        with pytest.raises(
            TrainingError, match=r"the loss became nan in step \d+; use a smaller learning_rate"
        ) as error:
            start(tmp_path / "m.sam3d", config, display=Poison())
    assert "\n" not in str(error.value)
    assert "What was best at a validation before it is in" in str(error.value)
    kept = load_model(tmp_path / "m.training" / "fold-1" / "best.sam3d")
    assert all(torch.isfinite(value).all() for value in kept.decoder.state_dict().values())
    assert not (tmp_path / "m.sam3d").exists()


def test_folds_become_one_ensemble_with_its_out_of_fold_dice(tmp_path, frozen):
    config = dataclasses.replace(frozen, folds=2, validation_cases=0, validations=1, test_cases=1)
    told = Recorded()
    model = start(tmp_path / "m.sam3d", config, display=told)
    loaded = load_model(tmp_path / "m.sam3d")
    assert len(loaded.decoders) == 2
    for ours, read in zip(model.decoders, loaded.decoders):
        assert all(torch.equal(value, read.state_dict()[key]) for key, value in ours.state_dict().items())
    assert not torch.equal(loaded.decoders[0].heads[0].weight, loaded.decoders[1].heads[0].weight)
    record = json.loads((tmp_path / "m.training" / "run.json").read_text())
    test = record["splits"][0]["test"]
    assert sorted([*record["result"]["validation"], *test]) == sorted(record["fingerprint"])
    assert model.card.training.cases == 3
    assert [event["fold"] for event in told.events if event["event"] == "validation"] == [1, 2]

    image = read_volume(HIPPOCAMPUS / "imagesTr" / f"{test[0]}.nii.gz")
    prepared = Preparation(loaded.card.slicing, loaded.card.intensities, 32).prepare(image.array_kji, image.ijk_to_ras)
    encoder = loaded.load_encoder("cpu", "fp32")
    alone = [Network(encoder, [decoder]) for decoder in loaded.decoders]
    embeddings = alone[0].encode(prepared.squares(0, 4))
    mean = sum(network.decode(embeddings) for network in alone) / 2
    torch.testing.assert_close(Segmenter.load(loaded, "cpu", "fp32").network.decode(embeddings), mean)
    with pytest.raises(InputError, match="need one encoder for all"):
        start(tmp_path / "n.sam3d", dataclasses.replace(COMPACT, folds=2, validation_cases=0))
    with pytest.raises(InputError, match="exclude each other"):
        dataclasses.replace(frozen, folds=2)


class DecoderAlone:
    """A learner of a decoder on given embeddings: all that a loop asks for."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = Sam3dDecoder(3, (256, 8, 8, 8, 8), levels=2)

    def predict(self, module, samples):
        levels = module(torch.stack([sample.embeddings.float() for sample in samples]))
        return levels, [torch.stack([sample.classes for sample in samples]).long()] * len(levels)


def batches(size=1, depth=2):
    generator = torch.Generator().manual_seed(0)
    while True:
        yield [
            Sample(
                SquareFit(32, 32, 32, (32, 32)),
                torch.randint(3, (depth, 32, 32), generator=generator, dtype=torch.uint8),
                embeddings=torch.randn(256, depth, 2, 2, generator=generator).half(),
            )
            for _ in range(size)
        ]


def make_loop(budget, clock=time.monotonic, **settings):
    config = dataclasses.replace(COMPACT, **settings)
    return Loop(make_fabric(torch.device("cpu")), DecoderAlone(), config, budget, clock)


def validate_with(tmp_path, dice, on_scores=lambda *_: None, before=lambda: None):
    """A validation whose scores are given one after the other; the last of them goes on."""
    given = iter(dice)
    state = {}

    def score(weights):
        before()
        state["dice"] = next(given, state.get("dice"))
        return Scores(("case",), ("A",), np.array([[state["dice"]]]))

    return Validation(score, Checkpoint(tmp_path / "checkpoint.pt", {}), on_scores)


def test_what_is_validated_and_kept_is_the_moving_average_of_the_weights(tmp_path):
    """By hand: the first step's weights, then nearer to each new one by a share that falls."""
    loop = make_loop(Budget(8, 0), learning_rate=0.01, warmup_steps=0, validations=1, average_decay=0.5)
    mean, kept = {}, []

    def follow(loop):
        for name, weight in loop.learner.module.named_parameters():
            now = min(0.5, loop.state.step / (9 + loop.state.step))
            before = mean.get(name, weight.detach())
            mean[name] = now * before + (1 - now) * weight.detach() if loop.state.step > 1 else weight.detach().clone()

    def on_scores(loop, weights, scores, is_best):
        kept.append(weights)

    validation = validate_with(tmp_path, [0.5], on_scores)
    assert loop.run(batches(), [follow, validation], UNWATCHED)
    raw = loop.learner.module.state_dict()
    for name, weight in mean.items():
        torch.testing.assert_close(kept[0][name], weight, atol=1e-6, rtol=1e-4)
    assert any(not torch.allclose(kept[0][name], raw[name], atol=1e-4) for name in mean)


def test_validation_does_not_eat_the_time_and_is_spread_evenly(tmp_path):
    """A clock of our own: a step takes 10 s, a validation 300 s, the budget is 30 minutes."""
    now = [0.0]
    loop = make_loop(Budget(0, 1800), lambda: now[0], validations=6)

    def feed():
        source = batches()
        while True:
            now[0] += 10
            yield next(source)

    validation = validate_with(tmp_path, [0.5], before=lambda: now.__setitem__(0, now[0] + 300))
    assert loop.run(feed(), [validation], UNWATCHED)
    assert 180 <= loop.state.step <= 181
    steps = [entry["step"] for entry in loop.state.history]
    assert np.allclose(steps, [30, 60, 90, 120, 150, 180], atol=1)


def test_training_stops_early_when_it_stands_still_and_keeps_the_best(tmp_path):
    loop = make_loop(Budget(100, 0), validations=20, patience=3)
    validation = validate_with(tmp_path, [0.1, 0.5, 0.4, 0.3, 0.45, 0.9])
    assert loop.run(batches(), [validation], UNWATCHED)
    assert (loop.state.step, loop.state.best_step, loop.state.best_dice) == (25, 10, 0.5)


@pytest.mark.parametrize(("dice", "best_step"), [([0.5, 0.4], 25), ([0.4, 0.5], 31)])
def test_a_training_that_is_to_finish_has_a_last_validation_and_keeps_the_best(tmp_path, dice, best_step):
    loop = make_loop(Budget(100, 0), validations=4)
    validation = validate_with(tmp_path, dice)
    assert loop.run(batches(), [validation], Watch(finishing=lambda: loop.state.step == 30))
    assert loop.state.step == 31
    assert [entry["step"] for entry in loop.state.history] == [25, 31]
    assert (loop.state.best_step, loop.state.best_dice) == (best_step, 0.5)


@pytest.mark.parametrize(("cases", "best_step"), [(1, 100), (16, 50)])
def test_the_latest_weights_are_kept_where_the_cases_cannot_decide(tmp_path, cases, best_step):
    """One case in doubt says nothing, sixteen cases do; a slow fall is no chance either."""
    loop = make_loop(Budget(100, 0), validations=2)
    given = iter((0.80, 0.79))
    names = tuple(map(str, range(cases)))
    validation = Validation(
        lambda weights: Scores(names, ("A",), np.full((cases, 1), next(given))),
        Checkpoint(tmp_path / "checkpoint.pt", {}),
        lambda *_: None,
    )
    assert loop.run(batches(), [validation], UNWATCHED)
    assert (loop.state.best_step, loop.state.best_dice, loop.state.stale) == (best_step, 0.8, 1)
    falling = make_loop(Budget(100, 0), validations=4)
    assert falling.run(batches(), [validate_with(tmp_path, [0.8, 0.79, 0.783, 0.777])], UNWATCHED)
    assert falling.state.best_step == 75


@pytest.mark.parametrize("spent", ["steps", "seconds"])
def test_the_learning_rate_rises_then_falls_along_half_a_cosine(spent):
    now = [0.0]
    budget = Budget(40, 0) if spent == "steps" else Budget(0, 40)
    loop = make_loop(budget, lambda: now[0], learning_rate=0.01, warmup_steps=4)
    rates = []

    def follow(loop):
        rates.append(loop.optimiser.param_groups[0]["lr"])

    def feed():
        source = batches()
        while True:
            now[0] += 1  # a step takes a second
            yield next(source)

    assert loop.run(feed(), [follow], UNWATCHED)
    steps = np.arange(40)
    expected = 0.01 * np.minimum(1, (steps + 1) / 4) * (1 + np.cos(np.pi * steps / 40)) / 2
    np.testing.assert_allclose(rates[:40], expected, atol=4e-4)
    assert rates[-1] < 1e-4


def test_a_gradient_is_scaled_down_to_its_norm_and_a_small_one_left():
    def step(factor):
        loop = make_loop(Budget(10, 0))
        loss_of = loop._loss_of
        loop._loss_of = lambda levels, labels: factor * loss_of(levels, labels)
        loop._step(next(batches()), False, False)
        return torch.cat([parameter.grad.flatten() for parameter in loop.learner.module.parameters()])

    large, larger, small = step(1e3), step(1e5), step(1e-5)
    assert float(large.norm()) == pytest.approx(GRADIENT_NORM, rel=1e-3)
    torch.testing.assert_close(large, larger, atol=1e-3, rtol=0.05)
    assert 0 < float(small.norm()) < 1e-2


def test_samples_of_unlike_depth_are_trained_together():
    """The gradient of a batch of two depths is that of its two halves."""
    thin, thick = next(batches(depth=2)), next(batches(depth=5))
    loop = make_loop(Budget(10, 0))
    weights = {key: value.clone() for key, value in loop.learner.module.state_dict().items()}
    loop._step(thin + thick, False, False)
    together = [parameter.grad.clone() for parameter in loop.learner.module.parameters()]
    alone = []
    for part in (thin, thick):
        loop.learner.module.load_state_dict(weights)
        module, loss_of = loop.learner.module, DeepSupervisionLoss(True)
        module.zero_grad()
        loss_of(*loop.learner.predict(module, part)).backward()
        alone.append([parameter.grad.clone() for parameter in module.parameters()])
    joint = [(a + b) / 2 for a, b in zip(*alone)]
    # Up to a factor, because the loop has scaled its gradient down to the norm of 1, and up to bf16.
    one, other = (torch.cat([g.flatten() for g in gradients]) for gradients in (together, joint))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.99


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_of_few_slices_are_right_in_half_precision(depth):
    """oneDNN's bf16 gradients over two slices are not."""
    batch = next(batches(depth=depth))
    loop = make_loop(Budget(10, 0))
    module = loop.learner.module
    loss_of = DeepSupervisionLoss(True)
    loss_of(*loop.learner.predict(module, batch)).backward()
    right = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    loop._step(batch, False, False)
    found = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    assert torch.nn.functional.cosine_similarity(right, found, dim=0) > 0.99


def test_the_average_follows_the_weights():
    loop = make_loop(Budget(100, 0), average_decay=0.9)
    loop.average.n_averaged.fill_(1000)
    before = loop.average.module.heads[0].bias.clone()
    with torch.no_grad():
        loop.learner.module.heads[0].bias.add_(1.0)
    loop.average.update_parameters(loop.learner.module)
    torch.testing.assert_close(loop.average.module.heads[0].bias - before, torch.full_like(before, 0.1))


def test_a_decoder_can_learn_one_case_by_heart():
    torch.manual_seed(0)
    decoder = Sam3dDecoder(3, (16, 16, 16, 8, 8))
    classes = torch.zeros(1, 8, 32, 32, dtype=torch.int64)
    classes[:, 2:6, 8:20, 8:20], classes[:, 4:, 20:28, 4:12] = 1, 2
    embeddings = torch.randn(1, 16, 8, 2, 2)
    loss_of, optimiser = DeepSupervisionLoss(), torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = loss_of(decoder(embeddings), classes)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("test_cases", -1),
        ("validation_cases", -2),
        ("augmented_copies", -1),
        ("warmup_steps", -5),
        ("weight_decay", -1),
        ("seed", -1),
        ("seed", 2**31),
        ("image_size", 16),
        ("image_size", 100),
        ("channels", (7, 9)),
        ("channels", (128, 64, 32, 16, 16)),
        ("levels", 5),
        ("foreground_share", 1.5),
        ("patience", -1),
        ("folds", 0),
        ("batch_size", 0),
        ("batch_size", 10**9),
        ("training_depth", 10**9),
        ("validations", 10**9),
        ("augmented_copies", 10**9),
        ("folds", 10**9),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("average_decay", 1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(field, value):
    with pytest.raises(InputError) as error:
        dataclasses.replace(COMPACT, **{field: value})
    assert str(value) in str(error.value)


@pytest.mark.parametrize(("field", "value"), [("probability", 9.0), ("scaling", -0.1), ("noise", float("nan"))])
def test_augmentation_that_makes_no_sense_is_refused(field, value):
    with pytest.raises(InputError, match=f"{field} {value} is outside"):
        AugmentationConfig(**{field: value})


def test_a_time_that_is_none_is_refused():
    for minutes in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="is not a duration"):
            TrainingConfig(minutes=minutes)


@pytest.mark.slow
def test_volumes_of_one_slice_at_the_smallest_size_can_be_learned_and_segmented(tmp_path):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(3):
        files = write_case(tmp_path / "made", str(number), size_ijk=(20, 20, 1), seed=number)
        files.image.rename(tmp_path / "data" / "imagesTr" / f"{number}.nii.gz")
        files.label_map.rename(tmp_path / "data" / "labelsTr" / f"{number}.nii.gz")
    config = dataclasses.replace(
        COMPACT, image_size=LEAST_IMAGE_SIZE, slicing=SlicingRule("axial"), epochs=40, learning_rate=3e-3
    )
    model = start(tmp_path / "m.sam3d", config, data=tmp_path / "data")
    assert model.card.training.dice["Label 1"] > 0.7
    volume = read_volume(tmp_path / "data" / "imagesTr" / "0.nii.gz")
    mask = Segmenter.load(model, "cpu").segment(volume.array_kji, volume.ijk_to_ras)
    reference = read_volume(tmp_path / "data" / "labelsTr" / "0.nii.gz").array_kji
    assert dice(mask == 1, reference == 1) > 0.8


@pytest.mark.parametrize("stage", ["encoder", "decoders"])
def test_the_settings_of_the_bundled_model_are_those_that_made_it(bundled_model, stage):
    path = MODULE.parent / "Utilities" / "models" / "hippocampus-mri" / f"{stage}.json"
    config, card = from_json(TrainingConfig, json.loads(path.read_text())), bundled_model.card
    assert (config.name, config.labels, config.window) == (card.name, card.labels, card.window)
    decoder = card.decoder
    assert (config.channels, config.levels, config.detail) == (decoder.channels, decoder.levels, decoder.detail)
    assert (config.slicing, config.intensity, config.mirror) == (card.slicing, card.intensity, card.mirror)
    if stage == "encoder":
        assert (config.encoder, config.image_size) == (card.encoder.name, card.encoder.image_size)
    else:
        assert config.folds == len(bundled_model.decoders)


def test_training_needs_a_case(tmp_path):
    with pytest.raises(InputError, match="0 training cases"):
        start(tmp_path / "m.sam3d", cases=0)


def test_training_on_sam_without_its_weights_says_how_to_get_them(tmp_path):
    with pytest.raises(WeightsError, match="weights download sam_vit_b"):
        start(tmp_path / "m.sam3d", dataclasses.replace(COMPACT, encoder="sam_vit_b"))
    assert not (tmp_path / "m.training").exists()


def test_the_number_of_levels_follows_the_cases(tmp_path):
    """Hippocampus slices have about 35 x 50 pixels: two levels of size 256 give 64 cells, of size 128 three give 64."""
    for size, levels in ((256, 2), (128, 3)):
        assert make_plan(HIPPOCAMPUS, dataclasses.replace(COMPACT, image_size=size)).card.decoder.levels == levels
