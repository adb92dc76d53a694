"""What a training will do, found out before anything is computed: cases, labels, split, sizes, and what is odd."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InputError
from ..base.jsonable import from_json, to_json
from ..card import PATCH_SIZE, DecoderConfig, Label
from ..geometry import slicing_of, spacing_and_directions
from ..model_store import find_model, read_card
from ..preparation import SquareFit
from ..sam.encoders import COMPACT_ENCODER, SAM_ENCODERS
from ..settings import TrainingConfig
from .dataset import (
    CaseFacts,
    CaseFiles,
    Dataset,
    Split,
    describe_difference,
    examine,
    find_dataset,
    find_labels,
    fingerprint,
    median_grid_mm,
    split_cases,
)
from .prepared import BYTES_PER_PIXEL

DEFAULT_IMAGE_SIZE = 256
COPIES_FOR_A_COMPACT_ENCODER = 16  # of each case: it encodes hundreds of slices a second, where SAM's takes minutes
_MAY_CHANGE = ("minutes", "epochs")  # when a run goes on


@dataclass(frozen=True)
class Plan:
    """One training: its data, and the network that will be trained. There is one split for each fold."""

    config: TrainingConfig
    dataset: Dataset
    labels: tuple[Label, ...]
    facts: tuple[CaseFacts, ...]
    splits: tuple[Split, ...]
    image_size: int
    decoder: DecoderConfig
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]

    @property
    def problems(self) -> tuple[CaseFacts, ...]:
        """The cases that cannot be trained on."""
        return tuple(case for case in self.facts if case.problem)

    def files(self, names: tuple[str, ...]) -> list[CaseFiles]:
        by_name = {case.name: case for case in self.dataset.cases}
        return [by_name[name] for name in names]

    def training_names(self) -> tuple[str, ...]:
        """Cases that any of the folds trains on."""
        return tuple(sorted({name for split in self.splits for name in split.training}))

    def depth(self, case: CaseFacts) -> int:
        """Its number of slices."""
        return case.shape_kji[slicing_of(case.ijk_to_ras, self.config.slicing).kji_axes[0]]

    @property
    def fit(self) -> SquareFit:
        """How slices of the median spacing and extent lie on the encoder's square."""
        return _fit(self.spacing_mm, self.extent_mm, self.image_size)

    def record(self, encoder_sha256: str) -> dict[str, Any]:
        """As JSON: all that decides what the training gives."""
        record = {
            "settings": to_json(self.config),
            "labels": [to_json(label) for label in self.labels],
            "encoder": {"name": self.config.encoder, "sha256": encoder_sha256, "image_size": self.image_size},
            "decoder": to_json(self.decoder),
            "splits": [to_json(split) for split in self.splits],
            "fingerprint": fingerprint(self.dataset.cases),
        }
        return json.loads(json.dumps(record))  # as it will be read again


def make_config(settings: Any, overrides: dict[str, Any]) -> TrainingConfig:
    """From a JSON object, with what overrides it. Raises InputError for settings that make no sense.

    What is not given of how volumes are prepared, and of the decoder that reads them, is as in the model that lends its
    encoder. Whether a mirrored view may be taken is not: that depends on the labels.
    """
    from_json(TrainingConfig, settings)
    given = {**settings, **overrides}
    config = from_json(TrainingConfig, given)
    if config.encoder in (COMPACT_ENCODER, *SAM_ENCODERS):
        return config
    lender = read_card(find_model(config.encoder))
    lent: dict[str, Any] = {name: to_json(getattr(lender, name)) for name in ("slicing", "intensity")}
    lent |= {name: list(getattr(lender.decoder, name)) for name in ("channels", "detail")}
    if lender.encoder.in_model_file:
        lent["augmented_copies"] = COPIES_FOR_A_COMPACT_ENCODER
    return from_json(TrainingConfig, {**lent, **given})


def make_plan(data: str | Path, config: TrainingConfig, most_training: int | None = None) -> Plan:
    """most_training: use at most so many training cases. Raises InputError for data or settings that cannot work."""
    if most_training is not None and most_training < 1:
        raise InputError(
            f"{most_training} training cases are too few; use at least 1, or leave the option out for all."
        )
    if config.folds > 1 and config.encoder == COMPACT_ENCODER:
        raise InputError(
            f"folds {config.folds} need one encoder for all of them, and {COMPACT_ENCODER!r} would be trained anew in "
            "each; give another encoder."
        )
    dataset = find_dataset(data)
    labels = config.labels or find_labels(dataset)
    facts = examine(dataset, labels, config.resample)
    sound = [case for case in facts if not case.problem]
    if not sound:
        raise InputError(facts[0].problem)
    spacing, extent = median_grid_mm(sound, config.slicing)
    image_size = _image_size(config, spacing, extent)
    return Plan(
        config,
        dataset,
        labels,
        facts,
        split_cases((case.name for case in dataset.cases), config, most_training),
        image_size,
        _decoder(config, len(labels) + 1, image_size, spacing, extent),
        spacing,
        extent,
    )


