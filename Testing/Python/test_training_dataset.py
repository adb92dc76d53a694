"""Labelled cases as people have them: Decathlon, nnU-Net, pairs, a folder each; and what is refused, by name."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS
from SAM3DSegmentLib.base.errors import InputError
from SAM3DSegmentLib.card import Label
from SAM3DSegmentLib.geometry import is_same_grid
from SAM3DSegmentLib.settings import TrainingConfig
from SAM3DSegmentLib.training import description, look, reading
from SAM3DSegmentLib.training.check import check, find_suspicious
from SAM3DSegmentLib.training.classes import LabelRules, agree_on_labels
from SAM3DSegmentLib.training.dataset import find_dataset
from SAM3DSegmentLib.training.look import look_at_cases
from SAM3DSegmentLib.training.new_case import files_of_case, new_case_files
from SAM3DSegmentLib.training.plan import make_plan
from SAM3DSegmentLib.training.reading import read_case
from SAM3DSegmentLib.training.run_folder import Options, describe_difference
from SAM3DSegmentLib.training.splits import split_cases

CONFIG = TrainingConfig(encoder="compact_vit", image_size=32)
AB = (Label(1, "A", (1, 2, 3)), Label(2, "B", (4, 5, 6)))


def image_of(array, spacing=(1.0, 1.0, 2.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-20.0, 5.0, 3.0))
    return image


def labels_array(shift=0):
    array = np.zeros((6, 10, 12), np.uint8)
    array[1:4, 2:5, 2 + shift : 6 + shift] = 1
    array[2:5, 6:9, 2:6] = 2
    return array


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image_of(array, **options), str(path))


def write_pair(image_path, label_path, shift=0, labels=None):
    write(image_path, np.arange(720, dtype=np.int16).reshape(6, 10, 12))
    write(label_path, labels_array(shift) if labels is None else labels)


@pytest.fixture
def decathlon(tmp_path):
    for name in ("a", "b", "c"):
        write_pair(tmp_path / "imagesTr" / f"{name}.nii.gz", tmp_path / "labelsTr" / f"{name}.nii.gz")
    return tmp_path


def find_labels(dataset):
    return agree_on_labels(dataset, look_at_cases(dataset))[0]


def examine(dataset, labels, resample):
    return agree_on_labels(dataset, look_at_cases(dataset, LabelRules(resample)), labels)[1]


def fingerprint(dataset):
    return {look.files.name: look.sha256 for look in look_at_cases(dataset, hashed=True)}


def names(folder):
    return [case.name for case in find_dataset(folder).cases]


def label_names(folder):
    return [(label.value, label.name) for label in find_labels(find_dataset(folder))]


def test_a_decathlon_folder_is_understood():
    dataset = find_dataset(HIPPOCAMPUS)
    assert [case.name[-3:] for case in dataset.cases] == ["051", "225", "335", "340"]
    assert label_names(HIPPOCAMPUS) == [(1, "Anterior"), (2, "Posterior")]
    assert (dataset.modality, dataset.licence) == ("MRI", "CC-BY-SA 4.0")


def test_without_a_description_labels_are_found(decathlon):
    assert label_names(decathlon) == [(1, "Label 1"), (2, "Label 2")]


@pytest.mark.parametrize(
    "description",
    [
        {"channel_names": {"0": "CT"}, "labels": {"background": 0, "A": 1, "B": 2}, "file_ending": ".nii.gz"},
        {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "A", "2": "B"}},
        {"modality": "CT", "labels": {"0": "background", "1": "A", "2": "B"}},
        {"modality": ["CT"], "labels": {"1": "A", "2": "B"}},
    ],
)
def test_raw_data_of_nnunet_and_its_descriptions_are_read(tmp_path, description):
    for name in ("case_001", "case_002"):
        write_pair(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", tmp_path / "labelsTr" / f"{name}.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    assert names(tmp_path) == ["case_001", "case_002"]
    assert label_names(tmp_path) == [(1, "A"), (2, "B")]
    assert find_dataset(tmp_path).modality == "CT"


def test_regions_are_no_labels_but_those_of_one_value_may_name_it():
    labels = {"background": 0, "core": [2], "whole": [1, 2, 3], "enhancing": 3, "also": [3]}
    named = {0: "background", 1: "Label 1", 2: "core", 3: "enhancing"}
    assert description.label_names({"labels": labels}, Path("dataset.json")) == named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "is not a JSON object"),
        ('{"labels": {"whole": [1, "b"], "core": 2}}', "labels that cannot be read"),
        ('{"labels": 3}', "labels that cannot be read"),
        ('{"labels": {"ignore": 0, "A": 1}}', "names 0 'ignore', but the background is 0; renumber the labels"),
        ('{"labels": {"A": 0, "B": 1, "background": 2}}', "names 0 'A', but the background is 0; renumber the labels"),
        ('{"labels": {"1": "A", "2": "Background"}}', "names 2 'Background', but the background is 0"),
        ('{"labels": {"A": 1, "B": 1}}', "labels that cannot be read .'A' and 'B' are both 1"),
        ('{"labels": {"1": "A", "01": "B"}}', "'A' and 'B' are both 1"),
        ('{"labels": {"1": "A", "2": "a "}}', "gives 'a ' the values 1 and 2; keep one of them"),
    ],
)
def test_a_description_that_cannot_be_read_is_named(decathlon, text, message):
    (decathlon / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        find_dataset(decathlon)
    assert "dataset.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ["_label.nii.gz", "-label.nrrd", "_seg.nii.gz", "-segmentation.nrrd", "_mask.nii"])
def test_pairs_in_one_folder_are_cases(tmp_path, ending):
    for name in ("a", "b"):
        write_pair(tmp_path / f"{name}.nii.gz", tmp_path / f"{name}{ending}")
    assert names(tmp_path) == ["a", "b"]
    assert find_dataset(tmp_path).notices == ()


def test_a_value_0_of_another_name_is_said(decathlon):
    (decathlon / "dataset.json").write_text('{"labels": {"0": "air", "1": "A", "2": "B"}}')
    assert label_names(decathlon) == [(1, "A"), (2, "B")]
    assert find_dataset(decathlon).notices == ("dataset.json names the value 0 'air'; it is taken as the background.",)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a_image.nrrd", "a_label.nrrd"),
        ("a-img.nii.gz", "a-seg.nii.gz"),
        ("a.Image.nrrd", "a_mask.nrrd"),
        ("a_volume.nrrd", "a_segmentation.nrrd"),
    ],
)
def test_images_that_are_called_so_are_paired(tmp_path, image, label):
    for folder in (tmp_path / "pairs", tmp_path / "folders"):
        for name in ("a", "b"):
            parts = ("imagesTr", "labelsTr") if folder.name == "folders" else ("", "")
            write_pair(folder / parts[0] / image.replace("a", name, 1), folder / parts[1] / label.replace("a", name, 1))
        assert names(folder) == ["a", "b"]
        assert find_dataset(folder).notices == ()


def test_an_image_beside_the_one_that_is_called_so_is_not_mixed_up_with_it(tmp_path):
    for name in ("a", "a_image", "b_image", "c_0001"):
        write_pair(tmp_path / f"{name}.nrrd", tmp_path / f"{name}_label.nrrd")
    assert names(tmp_path) == ["a", "a_image", "b_image", "c_0001"]
    (tmp_path / "a_image_label.nrrd").unlink()
    with pytest.raises(InputError, match=r"a\.nrrd' and .*a_image\.nrrd' both belong to the case 'a'"):
        find_dataset(tmp_path)


def test_a_new_case_replaces_its_own_files_only(tmp_path):
    for name in ("a_image", "a_0001"):
        write_pair(tmp_path / f"{name}.nrrd", tmp_path / f"{name}_label.nrrd")
    write_pair(tmp_path / "b_image.nrrd", tmp_path / "b_label.nrrd")
    assert files_of_case(new_case_files(tmp_path, "a")) == []
    assert [path.name for path in files_of_case(new_case_files(tmp_path, "b"))] == ["b_image.nrrd", "b_label.nrrd"]
    (tmp_path / "a_image_label.nrrd").unlink()
    assert [path.name for path in files_of_case(new_case_files(tmp_path, "a"))] == ["a_image.nrrd"]


def test_a_folder_for_each_case(tmp_path):
    for name in ("patient1", "patient2"):
        write_pair(tmp_path / name / "t1.nrrd", tmp_path / name / "Segmentation-label.nrrd")
    (tmp_path / "notes").mkdir()
    write(tmp_path / "patient3" / "t1.nrrd", labels_array())
    assert names(tmp_path) == ["patient1", "patient2"]
    assert find_dataset(tmp_path).notices == ("patient3 has 1 images and 0 label maps, not one of each.",)


def test_links_to_nothing_are_named(tmp_path):
    for name in ("a", "b", "c"):
        write_pair(tmp_path / name / "t1.nrrd", tmp_path / name / "t1_label.nrrd")
    (tmp_path / "d").symlink_to("../.dvc/cache/d")
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["a", "b", "c"]
    assert dataset.notices == (
        "d is a link to '../.dvc/cache/d', which does not exist; fetch that file, or copy it here.",
    )
    for name, file in (("a", "t1.nrrd"), ("b", "t1_label.nrrd")):
        (tmp_path / name / file).unlink()
        (tmp_path / name / file).symlink_to("../../.git/annex/x")
    problems = [case.problem for case in examine(find_dataset(tmp_path), AB, resample=False)]
    assert [bool(re.search(r"(t1|label)\.nrrd' is a link to '.*/annex/x'", text)) for text in problems] == [
        True,
        True,
        False,
    ]


def test_two_files_of_one_case_are_refused_naming_both(decathlon):
    shutil.copy(decathlon / "imagesTr" / "a.nii.gz", decathlon / "imagesTr" / "a.nii.gz.bak")
    write(decathlon / "imagesTr" / "a.nrrd", labels_array())
    with pytest.raises(InputError, match=r"a\.nii\.gz' and .*a\.nrrd' both belong to the case 'a'"):
        find_dataset(decathlon)


def test_files_without_a_partner_are_listed(decathlon):
    write(decathlon / "imagesTr" / "lonely.nrrd", labels_array())
    (decathlon / "labelsTr" / "b.nii.gz").rename(decathlon / "labelsTr" / "B-final.nii.gz")
    dataset = find_dataset(decathlon)
    assert [case.name for case in dataset.cases] == ["a", "c"]
    assert dataset.notices == (
        "2 images without a label map, left out: b.nii.gz, lonely.nrrd.",
        "1 label map without an image, left out: B-final.nii.gz.",
    )


def test_too_few_cases_say_why(tmp_path):
    with pytest.raises(InputError, match="0 labelled cases"):
        find_dataset(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_dataset(tmp_path / "nowhere")
    write(tmp_path / "imagesTr" / "a.nrrd", labels_array())
    with pytest.raises(InputError, match="labelsTr"):
        find_dataset(tmp_path)
    write(tmp_path / "labelsTr" / "x.nrrd", labels_array())
    with pytest.raises(InputError, match=r"1 image without a label map, left out: a\.nrrd"):
        find_dataset(tmp_path)


def test_label_maps_without_a_structure_are_named(tmp_path):
    for name in ("a", "b"):
        empty = np.zeros((6, 10, 12), np.uint8)
        write_pair(tmp_path / f"{name}.nrrd", tmp_path / f"{name}_label.nrrd", labels=empty)
    with pytest.raises(InputError, match=r"no label map has a structure: a_label\.nrrd, b_label\.nrrd"):
        find_labels(find_dataset(tmp_path))


def problem_of(folder, labels=AB, resample=False):
    return next(case.problem for case in examine(find_dataset(folder), labels, resample) if case.problem)


def test_values_without_a_name_and_values_that_are_no_labels_are_named(decathlon):
    assert "values [2] without a name" in problem_of(decathlon, AB[:1])
    write(decathlon / "labelsTr" / "b.nii.gz", labels_array() * np.float32(0.5))
    assert "values such as 0.5; give a label map of whole numbers" in problem_of(decathlon)
    write(decathlon / "labelsTr" / "b.nii.gz", labels_array().astype(np.int16) * 300)
    assert "values from 0 to 600, outside 0..255" in problem_of(decathlon)


def test_a_label_map_on_another_grid_is_refused_by_name_or_resampled_when_asked(decathlon):
    """0.9 % more spacing is half a voxel at the border."""
    write(decathlon / "labelsTr" / "b.nii.gz", labels_array(), spacing=(1.009, 1.009, 2.018))
    problem = problem_of(decathlon)
    assert "b.nii.gz' is not on the grid of its image" in problem
    assert "--resample" in problem
    facts = examine(find_dataset(decathlon), AB, LabelRules(resample=True))
    assert not any(case.problem for case in facts)
    case = find_dataset(decathlon).cases[1]
    _, indices = read_case(case, AB, LabelRules(resample=True))
    assert np.count_nonzero(indices != labels_array()) < 0.1 * np.count_nonzero(labels_array())


def test_resampling_follows_the_labels_place_in_the_world(decathlon):
    """A label map of twice the resolution, flipped in storage, comes back voxel by voxel."""
    fine = labels_array().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    image = image_of(fine, spacing=(0.5, 0.5, 1.0))
    image.SetOrigin((-20.25, 4.75, 2.5))
    flipped = sitk.Flip(image, (True, False, False))
    sitk.WriteImage(flipped, str(decathlon / "labelsTr" / "b.nii.gz"))
    _, indices = read_case(find_dataset(decathlon).cases[1], AB, LabelRules(resample=True))
    assert np.array_equal(indices, labels_array())


def test_grids_are_the_same_up_to_a_part_of_the_smallest_voxel():
    grid = np.diag([1.0, 1.0, 2.0, 1.0])
    assert is_same_grid((6, 10, 12), grid, (6, 10, 12), grid + 1e-4)
    assert not is_same_grid((6, 10, 12), grid, (6, 10, 13), grid)
    turned = grid.copy()
    turned[0, 1] = 0.01  # 0.09 mm at the far corner
    assert not is_same_grid((6, 10, 12), grid, (6, 10, 12), turned)


def test_the_split_is_complete_disjoint_and_repeatable():
    cases = [f"case{n}" for n in range(12)]
    config = dataclasses.replace(CONFIG, test_cases=2)
    (split,) = split_cases(cases, config)
    assert (len(split.training), len(split.validation), len(split.test)) == (8, 2, 2)
    assert sorted(split.training + split.validation + split.test) == sorted(cases)
    assert (split,) == split_cases(reversed(cases), config)
    assert (split,) != split_cases(cases, dataclasses.replace(config, seed=1))
    with pytest.raises(InputError, match="leave none of 4"):
        split_cases(cases[:4], dataclasses.replace(CONFIG, test_cases=3))


def test_folds_hold_every_case_out_once():
    cases = [f"case{n}" for n in range(11)]
    splits = split_cases(cases, dataclasses.replace(CONFIG, folds=3, test_cases=1))
    assert len({split.test for split in splits}) == 1
    held_out = [name for split in splits for name in split.validation]
    assert sorted(held_out + list(splits[0].test)) == sorted(cases)
    for split in splits:
        assert not set(split.training) & (set(split.validation) | set(split.test))
        assert len(split.training) + len(split.validation) == 10


@pytest.mark.parametrize("folds", [1, 3])
def test_cases_of_one_patient_are_never_on_both_sides(folds):
    cases = [f"case{n:02d}" for n in range(30)]
    for seed in range(20):
        drawn = np.random.default_rng(seed).integers(0, 9, 30)
        patients = {name: f"P{number}" for name, number in zip(cases, drawn) if number}  # the others are their own
        config = dataclasses.replace(CONFIG, folds=folds, test_cases=3, seed=seed)
        splits = split_cases(cases, config, 12, patients)
        for split in splits:
            sides = [{patients.get(name, name) for name in side} for side in dataclasses.astuple(split)]
            assert all(sides), split
            assert sum(map(len, sides)) == len(set.union(*sides)), split
            assert len(split.test) >= 3
        held_out = [name for split in splits for name in split.validation]
        assert len(set(held_out)) == len(held_out)
    alone = {name: name for name in cases}
    assert split_cases(cases, config, None, alone) == split_cases(cases, config)
    one = dict.fromkeys(cases, "P1")
    refused = "30 cases of 1 patients cannot" if folds > 1 else "none of 30 of 1 patients"
    with pytest.raises(InputError, match=refused):
        split_cases(cases, dataclasses.replace(config, test_cases=0), None, one)


def test_dataset_json_names_patients_and_the_check_counts_them(decathlon):
    write_pair(decathlon / "imagesTr" / "d.nrrd", decathlon / "labelsTr" / "d.nrrd")
    description = decathlon / "dataset.json"
    description.write_text(json.dumps({"patients": {"a": "P7", "c": "P7", "b": 8, "z": "P9"}}))
    dataset = find_dataset(decathlon)
    assert dataset.patients == {"a": "P7", "c": "P7", "b": "8"}
    assert dataset.notices == ("dataset.json names the patients of cases that are not here: z.",)
    for seed in range(6):
        (split,) = make_plan(decathlon, dataclasses.replace(CONFIG, seed=seed)).splits
        assert ({"a", "c"} <= set(split.training)) != ({"a", "c"} <= set(split.validation))
    lines, _ = check(decathlon, CONFIG, Options())
    assert "patients: 3, of 4 cases; those of one are never on both sides of the split." in lines
    for wrong in (["P7"], {"a": ["P7"]}, {"a": ""}):
        description.write_text(json.dumps({"patients": wrong}))
        with pytest.raises(InputError, match=r"patient.*as in {\"patients\": {\"case_1\": \"P7\""):
            find_dataset(decathlon)


def test_a_fingerprint_names_what_has_changed(decathlon):
    before = fingerprint(find_dataset(decathlon))
    assert describe_difference(before, fingerprint(find_dataset(decathlon))) == ""
    write(decathlon / "labelsTr" / "b.nii.gz", labels_array(1))
    write_pair(decathlon / "imagesTr" / "d.nrrd", decathlon / "labelsTr" / "d.nrrd")
    (decathlon / "labelsTr" / "c.nii.gz").unlink()
    now = fingerprint(find_dataset(decathlon))
    assert describe_difference(before, now) == "added: d; removed: c; changed: b"


def test_a_detached_header_is_watched_with_its_voxels(tmp_path):
    for name in ("a", "b"):
        write_pair(tmp_path / f"{name}.mhd", tmp_path / f"{name}_label.mhd")
    before = fingerprint(find_dataset(tmp_path))
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[:-1] + b"x")
    assert describe_difference(before, fingerprint(find_dataset(tmp_path))) == "changed: a"


def test_check_lists_cases_what_is_odd_time_and_disk(decathlon):
    only_a = labels_array()
    only_a[only_a == 2] = 0
    write(decathlon / "labelsTr" / "b.nii.gz", only_a)
    write(decathlon / "labelsTr" / "c.nii.gz", labels_array(), spacing=(1.0, 1.0, 2.2))
    write(decathlon / "imagesTr" / "lonely.nrrd", only_a)
    before = sorted(decathlon.rglob("*"))
    lines, has_problems = check(decathlon, CONFIG, Options(device="cpu"))
    text = "\n".join(lines)
    assert has_problems
    assert (
        "a                            12 x 10 x 6        1 x 1 x 2               6  Label 1 0.07, Label 2 0.07" in text
    )
    assert "c.nii.gz' is not on the grid" in text
    assert "suspicious: 1 image without a label map, left out: lonely.nrrd." in text
    assert "suspicious: 'Label 2' is not in 1 of 2 cases: b." in text
    assert "min of validation" in text
    assert "GB while it runs" in text
    assert sorted(decathlon.rglob("*")) == before


def test_a_thin_case_among_thick_ones_is_odd(tmp_path):
    for name, slices in (("a", 20), ("b", 18), ("c", 2)):
        array = np.zeros((slices, 10, 12), np.uint8)
        array[:, 3:6, 3:6] = 1
        write(tmp_path / f"{name}.nrrd", array.astype(np.int16))
        write(tmp_path / f"{name}_label.nrrd", array)
    assert any(
        "fewer slices than training_depth 16: c." in text for text in find_suspicious(make_plan(tmp_path, CONFIG))
    )


def layout_of(folder, kind):
    """One case, "old", in one of the layouts."""
    pairs = {
        "folders": (folder / "imagesTr" / "old_0000.nii.gz", folder / "labelsTr" / "old.nii.gz"),
        "pairs": (folder / "old.nii.gz", folder / "old_label.nii.gz"),
        "subfolders": (folder / "old" / "t1.nii.gz", folder / "old" / "t1-label.nii.gz"),
    }
    write_pair(*pairs[kind])
    return list(pairs[kind])


@pytest.mark.parametrize("kind", ["folders", "pairs", "subfolders"])
def test_a_new_case_is_written_where_it_will_be_found(tmp_path, kind):
    old = layout_of(tmp_path, kind)
    files = new_case_files(tmp_path, "Patient 1.b")
    assert files_of_case(files) == []
    write_pair(files.image, files.label_map)
    assert files.label_map.name == "Patient 1.b.seg.nrrd"
    assert files_of_case(files) == sorted([files.image, files.label_map])
    assert [case.name for case in find_dataset(tmp_path).cases] == ["Patient 1.b", "old"]
    same = files_of_case(new_case_files(tmp_path, "old"))
    assert same == sorted(old)


def test_an_empty_folder_gets_pairs(tmp_path):
    files = new_case_files(tmp_path, "a")
    assert (files.image, files.label_map) == (tmp_path / "a.nrrd", tmp_path / "a.seg.nrrd")
    assert find_dataset(tmp_path, least=0).cases == ()


@pytest.mark.parametrize("name", ["", "ct_label", "ct.seg", "a/b", "..", ".a", "a.", "a:b"])
def test_a_name_that_would_be_taken_for_something_else_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot name a case"):
        new_case_files(tmp_path, name)


def test_one_look_reads_each_label_map_and_each_image_header_once(decathlon, monkeypatch):
    read = []
    for name in ("read_label_map", "read_header"):
        original = getattr(look, name)
        monkeypatch.setattr(look, name, lambda path, *more, of=original: read.append(path.name) or of(path, *more))
    monkeypatch.setattr(reading, "read_label_map", lambda path, *more: pytest.fail(f"{path} is read again"))
    plan = make_plan(decathlon, CONFIG, hashed=True)
    assert find_suspicious(plan) == []
    assert len(plan.fingerprint) == 3
    assert sorted(read) == sorted([f"{name}.nii.gz" for name in ("a", "b", "c")] * 2)


def test_structures_have_the_voxels_that_they_have_on_the_image(decathlon):
    plan = make_plan(decathlon, CONFIG)
    assert [case.voxels for case in plan.facts] == [{"Label 1": 36, "Label 2": 36}] * 3
    assert plan.depths == {"a": 6, "b": 6, "c": 6}
    assert plan.card.spacing_mm == (2, 1, 1)
