"""Grids of volumes: which axis is which, how a volume is sliced and cropped; each operation stands beside its inverse.

Words for axes: `ijk` for matrices in Slicer's sense (`ijk_to_ras`, 4x4, mm, RAS), `kji` for numpy arrays as
SimpleITK and `slicer.util.arrayFromVolume` give them, `dhw` once the slicing axis has been moved first.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

from .base.errors import GeometryError, InputError
from .card import SlicingRule

# World direction (index of R, A or S; sign) in which each of the axes d, h, w runs. Rows and columns follow the
# display convention of radiology: anterior or superior at the top, the patient's right on the viewer's left.
_PLANE_DIRECTIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "axial": ((2, +1), (1, -1), (0, -1)),  # slices upwards, rows to posterior, columns to the left side
    "coronal": ((1, +1), (2, -1), (0, -1)),  # slices forwards, rows to inferior, columns to the left side
    "sagittal": ((0, -1), (2, -1), (1, -1)),  # slices to the left side, rows to inferior, columns to posterior
}
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's and DICOM's world is LPS, Slicer's is RAS; its own inverse
GRID_TOLERANCE = 0.05  # of the smallest spacing: how far apart the corners of two grids may lie that count as one
PARALLEL = 0.99  # of the cosine between two axes, at least
RIGHT_ANGLE_TOLERANCE = 1e-4  # of the cosine between two axes
Grid = tuple[tuple[int, ...], np.ndarray]  # shape (K, J, I), and ijk_to_ras (4, 4) in mm
_PLANE_OF_WORLD_AXIS = {0: "sagittal", 1: "coronal", 2: "axial"}
# Regions of a volume that are no boxes of voxels: what a model is for, which is all of it, and all of it.
AUTO_REGION, WHOLE_REGION = "auto", "whole"
_REGION = re.compile(r"\s*,\s*".join([r"(-?\d+)\s*:\s*(-?\d+)"] * 3))


@dataclass(frozen=True)
class Slicing:
    """How a kji array becomes a dhw array, seen by every model the same way up.

    kji_axes: which kji axis becomes d, h and w; flips: whether that axis runs backwards; spacing_mm: of d, h and w.
    """

    plane: str
    kji_axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing_mm: tuple[float, float, float]

    def to_dhw(self, array_kji: np.ndarray) -> np.ndarray:
        """(K, J, I) -> (D, H, W), a view: a volume is not copied whole."""
        return array_kji.transpose(self.kji_axes)[self._reversal()]

    def to_kji(self, array_dhw: np.ndarray) -> np.ndarray:
        """(D, H, W) -> (K, J, I), the exact inverse of `to_dhw`."""
        return np.ascontiguousarray(array_dhw[self._reversal()].transpose(np.argsort(self.kji_axes)))

    def _reversal(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flips)

    @property
    def left_right_axis(self) -> int:
        """Index in dhw of the axis that runs between the patient's sides."""
        return [world for world, _ in _PLANE_DIRECTIONS[self.plane]].index(0)


def axis_names(plane: str) -> str:
    """Between which sides of the patient slices, rows and columns follow each other in this plane."""
    return " x ".join(("R-L", "A-P", "S-I")[world] for world, _ in _PLANE_DIRECTIONS[plane])


def plane_across(ijk_to_ras: np.ndarray, axis: int) -> str:
    """ "axial", "coronal" or "sagittal": in which plane slices lie that follow each other along `axis` of (K, J, I)."""
    return _PLANE_OF_WORLD_AXIS[_world_of_ijk(spacing_and_directions(ijk_to_ras)[1])[2 - axis]]


def _world_of_ijk(directions: np.ndarray) -> tuple[int, ...]:
    """The axis of R, A and S, from 0, that each of i, j, k is nearest to, such that all three are taken."""
    closeness = np.abs(directions).round(6)
    return max(itertools.permutations(range(3)), key=lambda p: sum(closeness[p[axis], axis] for axis in (0, 1, 2)))


