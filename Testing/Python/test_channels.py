"""Several channels: found, read on one grid, encoded one by one, and what a model says of those that it wants."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from channel_cases import make_case, make_model, write_image, write_nnunet
from conftest import MRI
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import Label
from SAM3DSegmentLib.channel import Channel, IntensityRule
from SAM3DSegmentLib.commands.table import COLUMNS
from SAM3DSegmentLib.encoder import FrozenEncoder
from SAM3DSegmentLib.formats.volumes import read_volume
from SAM3DSegmentLib.inference import segment_volume
from SAM3DSegmentLib.model_file import load_model, save_model
from SAM3DSegmentLib.network import Network
from SAM3DSegmentLib.sam.cache import EmbeddingCache
from SAM3DSegmentLib.sam.cached_encoder import CachedEncoder
from SAM3DSegmentLib.settings import TrainingConfig
from SAM3DSegmentLib.training.augmentation import random_view
from SAM3DSegmentLib.training.check import describe_plan
from SAM3DSegmentLib.training.classes import LabelRules
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.plan import make_plan
from SAM3DSegmentLib.training.prepared import plain_view, prepare_case
from SAM3DSegmentLib.training.reading import read_case

OF_FILES = np.diag([-1.0, -1.0, 1.0, 1.0])  # ijk_to_ras of the files that are written here
GREY = {"mean": np.mean, "sd": np.std}
SETTINGS = {
    "encoder": "compact_vit",
    "image_size": 48,
    "detail": [8, 16],
    "training_depth": 12,
    "validations": 2,
    "validation_cases": 2,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model of two channels, untrained."""
    path = tmp_path_factory.mktemp("pair") / "pair.sam3d"
    save_model(make_model(), path)
    return path


@pytest.fixture
def files(tmp_path):
    """Two cases of two channels as nnU-Net has them."""
    return write_nnunet(tmp_path / "data", [0, 1])


def test_a_channel_is_encoded_as_if_it_were_alone_and_once(tmp_path):
    model, alone = make_model(), make_model(())
    encoder = CachedEncoder(model.load_encoder("cpu", "fp32"), EmbeddingCache(tmp_path, 10**8))
    grey = torch.rand(3, 2, 32, 32) * 255
    network = Network(encoder, model.decoders)
    found = network.encode(grey, 2)
    parts = [Network(encoder, alone.decoders).encode(grey[:, number : number + 1], 2) for number in (0, 1)]
    assert torch.equal(found, torch.cat(parts, 2))
    assert encoder.computed == 3 * 2 * 2  # channels, views
    assert not torch.equal(parts[0], parts[1])


def test_channels_as_colours_are_one_pass_that_the_cache_tells_from_others(tmp_path):
    model = make_model(("a", "b"), "rgb")
    frozen = model.load_encoder("cpu", "fp32")
    assert isinstance(frozen, FrozenEncoder)
    encoder = CachedEncoder(frozen, EmbeddingCache(tmp_path, 10**8))
    grey = torch.rand(3, 2, 32, 32) * 255
    network = Network(encoder, model.decoders)
    found = network.encode(grey)
    assert found.shape == (3, 1, 256, 2, 2)
    other = grey.clone()
    other[:, 1] = 0
    assert not torch.equal(network.encode(other), found)  # the first colour is the same
    assert torch.equal(network.encode(grey), found)
    assert encoder.computed == 6
    with pytest.raises(InputError, match="channel_layout 'rgb' takes up to 3 channels, not 4; use 'each'"):
        make_model(("a", "b", "c", "d"), "rgb")


