import json

import numpy as np
import pytest
import SimpleITK as sitk

from conftest import HIPPOCAMPUS
from SAM3DSegmentLib.base.errors import Cancelled, InputError
from SAM3DSegmentLib.base.watch import Watch
from SAM3DSegmentLib.commands import evaluation
from SAM3DSegmentLib.commands.evaluation import compare_label, evaluate_folders
from SAM3DSegmentLib.commands.figures import as_csv, as_dicts
from SAM3DSegmentLib.metrics import dice


def box(shape, low, high):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high))] = True
    return mask


def grid(spacing_kji):
    return np.diag([*spacing_kji[::-1], 1])


def test_dice_of_shifted_boxes():
    a, b = box((8, 8, 8), (2, 2, 2), (6, 6, 6)), box((8, 8, 8), (3, 2, 2), (7, 6, 6))
    assert dice(a, b) == pytest.approx(2 * 48 / 128)
    assert dice(a, ~a) == 0
    assert np.isnan(dice(a & ~a, a & ~a))


def test_distances_are_in_millimetres_along_the_right_axis():
    a = box((12, 20, 30), (3, 4, 5), (6, 9, 15))
    moved = {axis: np.roll(a, 2, axis) for axis in (0, 1, 2)}
    spacing = (3.0, 2.0, 0.5)
    for axis, mask in moved.items():
        result = compare_label(mask, a, grid(spacing), tolerance_mm=1.0)
        assert result.hd95_mm == pytest.approx(2 * spacing[axis])
    assert compare_label(a, a, grid(spacing), 1.0).surface_dice == 1
    assert compare_label(a, a, grid(spacing), 1.0).volume_ml == pytest.approx(a.sum() * 3 / 1000)


def test_volumes_are_right_for_tilted_axes():
    """A gantry tilted by 25 degrees: slices are shifted, and lie closer to each other than their third axis is long."""
    tilted = np.array([[1, 0, 0, 0], [0, 1, np.sin(0.436), 0], [0, 0, np.cos(0.436), 0], [0, 0, 0, 1]])
    a = box((6, 6, 6), (1, 1, 1), (5, 5, 5))
    assert compare_label(a, a, tilted, 1.0).volume_ml == pytest.approx(64 * 0.9064 / 1000, rel=1e-3)


def test_surface_dice_depends_on_the_tolerance():
    a = box((20, 20, 20), (5, 5, 5), (15, 15, 15))
    b = np.roll(a, 2, 0)
    assert compare_label(b, a, np.eye(4), 2.0).surface_dice == 1
    assert compare_label(b, a, np.eye(4), 0.5).surface_dice < 0.7


def test_an_absent_structure_has_no_distance():
    a = box((6, 6, 6), (1, 1, 1), (4, 4, 4))
    nothing = np.zeros_like(a)
    missed = compare_label(nothing, a, np.eye(4), 1.0)
    assert (missed.dice, missed.surface_dice) == (0, 0)
    assert np.isnan(missed.hd95_mm)
    assert np.isnan(compare_label(nothing, nothing, np.eye(4), 1.0).dice)


def test_a_structure_at_the_border_is_measured():
    a = box((6, 6, 6), (0, 0, 0), (6, 6, 3))
    b = box((6, 6, 6), (0, 0, 0), (6, 6, 4))
    assert compare_label(b, a, np.eye(4), 0.5).hd95_mm == pytest.approx(1)


def test_folders_are_compared_case_by_case(tmp_path):
    reference = HIPPOCAMPUS / "labelsTr"
    names = sorted(path.name for path in reference.iterdir())
    for name in names[:3]:
        image = sitk.ReadImage(str(reference / name))
        array = sitk.GetArrayFromImage(image)
        changed = sitk.GetImageFromArray(np.roll(array, 1, 0) if name == names[0] else array)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(tmp_path / name.replace(".nii.gz", ".nrrd")))
    result = evaluate_folders(tmp_path, reference)
    rows = result.rows
    assert result.missing == [names[3].removesuffix(".nii.gz")]
    by_case = {(row.case, row.label): row.metrics for row in rows}
    assert len(rows) == 3 * 2 + 2
    assert by_case[("hippocampus_225", 1)].dice == 1
    assert by_case[("hippocampus_051", 1)].dice < 1
    mean = np.mean([m.dice for (case, label), m in by_case.items() if label == 1 and case != "mean"])
    assert by_case[("mean", 1)].dice == pytest.approx(mean)
    assert json.loads(json.dumps(as_dicts(rows)))[0]["case"] == "hippocampus_051"
    assert as_csv(rows).splitlines()[0] == (
        "case,label,dice,hd95_mm,surface_dice,volume_ml,reference_ml,dice_cases,hd95_mm_cases,surface_dice_cases"
    )


def test_an_evaluation_is_cancelled_between_two_cases(monkeypatch):
    reference, compared = HIPPOCAMPUS / "labelsTr", []
    monkeypatch.setattr(evaluation, "_compare_case", lambda prediction, *_: compared.append(prediction) or {})
    with pytest.raises(Cancelled, match="nothing was written"):
        evaluate_folders(reference, reference, watch=Watch(cancelled=lambda: len(compared) == 2))
    assert len(compared) == 2


def test_folders_that_do_not_fit_are_refused(tmp_path):
    reference = HIPPOCAMPUS / "labelsTr"
    with pytest.raises(InputError, match="does not exist"):
        evaluate_folders(tmp_path / "nowhere", reference)
    with pytest.raises(InputError, match="names must agree"):
        evaluate_folders(tmp_path, reference)
    sitk.WriteImage(sitk.Image((4, 5, 6), sitk.sitkUInt8), str(tmp_path / "hippocampus_051.nrrd"))
    assert "not on the grid" in evaluate_folders(tmp_path, reference).failed["hippocampus_051"]