def spacing_and_directions(ijk_to_ras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ijk_to_ras (4, 4) -> spacing (3,) in mm and unit direction columns (3, 3) of the axes i, j, k.

    Raises GeometryError if the matrix is not finite or its axes do not span space.
    """
    matrix = np.asarray(ijk_to_ras, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise GeometryError(f"ijk_to_ras {matrix.tolist()} is not a finite 4x4 matrix; repair the image's header.")
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if (spacing <= 0).any() or abs(np.linalg.det(matrix[:3, :3] / spacing)) < 1e-3:
        raise GeometryError(f"the axes {matrix[:3, :3].tolist()} do not span space; repair the image's header.")
    return spacing, matrix[:3, :3] / spacing


def matrix_from_lps(origin: np.ndarray, spacing: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """ijk_to_ras (4, 4) from ITK's origin (3,) and spacing (3,) in mm and unit direction columns (3, 3), in LPS."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(directions) * spacing
    matrix[:3, 3] = origin
    return RAS_FROM_LPS @ matrix


def voxel_ml(ijk_to_ras: np.ndarray) -> float:
    """The volume of a voxel, also where the axes are not at right angles, as those of a tilted gantry."""
    return float(abs(np.linalg.det(np.asarray(ijk_to_ras, np.float64)[:3, :3]))) / 1000


def has_right_angles(ijk_to_ras: np.ndarray) -> bool:
    """Whether the axes are perpendicular: not sheared, as those of a tilted gantry are."""
    directions = spacing_and_directions(ijk_to_ras)[1]
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() < RIGHT_ANGLE_TOLERANCE)


def is_same_grid(
    shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray, other_shape_kji: tuple[int, ...], other_ijk_to_ras: np.ndarray
) -> bool:
    """Whether two grids are of one shape and their corners lie within GRID_TOLERANCE of each other."""
    if tuple(shape_kji) != tuple(other_shape_kji):
        return False
    apart = _corners_apart_mm(shape_kji, ijk_to_ras, other_ijk_to_ras)
    return bool(apart <= GRID_TOLERANCE * spacing_and_directions(ijk_to_ras)[0].min())


def describe_grid_difference(
    shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray, other_shape_kji: tuple[int, ...], other_ijk_to_ras: np.ndarray
) -> str:
    """How another grid differs from one, for people; "" if they are the same."""
    if is_same_grid(shape_kji, ijk_to_ras, other_shape_kji, other_ijk_to_ras):
        return ""
    if tuple(shape_kji) != tuple(other_shape_kji):
        here, there = (" x ".join(map(str, shape[::-1])) for shape in (shape_kji, other_shape_kji))
        return f"it has {there} voxels instead of {here}"
    apart = _corners_apart_mm(shape_kji, ijk_to_ras, other_ijk_to_ras)
    return f"its voxels lie up to {apart:.3g} mm from where they should be"


def _corners_apart_mm(shape_kji: tuple[int, ...], ijk_to_ras: np.ndarray, other_ijk_to_ras: np.ndarray) -> float:
    """How far the corners of two grids of one shape lie apart at most.

    Corners, because a small difference of spacing or angle adds up along an axis.
    """
    last = np.array(shape_kji[::-1]) - 1
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, end) for end in last))])
    return float(np.linalg.norm((corners @ (ijk_to_ras - other_ijk_to_ras).T)[:, :3], axis=1).max())