def test_arrays_and_files_however_they_are_given_have_one_mask(tmp_path, files, pair, command):
    images, _ = make_case(0)
    expected = segment_volume(np.stack(images), np.eye(4), load_model(pair), "cpu")
    assert np.array_equal(segment_volume(images, np.eye(4), load_model(pair), "cpu"), expected)
    first, second = (files / "imagesTr" / f"case_00_{number:04d}.nii.gz" for number in (0, 1))
    outputs = {}
    for name, arguments in {
        "second.nrrd": [first, "--channel", f"t2={second}"],
        "first.nrrd": [second, "--channel", f"T1={first}"],
    }.items():
        code, _, error = command("segment", *arguments, "-o", tmp_path / name, "--model", pair)
        assert code == 0, error
        outputs[name] = read_volume(tmp_path / name).array_kji
    report = tmp_path / "report.json"
    code, _, error = command("segment", files / "imagesTr", "-o", tmp_path / "out", "--model", pair, "--report", report)
    assert code == 0, error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case_00.seg.nrrd", "case_01.seg.nrrd"]
    assert np.array_equal(outputs["second.nrrd"], outputs["first.nrrd"])
    assert outputs["first.nrrd"].any()
    assert list(json.loads(report.read_text())["segmented"][0]["channels"]) == ["T1", "T2"]


def test_grey_values_are_those_of_each_channel_by_its_name(tmp_path, files, pair, command):
    """In report, table and page, and in those of `measure`, however it finds the channels."""
    outputs = ("--table", tmp_path / "t.csv", "--page", tmp_path / "qc.html", "--report", tmp_path / "r.json")
    arguments = ("segment", files / "imagesTr", "-o", tmp_path / "out", "--model", pair)
    code, _, error = command(*arguments, *outputs)
    assert code == 0, error
    images, _ = make_case(1)
    mask = read_volume(tmp_path / "out" / "case_01.seg.nrrd").array_kji == 1
    made = {f"{key} T{n}": f"{of(image[mask]):.6g}" for n, image in enumerate(images, 1) for key, of in GREY.items()}

    def row_of(path):
        (row,) = [row for row in csv.DictReader(path.open()) if row["case"] == "case_01"]
        return row

    row = row_of(tmp_path / "t.csv")
    assert list(row)[-5:] == ["date", *made]
    assert made.items() <= row.items()
    assert row["mean"] == row["mean T1"]
    page = (tmp_path / "qc.html").read_text()
    assert f"<td>T1 {float(row['mean T1']):.4g}<br>T2 {float(row['mean T2']):.4g}</td>" in page
    (tmp_path / "t.csv").unlink()  # the masks that are there are measured for a new one
    assert command(*arguments, *outputs)[0] == 0
    assert made.items() <= row_of(tmp_path / "t.csv").items()
    folders = ("--predictions", tmp_path / "out", "--images", files / "imagesTr")
    for more in ((), ("--recursive",)):
        code, told, error = command("measure", *folders, *more, "--table", tmp_path / "m.csv")
        assert code == 0, error
        assert told.split("\n")[0].split()[4:8] == ["mean", "T1", "sd", "T1"]
        assert made.items() <= row_of(tmp_path / "m.csv").items()
        (tmp_path / "m.csv").unlink()
    assert command("measure", files, "--table", tmp_path / "m.csv")[0] == 0
    assert list(row_of(tmp_path / "m.csv"))[-4:] == list(made)
    code, _, error = command("segment", MRI, "-o", tmp_path / "o.nrrd", "--table", tmp_path / "one.csv")
    assert code == 0, error
    assert (tmp_path / "one.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert command("segment", MRI, "-o", tmp_path / "p.nrrd", "--table", tmp_path / "t.csv")[0] == 0
    assert {row["mean T2"] for row in csv.DictReader((tmp_path / "t.csv").open()) if row["case"][:4] != "case"} == {""}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: (d / "case_00_0001.nii.gz").unlink(), "the channel T2 is missing; the model 'pair' reads T1, T2."),
        (
            lambda d: shutil.copy(d / "case_00_0001.nii.gz", d / "case_00_0002.nii.gz"),
            "the channel 0002 is too many; the model 'pair' reads T1, T2.",
        ),
        (
            lambda d: write_image(d / "case_00_0001.nii.gz", np.zeros((12, 40, 48), np.int16)),
            "is not on the grid of 'T1': it has 48 x 40 x 12 voxels instead of 48 x 48 x 12; resample it, or add "
            "--resample.",
        ),
    ],
)
def test_of_a_folder_the_case_whose_channels_do_not_fit_fails_in_one_line(tmp_path, files, pair, command, change, told):
    change(files / "imagesTr")
    code, _, error = command("segment", files / "imagesTr", "-o", tmp_path / "out", "--model", pair)
    assert code == 1
    (line,) = [line for line in error.splitlines() if line.startswith("ERROR")]
    assert told in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case_01.seg.nrrd"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{0}"], "the channel T2 is missing; the model 'pair' reads T1, T2."),
        ([MRI], "is one channel, but the model 'pair' reads T1, T2; add --channel NAME=FILE for the others"),
        (["{0}", "--channel", "T3={1}"], "--channel 'T3' is not one of the model's: the model 'pair' reads T1, T2."),
        (["{0}", "--channel", "T2"], "--channel 'T2' is not NAME=FILE"),
        (["{0}", "--channel", "T1={0}", "--channel", "T2={1}"], "2 channels are given by --channel beside the input"),
        (["{0}", "--channel", "T2=nowhere.nii"], "'nowhere.nii' does not exist"),
        (["{0}", "--channel", "T2={0}"], "the channels T1 and T2 would both be"),
        (["{0}", "--channel", "T2={1}", "--channel", "t2={1}"], "--channel 't2' is given twice"),
    ],
)
def test_channels_of_one_volume_that_do_not_fit_are_told_in_one_line(tmp_path, files, pair, command, arguments, told):
    paths = [files / "imagesTr" / f"case_00_{number:04d}.nii.gz" for number in (0, 1)]
    arguments = [str(argument).format(*paths) for argument in arguments]
    code, _, error = command("segment", *arguments, "-o", tmp_path / "o.nrrd", "--model", pair)
    assert code == 1
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "o.nrrd").exists()


