"""Orientation, slicing and fitting, each with its exact inverse, on odd and unequal sizes so that swapped axes fail."""

import itertools

import numpy as np
import pytest

from SAM3DSegmentLib.base.errors import GeometryError, InputError
from SAM3DSegmentLib.card import SlicingRule
from SAM3DSegmentLib.geometry import Crop, has_right_angles, slicing_of, spacing_and_directions

SHAPE_KJI = (5, 7, 11)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def matrix(permutation=(0, 1, 2), signs=(1, 1, 1), spacing_ras=(1.0, 1.0, 1.0)):
    """ijk_to_ras of a volume whose axis i runs along world axis permutation[0], and so on."""
    m = np.eye(4)
    m[:3, :3] = 0
    for ijk, (world, sign) in enumerate(zip(permutation, signs)):
        m[world, ijk] = sign * spacing_ras[world]
    return m


def rotation(degrees):
    a, b, c = np.radians(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = np.eye(4)
    turn[:3, :3] = rx @ ry @ rz
    return turn


def store(world_array_rsa, permutation, signs):
    """A kji array with these axes of an array that is indexed [r, a, s] along the world's axes."""
    ijk = world_array_rsa.transpose(permutation)
    ijk = ijk[tuple(slice(None, None, sign) for sign in signs)]
    return ijk.transpose(2, 1, 0)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_every_storage_order_gives_the_same_slices_and_goes_back(permutation, signs, plane):
    world = np.arange(np.prod(SHAPE_KJI)).reshape(SHAPE_KJI)
    rule = SlicingRule(plane)
    expected = slicing_of(matrix(), rule).to_dhw(store(world, (0, 1, 2), (1, 1, 1)))
    stored = store(world, permutation, signs)
    slicing = slicing_of(matrix(permutation, signs), rule)
    np.testing.assert_array_equal(slicing.to_dhw(stored), expected)
    np.testing.assert_array_equal(slicing.to_kji(slicing.to_dhw(stored)), stored)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_an_oblique_volume_is_sliced_as_the_nearest_straight_one(plane):
    rule = SlicingRule(plane)
    for permutation, signs in ORIENTATIONS:
        straight = matrix(permutation, signs, (0.8, 0.9, 1.0))
        oblique = rotation((20, -15, 25)) @ straight
        assert slicing_of(oblique, rule) == slicing_of(straight, rule)


def test_slices_show_anatomy_as_radiologists_do():
    # Brightest voxel at the patient's right, anterior, superior corner of an array indexed [r, a, s].
    world = np.zeros(SHAPE_KJI)
    world[-1, -1, -1] = 1
    stored = store(world, (0, 1, 2), (1, 1, 1))
    corner = {
        plane: tuple(int(n[0]) for n in np.nonzero(slicing_of(matrix(), SlicingRule(plane)).to_dhw(stored)))
        for plane in ("axial", "coronal", "sagittal")
    }
    r, a, s = (n - 1 for n in SHAPE_KJI)
    assert corner["axial"] == (s, 0, 0)  # highest slice; anterior at the top, right on the left
    assert corner["coronal"] == (a, 0, 0)  # foremost slice; superior at the top, right on the left
    assert corner["sagittal"] == (0, 0, 0)  # rightmost slice first; superior at the top, anterior on the left
    assert r == 4


@pytest.mark.parametrize("world", [0, 1, 2])
def test_slices_follow_the_acquisition_axis_where_there_is_one(world):
    spacing = [1.0, 1.0, 1.0]
    spacing[world] = 3.0
    planes = {0: "sagittal", 1: "coronal", 2: "axial"}
    for permutation, signs in ORIENTATIONS:
        slicing = slicing_of(matrix(permutation, signs, spacing), SlicingRule("axial"))
        assert slicing.plane == planes[world]
        assert slicing.spacing_mm == (3.0, 1.0, 1.0)
    spacing[world] = 1.2
    assert slicing_of(matrix(spacing_ras=spacing), SlicingRule("coronal")).plane == "coronal"


def test_left_right_axis():
    axes = {p: slicing_of(matrix(), SlicingRule(p)).left_right_axis for p in ("axial", "coronal", "sagittal")}
    assert axes == {"axial": 2, "coronal": 2, "sagittal": 0}


def test_spacing_and_directions_of_an_oblique_left_handed_volume():
    m = rotation((10, 20, 30)) @ matrix((0, 1, 2), (1, 1, -1), (0.5, 0.7, 2.0))
    spacing, directions = spacing_and_directions(m)
    np.testing.assert_allclose(spacing, (0.5, 0.7, 2.0))
    np.testing.assert_allclose(directions * spacing, m[:3, :3])


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_an_impossible_matrix_is_refused(bad):
    with pytest.raises(GeometryError, match="repair the image's header"):
        slicing_of(bad, SlicingRule())


@pytest.mark.parametrize("fine", [0, 1, 2])
def test_one_fine_axis_among_two_coarse_ones_is_no_stack_of_slices(fine):
    spacing = [4.0, 4.0, 4.0]
    spacing[fine] = 1.0
    for plane in ("axial", "coronal", "sagittal"):
        assert slicing_of(matrix(spacing_ras=spacing), SlicingRule(plane)).plane == plane


@pytest.mark.parametrize(("degrees", "expected"), [(0.001, True), (0.1, False), (3.0, False), (20.0, False)])
def test_a_tilt_is_seen_from_a_tenth_of_a_degree_on(degrees, expected):
    tilted = matrix(spacing_ras=(1.0, 2.0, 3.0))
    tilted[1, 2] = 3 * np.tan(np.radians(degrees))
    assert has_right_angles(tilted) is expected


def test_a_crop_is_of_the_voxels_that_the_points_lie_in_and_goes_back():
    """Voxels of 2 mm: the first reaches from -1 to 1 mm."""
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    ijk_to_ras = np.diag([2.0, 2.0, 2.0, 1.0])
    crop = Crop.around(np.array([[1.1, -50, 0.9], [6.9, 2.9, 50]]), ijk_to_ras, array.shape)
    assert (crop.low_ijk, crop.high_ijk) == ((1, 0, 0), (4, 2, 4))
    np.testing.assert_array_equal(crop.take(array), array[0:4, 0:2, 1:4])
    np.testing.assert_array_equal(crop.move(ijk_to_ras)[:, 3], [2, 0, 0, 1])
    whole = crop.put_back(crop.take(array))
    np.testing.assert_array_equal(whole[:, 0:2, 1:4], array[:, 0:2, 1:4])
    assert np.count_nonzero(whole) == np.count_nonzero(array[:, 0:2, 1:4])


def test_a_named_region_is_a_box_of_voxels_and_its_text_names_it_again():
    crop = Crop.named(" 1:4, 0:2,0:4", (4, 5, 6))
    assert (crop.low_ijk, crop.high_ijk, str(crop), crop.size_kji) == ((1, 0, 0), (4, 2, 4), "1:4,0:2,0:4", (4, 2, 3))
    channels = np.arange(240).reshape(2, 4, 5, 6)
    np.testing.assert_array_equal(crop.view(channels), channels[:, 0:4, 0:2, 1:4])
    assert Crop.named("0:6,0:5,0:4", (4, 5, 6)) == Crop.whole((4, 5, 6))
    assert Crop.named("auto", (4, 5, 6)) is Crop.named("whole", (4, 5, 6)) is None


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("everything", "'everything' is unknown; give auto, whole, or voxels as I0:I1,J0:J1,K0:K1"),
        ("0:5,0:5", "is unknown"),
        ("0:6,0:5,0:4.5", "is unknown"),
        ("3:3,0:5,0:4", "'3:3,0:5,0:4' has no voxel"),
        ("0:6,4:2,0:4", "has no voxel"),
        ("0:7,0:5,0:4", "beyond the volume of 6 x 5 x 4 voxels; stay within 0:6,0:5,0:4."),
        ("-1:6,0:5,0:4", "beyond the volume"),
    ],
)
def test_a_region_that_is_no_box_of_the_volume_is_refused(region, message):
    with pytest.raises(InputError, match=message) as error:
        Crop.named(region, (4, 5, 6))
    assert "\n" not in str(error.value)


def test_a_crop_outside_of_the_volume_is_refused():
    with pytest.raises(GeometryError, match="lies outside of the volume"):
        Crop.around(np.array([[-20.0, 0, 0], [-1.1, 5, 5]]), np.diag([2.0, 2.0, 2.0, 1.0]), (4, 5, 6))
