"""One picture of a result: slices with outlines against the reference, and the surfaces in 3-D."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import LightSource
from matplotlib.lines import Line2D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from skimage.filters import gaussian
from skimage.measure import marching_cubes

from SAM3DSegmentLib.card import Label, ModelCard, SlicingRule
from SAM3DSegmentLib.formats.volumes import Volume
from SAM3DSegmentLib.geometry import slicing_of
from SAM3DSegmentLib.intensity import measure_grey_scale

BACKGROUND = "#101418"
TEXT = "#e8eaed"


def draw_overview(
    path: Path, volume: Volume, mask: np.ndarray, reference: np.ndarray, card: ModelCard, scores: list[float]
) -> None:
    """mask, reference: (K, J, I) label values. Solid outlines are the model's, dashed white ones the reference."""
    figure = plt.figure(figsize=(13, 5.6), facecolor=BACKGROUND)
    grid = figure.add_gridspec(
        2, 4, width_ratios=(1, 1, 1, 1.6), left=0.02, right=0.98, top=0.86, bottom=0.1, wspace=0.05, hspace=0.2
    )
    for row, plane in enumerate(("coronal", "sagittal")):
        slicing = slicing_of(volume.ijk_to_ras, SlicingRule(plane))
        grey, ours, theirs = (slicing.to_dhw(array) for array in (volume.array_kji, mask, reference))
        grey = measure_grey_scale(grey, card.intensity).apply(grey)
        aspect = slicing.spacing_mm[1] / slicing.spacing_mm[2]
        occupied = np.nonzero((ours + theirs).any((1, 2)))[0]
        for column, share in enumerate((0.25, 0.5, 0.75)):
            index = int(occupied[0] + share * (occupied[-1] - occupied[0]))
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(grey[index], cmap="gray", vmin=0, vmax=255, aspect=aspect, interpolation="bicubic")
            for label in card.labels:
                _outline(axes, theirs[index] == label.value, "white", "dashed", 1.0)
                _outline(axes, ours[index] == label.value, _rgb(label), "solid", 2.0)
            axes.set_title(f"{plane}, slice {index}", color=TEXT, fontsize=9)
            axes.axis("off")
    _surfaces(figure.add_subplot(grid[:, 3], projection="3d"), volume, mask, card)
    handles = [
        Line2D([], [], color=_rgb(label), linewidth=2, label=f"{label.name}: Dice {score:.3f}")
        for label, score in zip(card.labels, scores)
    ]
    handles.append(Line2D([], [], color="white", linestyle="dashed", label="reference, by an expert"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, labelcolor=TEXT, fontsize=11)
    figure.suptitle(f"{volume.path.name}, segmented by {card.name}", color=TEXT, fontsize=14)
    figure.savefig(path, dpi=110, facecolor=BACKGROUND)
    plt.close(figure)


def _rgb(label: Label) -> tuple[float, ...]:
    return tuple(c / 255 for c in label.color)


def _outline(axes: plt.Axes, mask: np.ndarray, color: object, style: str, width: float) -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=[color], linestyles=style, linewidths=width)


def _surfaces(axes: plt.Axes, volume: Volume, mask: np.ndarray, card: ModelCard) -> None:
    """Each label's surface in mm, slightly smoothed as Slicer shows it, seen from the right, a little from behind."""
    light = LightSource(azdeg=315, altdeg=45)
    corners = []
    for label in card.labels:
        smooth = gaussian(np.pad(mask == label.value, 2).astype(np.float32), sigma=0.7)
        if smooth.max() <= 0.5:
            continue
        vertices_kji, faces, _, _ = marching_cubes(smooth, 0.5)
        vertices_ijk = vertices_kji[:, ::-1] - 2
        vertices = vertices_ijk @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]
        corners.append(vertices)
        axes.add_collection3d(Poly3DCollection(vertices[faces], facecolors=_rgb(label), shade=True, lightsource=light))
    if corners:
        points = np.concatenate(corners)
        low, high = points.min(0), points.max(0)
        for name, a, b in zip("xyz", low, high):
            getattr(axes, f"set_{name}lim")(a, b)
        axes.set_box_aspect(high - low, zoom=1.25)
    axes.view_init(elev=20, azim=-20)
    axes.set_facecolor(BACKGROUND)
    axes.axis("off")