def test_names_that_are_exchanged_are_told_and_refused_by_strict(tmp_path, pair, command):
    """Of files in a folder with blanks and umlauts."""
    folder = tmp_path / "Frau Müller"
    first, second = (write_image(folder / f"ä t{n}.nii.gz", image) for n, image in enumerate(make_case(0)[0], 1))
    right = ["segment", first, "--channel", f"T2={second}", "-o", tmp_path / "right.nrrd", "--model", pair, "--strict"]
    code, _, error = command(*right)
    assert (code, "called" in error) == (0, False)
    wrong = ["segment", second, "--channel", f"t2={first}", "-o", tmp_path / "wrong.nrrd", "--model", pair]
    code, _, error = command(*wrong)
    assert code == 0
    assert "It is called 'ä t2', but given as T1, not T2; check that channels are not exchanged." in error
    assert "T2: It is called 'ä t1', but given as T2, not T1" in error
    code, _, error = command(*wrong, "--overwrite", "--strict")
    assert code == 1
    assert "check that channels are not exchanged" in error.splitlines()[-1]


@pytest.mark.parametrize("kind", ["numbers", "last axis"])
def test_the_names_of_dataset_json_count_whatever_the_order_of_the_model(tmp_path, command, kind):
    """And channels that the model does not read are left out."""
    first, second, third = make_case(0, 3)[0]
    write_nnunet(tmp_path / "data", [0], ("t1", "T2", "PD"))
    images = tmp_path / "data" / "imagesTr"
    if kind == "last axis":
        for path in images.iterdir():
            path.unlink()
        joined = sitk.JoinSeries([sitk.GetImageFromArray(image) for image in (first, second, third)])
        sitk.WriteImage(joined, str(images / "case_00.nii.gz"))
    save_model(make_model(("PD", "T1")), tmp_path / "m.sam3d")
    arguments = ("segment", images, "--model", tmp_path / "m.sam3d", "-o")
    code, _, error = command(*arguments, tmp_path / "out", "--page", tmp_path / "p.html")
    assert code == 0, error
    found = read_volume(tmp_path / "out" / "case_00.seg.nrrd").array_kji
    assert np.array_equal(found, segment_volume([third, first], OF_FILES, tmp_path / "m.sam3d", "cpu"))
    (tmp_path / "data" / "dataset.json").unlink()
    code, _, error = command(*arguments, tmp_path / "none")
    assert code == 1
    assert "the channel 0002 is too many" in error