def turn_like(
    array_kji: np.ndarray, ijk_to_ras: np.ndarray, other_ijk_to_ras: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (..., K, J, I) with axes in the order and the directions of another grid's, and their ijk_to_ras.

    A view of the same voxels at the same places; as they are if the axes of the two grids are not parallel.
    """
    turn = spacing_and_directions(other_ijk_to_ras)[1].T @ spacing_and_directions(ijk_to_ras)[1]
    own = np.abs(turn).argmax(1)  # of i, j, k of the other grid
    if sorted(own) != [0, 1, 2] or np.abs(turn).max(1).min() < PARALLEL:
        return array_kji, ijk_to_ras
    matrix = np.eye(4)
    matrix[:, 3] = ijk_to_ras[:, 3]
    turned = array_kji
    for axis, from_axis in enumerate(own):
        column, size = ijk_to_ras[:3, from_axis], array_kji.shape[-1 - from_axis]
        is_reversed = turn[axis, from_axis] < 0
        if is_reversed:
            matrix[:3, 3] += (size - 1) * column
            turned = np.flip(turned, -1 - from_axis)
        matrix[:3, axis] = -column if is_reversed else column
    before = range(array_kji.ndim - 3)
    return turned.transpose(*before, *(array_kji.ndim - 1 - own[axis] for axis in (2, 1, 0))), matrix


def grid_offset(
    ijk_to_ras: np.ndarray, other_shape_kji: tuple[int, ...], other_ijk_to_ras: np.ndarray
) -> tuple[int, int, int] | None:
    """Where (k, j, i) on a grid the first voxel of another lies, or None if they differ in more than extent."""
    offset = np.linalg.solve(ijk_to_ras, other_ijk_to_ras)[:3, 3].round()
    moved = ijk_to_ras.copy()
    moved[:3, 3] = (ijk_to_ras @ (*offset, 1))[:3]
    if not is_same_grid(other_shape_kji, moved, other_shape_kji, other_ijk_to_ras):
        return None
    i, j, k = (int(o) for o in offset)
    return k, j, i


def slicing_of(ijk_to_ras: np.ndarray, rule: SlicingRule) -> Slicing:
    """The slicing of a volume with this matrix under `rule`; any permuted, flipped, oblique or left-handed axes.

    An oblique axis counts as the world axis that it is nearest to, such that all three are taken.
    """
    spacing_ijk, directions = spacing_and_directions(ijk_to_ras)
    world_of_ijk = _world_of_ijk(directions)
    ijk_of_world = [world_of_ijk.index(world) for world in (0, 1, 2)]
    ascending = np.sort(spacing_ijk)
    plane = rule.plane
    if ascending[2] >= rule.anisotropy * ascending[1]:
        plane = _PLANE_OF_WORLD_AXIS[world_of_ijk[int(spacing_ijk.argmax())]]
    axes, flips, spacing = [], [], []
    for world, sign in _PLANE_DIRECTIONS[plane]:
        ijk_axis = ijk_of_world[world]
        axes.append(2 - ijk_axis)
        flips.append(bool(directions[world, ijk_axis] * sign < 0))
        # To five digits, because file formats store a spacing to different precision and sizes are derived from it.
        spacing.append(float(f"{spacing_ijk[ijk_axis]:.5g}"))
    return Slicing(plane, tuple(axes), tuple(flips), tuple(spacing))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Crop:
    """A box of voxels, from `low` to `high` (exclusive) along i, j and k, cut out of a volume of `shape_kji`."""

    low_ijk: tuple[int, int, int]
    high_ijk: tuple[int, int, int]
    shape_kji: tuple[int, int, int]

    @classmethod
    def around(cls, points_ras: np.ndarray, ijk_to_ras: np.ndarray, shape_kji: tuple[int, int, int]) -> Crop:
        """The voxels within the box, along the volume's axes, that holds all points (N, 3) in mm.

        Raises GeometryError if none of them lies in the volume.
        """
        points = np.c_[points_ras, np.ones(len(points_ras))] @ np.linalg.inv(ijk_to_ras).T
        size_ijk = np.array(shape_kji[::-1])
        low = np.clip(np.floor(points[:, :3].min(0) + 0.5), 0, size_ijk).astype(int)
        high = np.clip(np.floor(points[:, :3].max(0) + 0.5) + 1, 0, size_ijk).astype(int)
        if (high <= low).any():
            raise GeometryError("the region of interest lies outside of the volume; move it onto the volume.")
        return cls(tuple(low.tolist()), tuple(high.tolist()), shape_kji)

    @classmethod
    def whole(cls, shape_kji: tuple[int, ...]) -> Crop:
        """All voxels."""
        k, j, i = shape_kji
        return cls((0, 0, 0), (i, j, k), (k, j, i))

    @classmethod
    def middle(cls, shape_kji: tuple[int, ...]) -> Crop:
        """The voxel in the middle."""
        k, j, i = shape_kji
        low = (i // 2, j // 2, k // 2)
        return cls(low, (low[0] + 1, low[1] + 1, low[2] + 1), (k, j, i))

    @classmethod
    def named(cls, region: str, shape_kji: tuple[int, ...]) -> Crop | None:
        """The box "I0:I1,J0:J1,K0:K1" of a volume, its ends excluded; None for AUTO_REGION and WHOLE_REGION.

        Raises InputError for another text, for a box without voxels, and for one that the volume does not contain.
        """
        if (bounds := _bounds_of(region)) is None:
            return None
        low, high = bounds
        k, j, i = shape_kji
        if min(low) < 0 or any(end > size for end, size in zip(high, (i, j, k))):
            raise InputError(
                f"region {region!r} reaches beyond the volume of {i} x {j} x {k} voxels; stay within 0:{i},0:{j},0:{k}."
            )
        return cls(low, high, (k, j, i))

    def __str__(self) -> str:
        """As `named` reads it."""
        return ",".join(f"{low}:{high}" for low, high in zip(self.low_ijk, self.high_ijk))

    @property
    def is_whole(self) -> bool:
        return self == Crop.whole(self.shape_kji)

    @property
    def size_kji(self) -> tuple[int, int, int]:
        i, j, k = (high - low for low, high in zip(self.low_ijk, self.high_ijk))
        return k, j, i

    def take(self, array_kji: np.ndarray) -> np.ndarray:
        """A copy of the box, or if it is the whole volume the array itself."""
        return array_kji if self.is_whole else np.ascontiguousarray(self.view(array_kji))

    def view(self, array_kji: np.ndarray) -> np.ndarray:
        """The box of an array (..., K, J, I), to be read or written."""
        k, j, i = map(slice, self.low_ijk[::-1], self.high_ijk[::-1])
        return array_kji[..., k, j, i]

    def shrunk_to(self, mask_kji: np.ndarray) -> Crop:
        """The smallest box within this one that holds as much of a mask of the volume, of which it has some."""
        inside = self.view(mask_kji)
        along = [np.flatnonzero(inside.any(axis=others)) for others in ((0, 1), (0, 2), (1, 2))]
        low = [start + int(where[0]) for start, where in zip(self.low_ijk, along)]
        high = [start + int(where[-1]) + 1 for start, where in zip(self.low_ijk, along)]
        return Crop((low[0], low[1], low[2]), (high[0], high[1], high[2]), self.shape_kji)

    def grown(self, low_mm: np.ndarray, high_mm: np.ndarray, ijk_to_ras: np.ndarray) -> Crop:
        """With so many mm more before and after it along i, j and k, or fewer; within the volume, a voxel at least."""
        voxel_mm, size = spacing_and_directions(ijk_to_ras)[0], np.array(self.shape_kji[::-1])
        low = np.clip(np.floor(self.low_ijk - low_mm / voxel_mm + 1e-6), 0, size - 1).astype(int)
        high = np.clip(np.ceil(self.high_ijk + high_mm / voxel_mm - 1e-6), low + 1, size).astype(int)
        return Crop(tuple(low.tolist()), tuple(high.tolist()), self.shape_kji)

    def overlaps(self, other: Crop) -> bool:
        """Whether they share a voxel."""
        low = np.maximum(self.low_ijk, other.low_ijk)
        return bool((low < np.minimum(self.high_ijk, other.high_ijk)).all())

    def put_back(self, labels_kji: np.ndarray) -> np.ndarray:
        """The inverse of `take`: labels on the whole volume's grid, 0 around the box."""
        whole = np.zeros(self.shape_kji, labels_kji.dtype)
        self.view(whole)[:] = labels_kji
        return whole

    def move(self, ijk_to_ras: np.ndarray) -> np.ndarray:
        """ijk_to_ras of the box from that of the volume."""
        moved = ijk_to_ras.copy()
        moved[:3, 3] = (ijk_to_ras @ (*self.low_ijk, 1))[:3]
        return moved


def check_region(region: str) -> str:
    """The region itself. Raises InputError unless `Crop.named` can read it."""
    _bounds_of(region)
    return region


def _bounds_of(region: str) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
    """First voxel and end along i, j and k of a box; None for a region that is none."""
    if region in (AUTO_REGION, WHOLE_REGION):
        return None
    if (match := _REGION.fullmatch(region.strip())) is None:
        raise InputError(
            f"region {region!r} is unknown; give {AUTO_REGION}, {WHOLE_REGION}, or voxels as I0:I1,J0:J1,K0:K1, such "
            "as 10:60,20:80,0:40, which ends before voxel 60, 80 and 40."
        )
    i0, i1, j0, j1, k0, k1 = map(int, match.groups())
    if i0 >= i1 or j0 >= j1 or k0 >= k1:
        raise InputError(f"region {region!r} has no voxel; the second number of each pair must be greater.")
    return (i0, j0, k0), (i1, j1, k1)
