"""What `train --check` says: the cases, what is suspicious in them, the split, and the time and disk that it takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..base.devices import resolve_device
from ..base.errors import Sam3dError
from ..base.watch import UNWATCHED, Watch
from ..card import ModelCard
from ..decoder import Sam3dDecoder
from ..geometry import spacing_and_directions, voxel_ml
from ..network import Network
from ..settings import TrainingConfig
from ..suitability import describe_lengths
from .classes import CaseFacts
from .places import SHARE
from .plan import Plan, make_plan
from .prepared import CLASS_BYTES, GREY_BYTES
from .run_folder import Options
from .splits import by_patient

FAR = 2.0  # times as large or as small as the median spacing


def check(
    data: str | Path, config: TrainingConfig, options: Options, watch: Watch = UNWATCHED
) -> tuple[list[str], bool]:
    """Lines for people, and whether any case cannot be trained on. Raises InputError if no plan can be made.

    The lines after the table of the cases are an event of the watch, too.
    """
    plan = make_plan(data, config, options.cases, watch=watch, sam_checkpoint=options.sam_checkpoint)
    lines = describe_plan(plan)
    try:
        lines.append(_predict_time(plan, options))
    except Sam3dError as error:  # the encoder is not here yet
        lines.append(f"time: cannot be predicted ({error})")
    if plan.problems:
        lines.append(f"{len(plan.problems)} cases cannot be used; fix them or take them out.")
    watch.event("check", findings=lines)
    return [*describe_cases(plan), *lines], bool(plan.problems)


def describe_cases(plan: Plan) -> list[str]:
    """A table of the cases."""
    lines = [f"{'case':<28} {'size (i, j, k)':<18} {'spacing mm':<18} {'slices':>6}  labels (mL)"]
    for case in plan.facts:
        if case.problem:
            lines.append(f"{case.files.name:<28} {case.problem}")
            continue
        spacing = spacing_and_directions(case.ijk_to_ras)[0]
        size = " x ".join(str(n) for n in case.shape_kji[::-1])
        mm = " x ".join(f"{s:.3g}" for s in spacing)
        ml = voxel_ml(case.ijk_to_ras)
        labels = ", ".join(f"{name} {count * ml:.2f}" for name, count in case.voxels.items()) or "none"
        if case.painted:
            labels += f"; {case.painted.describe(case.ijk_to_ras)}"
        lines.append(f"{case.files.name:<28} {size:<18} {mm:<18} {plan.depths[case.files.name]:>6}  {labels}")
    return lines


def describe_plan(plan: Plan) -> list[str]:
    """What is suspicious, then the split and the disk."""
    lines = [f"suspicious: {text}" for text in find_suspicious(plan)]
    lines.append(describe_encoder(plan))
    lines += describe_channels(plan.card)
    lines.append(
        f"labels: {', '.join(label.name for label in plan.labels)}; image size {plan.image_size}, "
        f"decoder levels {plan.card.decoder.levels}"
    )
    lines += describe_places(plan)
    lines += _describe_patients(plan)
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


def _describe_patients(plan: Plan) -> list[str]:
    if not plan.dataset.patients:
        return []
    count = len(by_patient(plan.files, plan.dataset.patients))
    return [f"patients: {count}, of {len(plan.files)} cases; those of one are never on both sides of the split."]


def describe_encoder(plan: Plan) -> str:
    detail = "with" if plan.config.detail else "without"
    return f"encoder: {plan.encoder.describe()}, {detail} a detail part; --encoder chooses another."


def describe_channels(card: ModelCard) -> list[str]:
    """A line on what several channels cost, if there are."""
    count = len(card.inputs)
    if count == 1:
        return []
    passes, layout = card.encoder.passes(count), card.encoder.channel_layout
    cost = f"a slice takes {passes} passes of the encoder: {passes} times the time and the cache of one channel."
    if passes == 1:
        cost = "a slice takes one pass of the encoder, which sees them as its colours."
    return [f"channels: {', '.join(channel.name for channel in card.inputs)} ({layout}); {cost}"]


def describe_places(plan: Plan) -> list[str]:
    """A line on what is looked at, if that is not whole volumes."""
    if plan.coarse is None:
        return []
    extent, where = describe_lengths(plan.fine_extent_mm, 0), "set look_twice to false in the file of --config"
    how = f"on a grid of {plan.coarse.spacing_mm:g} mm, which is learnt in the first {SHARE:.0%} of the time"
    if plan.config.start_from:
        how = f"as {plan.config.start_from!r} does"
    return [
        f"places: the structures are small in these volumes, so they are looked for first, {how}; then about {extent} "
        f"mm around each are looked at closely. To look at whole volumes, {where}."
    ]


def find_suspicious(plan: Plan) -> list[str]:
    """What may be a mistake in the data, though it can be trained on."""
    found = [*plan.notices, *plan.dataset.notices]
    sound = [case for case in plan.facts if not case.problem]
    found += [f"{case.files.name} has no structure." for case in sound if not case.voxels]
    found += _find_strange_painting(plan, sound)
    for label in plan.labels:
        lacking = [case.files.name for case in sound if case.voxels and label.name not in case.voxels]
        if lacking:
            some = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            found.append(f"{label.name!r} is not in {len(lacking)} of {len(sound)} cases: {some}.")
    least = plan.config.training_depth
    thin = [name for name, depth in plan.depths.items() if depth < least]
    if thin and max(plan.depths.values()) >= least:
        found.append(f"fewer slices than training_depth {least}: {', '.join(thin[:5])}.")
    median = np.array(plan.card.spacing_mm)
    for name, spacing_mm in plan.spacings_mm.items():
        spacing = np.array(spacing_mm)
        if (np.maximum(spacing / median, median / spacing) > FAR).any():
            found.append(f"{name} has a spacing of {spacing.tolist()} mm, the median is {median.tolist()}.")
    return found


def _find_strange_painting(plan: Plan, sound: list[CaseFacts]) -> list[str]:
    found = []
    for case in sound:
        if case.seems_painted:
            told = case.seems_painted.describe(case.ijk_to_ras)
            found.append(f"{case.files.name}: {told}; if the others are not empty, train with --painted-slices.")
        elif case.painted and len(case.painted.numbers) == 1:
            found.append(f"{case.files.name} has one painted slice only; paint some more, across the structure.")
        elif case.painted and not case.painted.has_gaps:
            found.append(
                f"{case.files.name} has no gap between its {len(case.painted.numbers)} painted slices; if it is "
                "complete, do not say that only painted slices are."
            )
    for label in plan.labels:
        skips = [case.skips.get(label.name, False) for case in sound if label.name in case.voxels]
        if skips and all(skips):
            found.append(
                f"{label.name!r} is missing in every case on painted slices between its own; a painted slice has to "
                "show all structures."
            )
    if sound and all(case.painting and case.painting.is_open for case in sound):
        found.append(
            "in no case it is known where the structures end, as the outermost painted slices show them; mark a blank "
            "slice beyond, on either side, with a segment 'empty'."
        )
    return found


@dataclass(frozen=True)
class Disk:
    """Bytes that a training takes: in its folder while it runs, and of the cache of embeddings."""

    folder: int
    cache: int


def disk_needed(plan: Plan) -> Disk:
    slices = sum(plan.depths.get(name, 0) for name in plan.training_names)
    pixels = slices * math.prod(plan.fit.grid)
    views = plan.encoder.kept_views(plan.config)
    prepared = CLASS_BYTES + GREY_BYTES * len(plan.card.inputs)
    of_view = prepared if plan.config.detail else CLASS_BYTES  # and the grey values that it reads
    return Disk(pixels * (prepared + views * of_view), views * plan.view_bytes)


def _predict_time(plan: Plan, options: Options) -> str:
    """From one slice that is encoded and one window that is decoded now."""
    config = plan.config
    encode_s, decode_s = _measure(plan, options)
    training = sum(plan.depths.get(name, 0) for name in plan.training_names)
    validation = sum(plan.depths.get(name, 0) for split in plan.splits for name in split.validation)
    views = plan.encoder.kept_views(config)
    before = min(views, 1) * training + validation
    again = 0 if views else encode_s  # what is kept is not encoded again
    validating = config.validations * validation * (decode_s + again)
    train = f"{config.epochs} passes" if config.epochs else f"{config.minutes:g} min"
    between = max(0, views - 1) * training
    return (
        f"time: {train} of training steps; in addition about {encode_s * before / 60:.1f} min of encoding before and "
        f"{encode_s * between / 60:.1f} min between them, and {validating / 60:.1f} min of validation"
    )


def _measure(plan: Plan, options: Options) -> tuple[float, float]:
    """Seconds to encode and to decode a slice."""
    device = resolve_device(options.device)
    source = plan.encoder.load_for_training(plan.card.encoder, device, options.sam_checkpoint)
    network = Network(source.uncached(), [Sam3dDecoder.from_config(plan.card.decoder)])
    window = plan.card.window.depth
    # No black slice, of which a network encodes only the first.
    slices = torch.ones(1, len(plan.card.inputs), plan.image_size, plan.image_size)
    embeddings = network.encode(slices).expand(window, -1, -1, -1, -1)
    encode_s, decode_s = _seconds(lambda: network.encode(slices)), _seconds(lambda: network.decode(embeddings))
    if network.has_detail:
        decode_s += _seconds(lambda: network.detail(torch.zeros(window, len(plan.card.inputs), *plan.fit.grid)))
    return encode_s, decode_s / window


def _seconds(work: Callable[[], Tensor]) -> float:
    work().cpu()  # the first time takes longer
    began = time.perf_counter()
    work().cpu()
    return time.perf_counter() - began