def test_channels_over_time_have_the_same_frames(tmp_path, pair, command):
    images = [sitk.GetImageFromArray(array) for seed in range(3) for array in make_case(seed)[0]]
    for name, frames in (("first", images[::2]), ("second", images[1::2]), ("short", images[1:4:2])):
        sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / f"{name}.nii.gz"))
    arguments = ["segment", tmp_path / "first.nii.gz", "--model", pair, "--frames", "all", "--channel"]
    code, _, error = command(*arguments, f"T2={tmp_path / 'second.nii.gz'}", "-o", tmp_path / "o.nii.gz")
    assert code == 0, error
    frame = read_volume(tmp_path / "o.nii.gz", frame=1).array_kji
    assert np.array_equal(frame, segment_volume(make_case(1)[0], OF_FILES, pair, "cpu"))
    code, _, error = command(*arguments, f"T2={tmp_path / 'short.nii.gz'}", "-o", tmp_path / "p.nii.gz")
    assert code == 1
    assert "the channels have 3, 2 frames; give volumes over the same times." in error
    assert not (tmp_path / "p.nii.gz").exists()


def test_a_model_of_one_named_channel_takes_that_of_each_case(tmp_path, files, command):
    model = make_model(())
    card = dataclasses.replace(model.card, channels=(Channel("T2"),))
    save_model(dataclasses.replace(model, card=card), tmp_path / "m.sam3d")
    code, _, error = command("segment", files / "imagesTr", "-o", tmp_path / "out", "--model", tmp_path / "m.sam3d")
    assert code == 0, error
    assert "not the channel T2" in error
    assert [path.name[:12] for path in sorted((tmp_path / "out").iterdir())] == ["case_00_0001", "case_01_0001"]


def test_a_model_of_one_channel_takes_files_with_numbers_as_before(tmp_path, files, command):
    code, _, error = command("segment", files / "imagesTr", "-o", tmp_path / "out")
    assert code == 0, error
    assert len(list((tmp_path / "out").iterdir())) == 4
    first = files / "imagesTr" / "case_00_0000.nii.gz"
    code, _, error = command("segment", first, "--channel", f"T2={first}", "-o", tmp_path / "o.nrrd")
    assert code == 1
    assert "the model 'tiny' reads one channel, without a name" in error


def test_arrays_that_are_not_what_the_model_reads_are_refused_with_its_names(pair, tiny):
    images, _ = make_case(0)
    with pytest.raises(InputError, match="1 channel was given, but the model 'pair' reads T1, T2; give these, in this"):
        segment_volume(images[0], np.eye(4), pair, "cpu")
    with pytest.raises(InputError, match="2 channels was given, but the model 'tiny' reads one; give this one"):
        segment_volume(np.stack(images), np.eye(4), tiny, "cpu")
    with pytest.raises(InputError, match=r"shapes \(12, 48, 48\) and \(11, 48, 48\) do not lie on one grid"):
        segment_volume([images[0], images[1][1:]], np.eye(4), pair, "cpu")


def test_a_channel_on_another_grid_is_brought_to_the_first_on_request(tmp_path, files, pair, command):
    moved = sitk.ReadImage(str(files / "imagesTr" / "case_00_0001.nii.gz"))
    moved.SetOrigin((0.5, 0, 0))
    sitk.WriteImage(moved, str(files / "imagesTr" / "case_00_0001.nii.gz"))
    plan = make_plan(files, TrainingConfig(encoder="compact_vit", validation_cases=1))
    assert "channel 'T2'" in plan.problems[0].problem
    assert "lie up to 0.5 mm from where they should be" in plan.problems[0].problem
    dataset = find_dataset(files)
    image, _ = read_case(dataset.cases[0], (Label(1, "ball", (1, 2, 3)),), LabelRules(resample=True))
    (here,), (there,) = image.more, make_case(0)[0][1:]
    assert np.allclose(here[:, :, 1:], (there[:, :, :-1] + there[:, :, 1:].astype(float)) / 2, atol=0.01)
    first, second = (files / "imagesTr" / f"case_00_{number:04d}.nii.gz" for number in (0, 1))
    arguments = ["segment", first, "--channel", f"T2={second}", "-o", tmp_path / "o.nrrd", "--model", pair]
    assert command(*arguments)[0] == 1
    assert command(*arguments, "--resample")[0] == 0