def _image_size(config: TrainingConfig, spacing: tuple[float, float, float], extent: tuple[float, float, float]) -> int:
    """What is asked for, else 256; where the encoder is lent its own, or up to 256 what shows slices pixel by pixel."""
    if config.image_size:
        return config.image_size
    if config.encoder in (COMPACT_ENCODER, *SAM_ENCODERS):
        return DEFAULT_IMAGE_SIZE
    pixels = max(extent[1:]) / min(spacing[1:])  # of a square that holds a slice
    as_fine = PATCH_SIZE * math.ceil(round(pixels, 3) / PATCH_SIZE)
    return max(read_card(find_model(config.encoder)).encoder.image_size, min(as_fine, DEFAULT_IMAGE_SIZE))


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """ "" if two records are of one training, else what differs between them."""
    settings = [
        key
        for key in sorted(set(before["settings"]) | set(now["settings"]))
        if before["settings"].get(key) != now["settings"].get(key) and key not in _MAY_CHANGE
    ]
    parts = []
    if settings:
        parts.append(f"other settings of {', '.join(settings)}")
    if changes := describe_difference(before["fingerprint"], now["fingerprint"]):
        parts.append(f"other data ({changes})")
    for key, name in (("labels", "labels"), ("encoder", "encoder"), ("decoder", "decoder"), ("splits", "cases")):
        if before[key] != now[key]:
            parts.append(f"other {name}")
    return ", ".join(parts)


@dataclass(frozen=True)
class Disk:
    """Bytes that a training takes: in its folder while it runs, and of the cache of embeddings."""

    folder: int
    cache: int


def disk_needed(plan: Plan) -> Disk:
    trained = set(plan.training_names())
    slices = sum(plan.depth(case) for case in plan.facts if case.files.name in trained and not case.problem)
    pixels = slices * math.prod(plan.fit.grid)
    if plan.config.encoder == COMPACT_ENCODER:
        return Disk(pixels * BYTES_PER_PIXEL, 0)
    views = plan.config.augmented_copies + 1
    token_bytes = plan.decoder.channels[0] * (plan.image_size // 16) ** 2 * 2
    view_bytes = BYTES_PER_PIXEL if plan.config.detail else 1  # classes, and the grey values that it reads
    return Disk(pixels * (BYTES_PER_PIXEL + views * view_bytes), slices * views * token_bytes)


def describe(plan: Plan) -> list[str]:
    """Lines for people: the cases one by one, then what is odd, then the split and the disk."""
    lines = [f"{'case':<28} {'size (i, j, k)':<18} {'spacing mm':<18} {'slices':>6}  labels (mL)"]
    for case in plan.facts:
        if case.problem:
            lines.append(f"{case.files.name:<28} {case.problem}")
            continue
        spacing = spacing_and_directions(case.ijk_to_ras)[0]
        size = " x ".join(str(n) for n in case.shape_kji[::-1])
        mm = " x ".join(f"{s:.3g}" for s in spacing)
        ml = float(np.prod(spacing)) / 1000
        labels = ", ".join(f"{name} {count * ml:.2f}" for name, count in case.voxels.items()) or "none"
        lines.append(f"{case.files.name:<28} {size:<18} {mm:<18} {plan.depth(case):>6}  {labels}")
    lines += [f"odd: {text}" for text in find_warnings(plan)]
    lines.append(
        f"labels: {', '.join(label.name for label in plan.labels)}; image size {plan.image_size}, "
        f"decoder levels {plan.decoder.levels}"
    )
    for number, split in enumerate(plan.splits):
        fold = f"fold {number + 1}: " if len(plan.splits) > 1 else ""
        lines.append(
            f"{fold}{len(split.training)} training, {len(split.validation)} validation, {len(split.test)} test cases"
        )
    disk = disk_needed(plan)
    lines.append(
        f"disk: {disk.folder / 1e9:.2f} GB while it runs, {disk.cache / 1e9:.2f} GB of embeddings in the cache"
    )
    return lines


def find_warnings(plan: Plan) -> list[str]:
    """What may be a mistake in the data, though it can be trained on."""
    found = list(plan.dataset.notices)
    sound = [case for case in plan.facts if not case.problem]
    found += [f"{case.files.name} has no structure." for case in sound if not case.voxels]
    for label in plan.labels:
        lacking = [case.files.name for case in sound if case.voxels and label.name not in case.voxels]
        if lacking:
            some = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            found.append(f"{label.name!r} is not in {len(lacking)} of {len(sound)} cases: {some}.")
    depths = np.array([plan.depth(case) for case in sound])
    thin = [case.files.name for case, depth in zip(sound, depths) if depth < plan.config.training_depth]
    if thin and depths.max() >= plan.config.training_depth:
        found.append(f"fewer slices than training_depth {plan.config.training_depth}: {', '.join(thin[:5])}.")
    median = np.array(plan.spacing_mm)
    for case in sound:
        spacing = np.array(slicing_of(case.ijk_to_ras, plan.config.slicing).spacing_mm)
        if (np.maximum(spacing / median, median / spacing) > 2).any():
            found.append(f"{case.files.name} has a spacing of {spacing.tolist()} mm, the median is {median.tolist()}.")
    return found


def _decoder(
    config: TrainingConfig,
    num_classes: int,
    image_size: int,
    spacing: tuple[float, float, float],
    extent: tuple[float, float, float],
) -> DecoderConfig:
    """With as many levels as asked for; else as the model that is begun with; else as the cases' own grid needs."""
    levels = config.levels
    if not levels and config.start_from:
        levels = read_card(find_model(config.start_from)).decoder.levels
    levels = levels or _fit(spacing, extent, image_size).level()
    return DecoderConfig(num_classes, config.channels, levels=levels, detail=config.detail)


def _fit(spacing: tuple[float, float, float], extent: tuple[float, float, float], image_size: int) -> SquareFit:
    height, width = (max(1, round(e / s)) for e, s in zip(extent[1:], spacing[1:]))
    return SquareFit.of_slices(height, width, spacing[1:], image_size)
