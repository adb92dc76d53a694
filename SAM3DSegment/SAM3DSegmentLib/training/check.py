"""What `train --check` says: the plan of a training, and how long it will take on this computer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..base.devices import resolve_device
from ..base.errors import Sam3dError
from ..card import EncoderConfig
from ..decoder import Sam3dDecoder
from ..encoder import FrozenEncoder, load_encoder
from ..model_file import load_model
from ..network import Network
from ..sam.encoders import COMPACT_ENCODER, COMPACT_VIT, SAM_ENCODERS
from ..sam.vit import build_vit
from ..settings import TrainingConfig
from .plan import Plan, describe, make_plan
from .run import Options


def check(data: str | Path, config: TrainingConfig, options: Options) -> tuple[list[str], bool]:
    """Lines for people, and whether any case cannot be trained on. Raises InputError where there is no plan at all."""
    plan = make_plan(data, config, options.cases)
    lines = describe(plan)
    try:
        lines.append(_predict_time(plan, options))
    except Sam3dError as error:  # the encoder is not here yet
        lines.append(f"time: cannot be predicted ({error})")
    if plan.problems:
        lines.append(f"{len(plan.problems)} cases cannot be used; mend them or take them out.")
    return lines, bool(plan.problems)


def _predict_time(plan: Plan, options: Options) -> str:
    """From one slice that is encoded and one window that is decoded now."""
    config = plan.config
    depth = {case.files.name: plan.depth(case) for case in plan.facts if not case.problem}
    encode_s, decode_s = _measure(plan, options)
    training = sum(depth.get(name, 0) for name in plan.training_names())
    validation = sum(depth.get(name, 0) for split in plan.splits for name in split.validation)
    first = (0 if config.encoder == COMPACT_ENCODER else training) + validation
    copies = 0 if config.encoder == COMPACT_ENCODER else training * config.augmented_copies
    again = encode_s if config.encoder == COMPACT_ENCODER else 0  # a frozen encoder's answers are kept
    validating = config.validations * validation * (decode_s + again)
    train = f"{config.epochs} passes" if config.epochs else f"{config.minutes:g} min"
    return (
        f"time: {train} of training steps, about {encode_s * first / 60:.1f} min of encoding before them, "
        f"{encode_s * copies / 60:.1f} min between them, {validating / 60:.1f} min of validation"
    )


def _measure(plan: Plan, options: Options) -> tuple[float, float]:
    """Seconds to encode and to decode a slice."""
    device = resolve_device(options.device)
    name = plan.config.encoder
    if name == COMPACT_ENCODER:
        config = EncoderConfig(name, plan.image_size)
        encoder = FrozenEncoder(build_vit(COMPACT_VIT, plan.image_size), config, device, torch.float32)
    elif name in SAM_ENCODERS:
        encoder = load_encoder(name, options.sam_checkpoint, plan.image_size, str(device))
    else:
        encoder = load_model(name).load_encoder(str(device), "auto", options.sam_checkpoint, plan.image_size)
    network = Network(encoder, [Sam3dDecoder.from_config(plan.decoder)])
    window = plan.config.window.depth
    black = torch.zeros(1, plan.image_size, plan.image_size)
    embeddings = network.encode(black).expand(window, -1, -1, -1, -1)
    encode_s, decode_s = _seconds(lambda: network.encode(black)), _seconds(lambda: network.decode(embeddings))
    if network.has_detail:
        decode_s += _seconds(lambda: network.detail(torch.zeros(window, *plan.fit.grid)))
    return encode_s, decode_s / window


def _seconds(work: Callable[[], Tensor]) -> float:
    work().cpu()  # the first time takes longer
    began = time.perf_counter()
    work().cpu()
    return time.perf_counter() - began