def test_the_last_axis_of_a_decathlons_file_is_the_channel(tmp_path, files, pair, command):
    """Trained on and segmented as the same channels in files of their own."""
    decathlon = tmp_path / "decathlon"
    for number in (0, 1):
        images, mask = make_case(number)
        write_image(decathlon / "labelsTr" / f"case_{number:02d}.nii.gz", mask)
        (decathlon / "imagesTr").mkdir(exist_ok=True)
        joined = sitk.JoinSeries([sitk.GetImageFromArray(image) for image in images])
        sitk.WriteImage(joined, str(decathlon / "imagesTr" / f"case_{number:02d}.nii.gz"))
    description = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "ball"}}
    (decathlon / "dataset.json").write_text(json.dumps(description))
    assert find_dataset(decathlon).channels == ("T1", "T2")
    assert not make_plan(decathlon, TrainingConfig(encoder="compact_vit", validation_cases=1)).problems
    labels, outputs = (Label(1, "ball", (1, 2, 3)),), []
    (one, classes), (other, others) = (read_case(find_dataset(at).cases[1], labels) for at in (decathlon, files))
    assert len(one.channels) == 2
    assert all(map(np.array_equal, one.channels, other.channels))
    assert np.array_equal(classes, others)
    for folder in (decathlon, files):
        code, _, error = command("segment", folder / "imagesTr", "-o", folder / "out", "--model", pair)
        assert code == 0, error
        outputs.append(read_volume(folder / "out" / "case_01.seg.nrrd").array_kji)
    assert np.array_equal(*outputs)
    movie = decathlon / "imagesTr" / "case_00.nii.gz"
    code, _, error = command("segment", movie, "-o", tmp_path / "o.nrrd", "--model", pair, "--frames", "all")
    assert code == 1
    assert "the model reads the last axis as channels; leave it out" in error


def test_a_folder_for_each_case_has_a_file_for_each_channel(tmp_path):
    for number in range(3):
        images, mask = make_case(number)
        folder = tmp_path / f"p{number}"
        for name, image in zip(("t1", "t2"), images):
            write_image(folder / f"p{number}_{name}.nii.gz", image)
        write_image(folder / f"p{number}_seg.nii.gz", mask)
    (tmp_path / "p2" / "p2_t2.nii.gz").unlink()
    dataset = find_dataset(tmp_path)
    assert dataset.channels == ("t1", "t2")
    assert [channel.path.name for channel in dataset.cases[0].channels] == ["p0_t1.nii.gz", "p0_t2.nii.gz"]
    plan = make_plan(tmp_path, TrainingConfig(encoder="compact_vit", validation_cases=1))
    assert "the channels of p2 are t1, but t1, t2 are wanted; add the missing file" in plan.problems[0].problem


def test_the_check_says_what_channels_cost_and_settings_choose_among_them(files):
    config = TrainingConfig(encoder="compact_vit", validation_cases=1)
    plan = make_plan(files, config)
    assert [channel.name for channel in plan.card.inputs] == ["T1", "T2"]
    assert (plan.card.decoder.channels[0], plan.card.decoder.grey_channels) == (512, 2)
    (line,) = [line for line in describe_plan(plan) if line.startswith("channels")]
    assert line == (
        "channels: T1, T2 (each); a slice takes 2 passes of the encoder: 2 times the time and the cache of one channel."
    )
    rule = IntensityRule("window", 0, 700)
    plan = make_plan(files, dataclasses.replace(config, input_channels=(Channel("t2", rule), Channel("T1"))))
    assert [case.channels[0].path.name for case in plan.dataset.cases] == [f"case_0{n}_0001.nii.gz" for n in (0, 1)]
    assert plan.card.intensities == (rule, IntensityRule())
    plan = make_plan(files, dataclasses.replace(config, channel_layout="rgb"))
    assert plan.card.decoder.channels[0] == 256
    with pytest.raises(InputError, match="has a channel 'PET'; they have T1, T2"):
        make_plan(files, dataclasses.replace(config, input_channels=(Channel("PET"),)))


