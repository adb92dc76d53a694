"""The encoder beside segment_anything's and OpenVINO's, and the decoder beside its formulas in plain modules."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.devices import keep_freed_memory, resolve_device, resolve_precision
from ..card import EMBEDDING_CHANNELS, PATCH_SIZE, EncoderConfig, Label, ModelCard, require_image_size
from ..decoder import NEGATIVE_SLOPE, Sam3dDecoder
from ..encoder import FrozenEncoder
from ..inference import Segmenter
from ..network import Network
from ..sam.cache import EmbeddingCache
from ..sam.cached_encoder import CachedEncoder
from ..sam.checkpoints import read_checkpoint
from ..sam.encoders import published
from ..sam.layers import AttentionMethod
from ..sam.packed_vit import PackedVit
from ..sam.vit import build_vit, load_vit_state, vit_gflop
from .measuring import BenchResult, Candidate, Row, clock, compare, conditions, threads

ENCODER = "sam_vit_b"
CLASSES, DEPTH = 3, 16  # of the decoder's logits; slices in its window


def bench_encoder(
    image_size: int,
    device: str,
    precision: str,
    rounds: int,
    thread_count: int | None = None,
    checkpoint: Path | None = None,
) -> BenchResult:
    """One slice through SAM ViT-B: segment_anything's own module in float32, OpenVINO where installed, and ours."""
    require_image_size(image_size)
    keep_freed_memory()
    target = resolve_device(device)
    dtype = resolve_precision(precision, target)
    generator = torch.Generator().manual_seed(0)
    slices = torch.randn(1, 3, image_size, image_size, generator=generator).to(target)
    vit, weights = _sam_vit(image_size, checkpoint)
    with threads(thread_count):
        theirs = vit.to(target)
        candidates = [Candidate("segment_anything float32", lambda: theirs(slices))]
        if target.type == "cpu" and importlib.util.find_spec("openvino"):
            candidates.append(Candidate(f"OpenVINO {_name(dtype)}", _openvino(vit, slices, dtype), dtype))
        for own in dict.fromkeys((torch.float32, dtype)):
            candidates.append(Candidate(f"ours {_name(own)}", _packed(vit, slices, target, own), own))
        result = compare(candidates, rounds, target, vit_gflop(published(ENCODER).vit, image_size))
        plan = AttentionMethod.best(target, dtype)
        where = conditions(
            target, weights=weights, image_size=image_size, encoder=plan, rounds=rounds, seconds=clock(target)[0]
        )
    return replace(result, bench="encoder", conditions=where)


def bench_decoder(
    image_size: int, device: str, precision: str, rounds: int, thread_count: int | None = None
) -> BenchResult:
    """One window of embeddings to the finest level's logits: the formulas in torch's plain modules, and ours."""
    require_image_size(image_size)
    keep_freed_memory()
    target = resolve_device(device)
    dtype = resolve_precision(precision, target)
    torch.manual_seed(0)
    side = image_size // PATCH_SIZE
    embeddings = torch.randn(1, EMBEDDING_CHANNELS, DEPTH, side, side, device=target)
    decoder = Sam3dDecoder(CLASSES).requires_grad_(False).eval().to(target)
    plain = _plain_decoder(decoder)
    with threads(thread_count):
        candidates = [Candidate("plain modules float32", lambda: plain(embeddings))]
        for own in dict.fromkeys((torch.float32, dtype)):
            candidates.append(Candidate(f"ours {_name(own)}", _decoding(decoder, embeddings, own), own))
        result = compare(candidates, rounds, target, decoder_gflop(decoder, side))
        where = conditions(
            target,
            weights="untrained",
            image_size=image_size,
            slices=DEPTH,
            rounds=rounds,
            seconds=clock(target)[0],
        )
    return replace(result, bench="decoder", conditions=where)


