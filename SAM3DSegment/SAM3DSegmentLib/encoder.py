"""The frozen slice encoder: an image encoder of SAM's class with weights, on a device, as `sam.packed_vit` computes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .base.devices import available_memory_bytes, resolve_device, resolve_precision
from .base.errors import InputError, WeightsError
from .card import EACH, PATCH_SIZE, EncoderConfig
from .sam.checkpoints import identity, read_checkpoint
from .sam.encoders import ENCODERS, published
from .sam.packed_vit import PackedVit
from .sam.vit import build_vit, load_vit_state, vit_gflop
from .sam.weights import resolve_checkpoint


class FrozenEncoder:
    """A frozen encoder on one device: slices (B, 3, S, S) float32, normalised -> (B, 256, S/16, S/16) float32.

    Not an `nn.Module`, so that neither an optimiser nor a decoder's state_dict can include its weights.
    """

    def __init__(self, vit: nn.Module, config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self._width: int = vit.get_parameter("pos_embed").shape[-1]
        self._packed = PackedVit(vit, device, dtype)
        self.computed = 0

    @property
    def image_size(self) -> int:
        return self.config.image_size

    def __call__(self, slices: Tensor) -> Tensor:
        expected = (3, self.image_size, self.image_size)
        if slices.ndim != 4 or tuple(slices.shape[1:]) != expected:
            raise InputError(f"slices of shape {tuple(slices.shape)} do not fit; this encoder takes (B, *{expected}).")
        embeddings = self._packed(slices).float()
        self.computed += len(slices)
        return embeddings

    @property
    def multiplications(self) -> float:
        vit = self.config.vit or published(self.config.name).vit
        return vit_gflop(vit, self.image_size) * 1e9 / 2

    @property
    def batch_size(self) -> int:
        """Slices per call: as many as fit in a quarter of the free memory, at most 8 (more is no faster).

        On a CPU no more than are computed at once, so that progress is told and a request to stop heard after each.
        """
        tokens = (self.image_size // PATCH_SIZE) ** 2
        most = min(8, self._packed.at_once) if self.device.type == "cpu" else 8
        # About 16 activations of the embedding's width live at once (MLP 4, q/k/v with positions 9, residuals 3).
        slice_bytes = 16 * tokens * self._width * 4
        return int(max(1, min(most, available_memory_bytes(self.device) // 4 // slice_bytes)))


def load_encoder(
    name: str = "sam_vit_b",
    checkpoint: str | Path | None = None,
    image_size: int = 1024,
    device: str | torch.device = "auto",
    precision: str = "auto",
    expected_sha256: str = "",
    normalisation: str = "",
    channel_layout: str = EACH,
) -> FrozenEncoder:
    """The published encoder `name` from `checkpoint`: its published file, or another of the same keys and shapes.

    Only the encoder is read, and all of it must fit. normalisation: another than the encoder's own, because a decoder
    was trained with that; channel_layout: how several channels reach it. Raises InputError for an unknown name or size,
    WeightsError for a missing, damaged or unfitting file, one of another encoder, or one whose hash is not
    `expected_sha256` where that is given.
    """
    if name not in ENCODERS:
        raise InputError(f"encoder {name!r} is unknown; use one of {', '.join(ENCODERS)}.")
    row = published(name)
    path = resolve_checkpoint(row, checkpoint)
    sha256 = identity(path, row)
    if expected_sha256 and sha256 != expected_sha256:
        raise WeightsError(
            f"checkpoint {str(path)!r} has SHA-256 {sha256[:16]}..., but the model was trained with "
            f"{expected_sha256[:16]}...; use the checkpoint that it was trained with."
        )
    normalisation = normalisation or row.normalisation
    config = EncoderConfig(name, image_size, sha256, None, normalisation, channel_layout)
    target = resolve_device(str(device))
    tensors = read_checkpoint(path, row)
    vit = build_vit(row.vit, image_size)
    load_vit_state(vit, tensors, path)
    return FrozenEncoder(vit, config, target, resolve_precision(precision, target))


def encoder_from_tensors(
    config: EncoderConfig, tensors: dict[str, Tensor], device: str | torch.device = "auto", precision: str = "auto"
) -> FrozenEncoder:
    """The encoder that a model file contains: `tensors` as `nn.Module.state_dict` names them."""
    if config.vit is None:
        raise InputError(f"encoder {config.name!r} is not stored in the model file; load its checkpoint instead.")
    target = resolve_device(str(device))
    vit = build_vit(config.vit, config.image_size)
    load_vit_state(vit, tensors, config.name)
    return FrozenEncoder(vit, config, target, resolve_precision(precision, target))