def test_channels_move_alike_and_each_has_its_own_contrast(tmp_path, files):
    config = TrainingConfig(encoder="compact_vit", validation_cases=1, image_size=48)
    plan = make_plan(files, config)
    (case,) = prepare_case(plan.dataset.cases[0], plan.labels, plan.preparation, plan.rules, tmp_path)
    same = dataclasses.replace(case, grey=np.stack([case.grey[0]] * 2))
    still = dataclasses.replace(config.augmentation, probability=1, gamma=0, contrast=0, noise=0)
    grey, _ = random_view(same, 0, case.depth, still, torch.Generator().manual_seed(0))
    assert torch.equal(grey[0], grey[1])
    assert not torch.allclose(grey, plain_view(same, 0, case.depth)[0], atol=5)
    grey, _ = random_view(same, 0, case.depth, config.augmentation, torch.Generator().manual_seed(1))
    assert not torch.allclose(grey[0], grey[1], atol=1)


def test_regions_are_labels_that_are_measured_as_one(tmp_path, run_cli):
    """As nnU-Net's dataset.json lists them, or as the settings say."""
    truth, found = np.zeros((2, 6, 9, 9), np.uint8)
    truth[1:4, 1:4, 1:4], truth[4:6, 1:4, 1:4] = 1, 2
    found[1:4, 1:4, 1:4], found[4:6, 1:4, 1:4] = 2, 1  # confused, but the whole is right
    write_image(tmp_path / "labelsTr" / "a.nii.gz", truth)
    write_image(tmp_path / "found" / "a.nii.gz", found)
    arguments = ["evaluate", "--predictions", tmp_path / "found", "--labels", tmp_path / "labelsTr", "--overwrite"]

    def rows(*more):
        assert run_cli(*arguments, "--json", tmp_path / "o.json", *more).returncode == 0
        return {row["label"]: row["dice"] for row in json.loads((tmp_path / "o.json").read_text())["rows"]}

    assert rows() == {1: 0, 2: 0}
    (tmp_path / "s.json").write_text('{"regions": {"whole": [1, 2]}}')
    assert rows("--config", tmp_path / "s.json") == {1: 0, 2: 0, "whole": 1}
    described = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert rows() == {1: 0, 2: 0, "core": 0, "whole": 1}
    (tmp_path / "s.json").write_text('{"regions": {"whole": 3}}')
    done = run_cli(*arguments, "--config", tmp_path / "s.json")
    assert done.returncode == 1
    assert 'give values for each name, as in {"WT": [1, 2, 3]}' in done.stderr


def train(run_cli, data, output, **settings):
    config = output.with_suffix(".json")
    config.write_text(json.dumps({**SETTINGS, **settings}))
    done = run_cli("train", "--data", data, "-o", output, "--config", config, "--device", "cpu", "--progress", "none")
    assert done.returncode == 0, done.stderr
    return load_model(output).card.training.dice["ball"]


@pytest.mark.slow
def test_what_no_channel_shows_alone_is_found_with_both(tmp_path, run_cli):
    data = write_nnunet(tmp_path / "data", range(10))
    both = train(run_cli, data, tmp_path / "both.sam3d", epochs=20)
    assert both >= 0.9
    for name in ("T1", "T2"):
        assert train(run_cli, data, tmp_path / f"{name}.sam3d", epochs=8, input_channels=[{"name": name}]) <= 0.6


@pytest.mark.slow
def test_four_channels_as_nnu_net_has_them_are_trained_segmented_and_evaluated(tmp_path, run_cli):
    names = ("T1", "T1c", "T2", "FLAIR")
    labels = {"background": 0, "ball": 1, "all": [1]}
    data = write_nnunet(tmp_path / "data", range(6), names, labels)
    train(run_cli, data, tmp_path / "m.sam3d", epochs=2, augmented_copies=1)
    test = write_nnunet(tmp_path / "test", [20], names, labels)
    arguments = ["-o", tmp_path / "found", "--model", tmp_path / "m.sam3d", "--progress", "none"]
    done = run_cli("segment", test / "imagesTr", *arguments)
    assert done.returncode == 0, done.stderr
    done = run_cli("evaluate", "--predictions", tmp_path / "found", "--labels", test / "labelsTr")
    assert done.returncode == 0, done.stderr
    assert "all" in done.stdout
    card = load_model(tmp_path / "m.sam3d").card
    assert [channel.name for channel in card.inputs] == list(names)
    assert card.decoder.channels[0] == 1024