def bench_reuse(
    image_size: int, slices: int, device: str, precision: str, thread_count: int | None = None
) -> BenchResult:
    """A volume of noise with one decoder on SAM ViT-B, then with another, which finds the embeddings in the cache."""
    keep_freed_memory()
    target = resolve_device(device)
    vit, weights = _sam_vit(image_size, None)
    config = EncoderConfig(ENCODER, image_size, "0" * 64)
    volume = np.random.default_rng(0).integers(0, 600, (slices, image_size, image_size), np.int16)
    rows: list[Row] = []
    with threads(thread_count), tempfile.TemporaryDirectory() as folder:
        kind, now = clock(target)
        encoder = FrozenEncoder(vit, config, target, resolve_precision(precision, target))
        for name in ("first decoder", "second decoder"):
            decoder = Sam3dDecoder(CLASSES)
            labels = tuple(Label(value, f"structure {value}", (255, 0, 0)) for value in range(1, CLASSES))
            card = ModelCard(name, "", "", labels, config, decoder.config)
            network = Network(CachedEncoder(encoder, EmbeddingCache(Path(folder))), [decoder])
            began = now()
            Segmenter(card, network).segment(volume, np.eye(4))
            seconds = now() - began
            rows.append(Row(name, seconds, ratio=rows[0].seconds / seconds if rows else 1.0))
        size = f"{slices} slices of {image_size} x {image_size} voxels"
        where = conditions(target, weights=weights, volume=size, seconds=kind)
    return BenchResult("reuse", where, rows)


def decoder_gflop(decoder: Sam3dDecoder, side: int) -> float:
    """Operations (1e9) of the convolutions that one window of DEPTH slices of side x side tokens needs."""
    voxels = [DEPTH * side * side * 4**level for level in range(len(decoder.layers))]
    convolutions = [sum(p.numel() for p in layer.parameters() if p.ndim == 5) for layer in decoder.layers]
    head = CLASSES * decoder.config.channels[len(voxels)] * voxels[-1]
    return 2 * (sum(v * c for v, c in zip(voxels, convolutions)) + head) / 1e9


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sam_vit(image_size: int, checkpoint: Path | None) -> tuple[nn.Module, str]:
    """SAM's encoder with its weights if they are here, else seeded ones; and which of the two."""
    torch.manual_seed(0)
    vit = build_vit(published(ENCODER).vit, image_size).requires_grad_(False).eval()
    path = checkpoint or published(ENCODER).path
    if checkpoint is not None or path.is_file():
        load_vit_state(vit, read_checkpoint(path, published(ENCODER)), path)
        return vit, path.name
    for name, parameter in vit.named_parameters():
        if "pos" in name:  # segment_anything starts position tables at zero
            nn.init.normal_(parameter, std=0.2)
    return vit, "untrained (SAM's are not here), position tables with a deviation of 0.2"


def _packed(vit: nn.Module, slices: Tensor, device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    packed = PackedVit(vit, device, dtype)
    return lambda: packed(slices)


def _openvino(vit: nn.Module, slices: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32" if dtype == torch.float32 else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, that sizes are taken as constants: they are
        model = openvino.convert_model(vit, example_input=slices)
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return lambda: torch.from_numpy(compiled(slices.numpy())[0])


def _decoding(decoder: Sam3dDecoder, embeddings: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    own = Sam3dDecoder.from_config(decoder.config).requires_grad_(False).eval()
    own.load_state_dict(decoder.state_dict())
    own.to(embeddings.device, dtype)
    typed = embeddings.to(dtype)
    return lambda: own(typed, only_finest=True)[0]


def _plain_decoder(decoder: Sam3dDecoder) -> Callable[[Tensor], Tensor]:
    """The formulas as they are written: instance norms, trilinear upsampling before each head, all heads."""

    def norm(g: Tensor, weights: Any) -> Tensor:
        return F.instance_norm(g, weight=weights.weight, bias=weights.bias)

    def forward(g: Tensor) -> Tensor:
        layer: Any
        for layer, head in zip(decoder.layers, decoder.heads):
            inner = F.leaky_relu(norm(layer.conv1(g), layer.norm1), NEGATIVE_SLOPE)
            shortcut = norm(layer.projection[0](g), layer.projection[1])
            g = F.leaky_relu(norm(layer.conv2(inner), layer.norm2) + shortcut, NEGATIVE_SLOPE)
            g = F.interpolate(g, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
            logits = head(g)
        return logits

    return forward
