"""Checkpoints of SAM's encoder in the layouts in which people share them, and which encoder such a file holds.

Read are torch's pickles (.pth, .pt, .bin) and safetensors, which cannot run a program and so are the better choice.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..base.errors import WeightsError
from ..base.hashes import remembered_sha256
from .encoders import ENCODERS, PublishedEncoder, published, published_as
from .pickled import load_pickled
from .weights import resolve_checkpoint

_PREFIX = "image_encoder."
# What holds the weights where a file has more than these: MedSAM's and SAM-Med2D's training; micro-sam's; others'.
_WRAPPINGS = ("model", "model_state", "state_dict")
_OUTER = re.compile(r"^(?:(?:module|sam)\.)+")  # of distributed training, and of micro-sam's and SAMed's classes
# transformers' names (convert_sam_to_hf.py) -> SAM's
_HUGGING_FACE = (
    (re.compile(r"^vision_encoder\.layers\."), "image_encoder.blocks."),
    (re.compile(r"^vision_encoder\."), "image_encoder."),
    (re.compile(r"\.layer_norm([12])\.(?=weight|bias)"), r".norm\1."),
    (re.compile(r"\.patch_embed\.projection\."), ".patch_embed.proj."),
    (re.compile(r"\.neck\.conv1\."), ".neck.0."),
    (re.compile(r"\.neck\.norm1\."), ".neck.1."),
    (re.compile(r"\.neck\.conv2\."), ".neck.2."),
    (re.compile(r"\.neck\.norm2\."), ".neck.3."),
)
# SAM-Med2D's names -> ours
_ADAPTER = {
    ".Adapter.channel.0.": ".mlp.adapter.narrow.",
    ".Adapter.channel.2.": ".mlp.adapter.widen.",
    ".Adapter.spatial.0.": ".mlp.adapter.down.",
    ".Adapter.spatial.2.": ".mlp.adapter.up.",
    ".Adapter.norm.": ".mlp.adapter.norm.",
}


def read_checkpoint(path: Path, encoder: PublishedEncoder) -> dict[str, Tensor]:
    """The tensors of `encoder` in a checkpoint, under our names for them. Raises WeightsError."""
    named = _read(path)
    told = _told(named)
    others = [row.name for row in told if row.base or row.vit != encoder.vit]
    if encoder not in told and others:
        raise WeightsError(
            f"checkpoint {str(path)!r} holds weights of {others[0]}, not of {encoder.name}; give --encoder "
            f"{others[0]}, or {encoder.family}'s own file."
        )
    if encoder.base:
        if encoder not in told:
            raise WeightsError(
                f"checkpoint {str(path)!r} holds no {encoder.telling}; give {encoder.family}'s own file."
            )
        base = published(encoder.base)
        return _with_lora(read_checkpoint(resolve_checkpoint(base, None), base), named, path)
    found = {_ours(key[len(_PREFIX) :]): value for key, value in named.items() if key.startswith(_PREFIX)}
    if not found:
        raise WeightsError(f"checkpoint {str(path)!r} holds no {_PREFIX}* weights; it is not a SAM checkpoint.")
    return found


def encoder_of(path: Path) -> str:
    """The encoder whose weights a file holds, by its hash or by keys that no other has.

    SAM's own layout says nothing of who trained it, nor of how slices were normalised: WeightsError then asks.
    """
    known = published_as(_sha256(path))
    if known is not None:
        return known.name
    named = _read(path)
    told = _told(named)
    if len(told) == 1:
        return told[0].name
    fitting = [row.name for row in ENCODERS.values() if row.vit.embed_dim == _width(named) and not row.telling]
    if not fitting:
        raise WeightsError(f"checkpoint {str(path)!r} holds no {_PREFIX}* weights; it is not a SAM checkpoint.")
    raise WeightsError(
        f"checkpoint {str(path)!r} does not say whose it is, and encoders of its shape are given slices in different "
        f"ways; add --encoder with one of {', '.join(fitting)}."
    )


def identity(path: Path, encoder: PublishedEncoder) -> str:
    """What a card names a checkpoint by: the file's hash; of one that only changes another, the hash of both hashes.

    Raises WeightsError, also for the published file of another encoder.
    """
    sha256 = _sha256(path)
    known = published_as(sha256)
    if known is not None and known != encoder:
        raise WeightsError(
            f"checkpoint {str(path)!r} is the published file of {known.name}, not of {encoder.name}; give --encoder "
            f"{known.name}, or {encoder.family}'s own file."
        )
    if not encoder.base:
        return sha256
    base = published(encoder.base)
    return hashlib.sha256(f"{identity(resolve_checkpoint(base, None), base)} {sha256}".encode()).hexdigest()


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise WeightsError(f"checkpoint {str(path)!r} is not a file; give the path of the encoder's weights.")
    try:
        return remembered_sha256(path)
    except OSError as error:
        raise WeightsError(
            f"checkpoint {str(path)!r} cannot be read ({error.strerror}); check its permissions."
        ) from error


def _told(named: dict[str, Tensor]) -> list[PublishedEncoder]:
    """Encoders of whose families only these keys are, and whose width they have."""
    width = _width(named)
    return [
        row
        for row in ENCODERS.values()
        if row.telling and row.vit.embed_dim == width and any(row.telling in f".{key}." for key in named)
    ]


def _width(named: dict[str, Tensor]) -> int:
    """Of the tokens; 0 for what is no encoder."""
    for key in (f"{_PREFIX}pos_embed", "w_a_000"):
        if isinstance(named.get(key), Tensor) and named[key].ndim:
            return named[key].shape[-1]
    return 0


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, under SAM's names."""
    try:
        state: Any = safetensors.torch.load_file(path) if _is_safe(path) else load_pickled(path)
    except WeightsError:
        raise
    except Exception as error:  # bytes that are not a checkpoint can raise anything
        raise WeightsError(
            f"checkpoint {str(path)!r} cannot be read ({type(error).__name__}); download it again."
        ) from error
    for wrapping in _WRAPPINGS:
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    return {_sams_name(str(key)): value for key, value in state.items()} if isinstance(state, dict) else {}


def _is_safe(path: Path) -> bool:
    """Whether it begins as safetensors does: 8 bytes, then JSON."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _sams_name(key: str) -> str:
    key = _OUTER.sub("", key)
    if key.startswith("vision_encoder."):
        for theirs, sams in _HUGGING_FACE:
            key = theirs.sub(sams, key)
    return key


def _ours(key: str) -> str:
    for theirs, ours in _ADAPTER.items():
        key = key.replace(theirs, ours)
    return key


def _with_lora(base: dict[str, Tensor], named: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """SAM's tensors with SAMed's low-rank changes added to the weights of q and v (arXiv:2304.13785).

    w_a_N (rank, C) and w_b_N (C, rank): of block n, numbers 2n change q and 2n + 1 change v. All blocks must have
    theirs, because a file of some does not say of which.
    """
    merged = dict(base)
    blocks = sum(key.endswith(".attn.qkv.weight") for key in base)
    whole = {f"w_{side}_{number:03d}" for number in range(2 * blocks) for side in "ab"}
    changes = {key: value for key, value in named.items() if re.fullmatch(r"w_[ab]_\d{3}", key)}
    fits = changes.keys() == whole and all(isinstance(c, Tensor) and c.ndim == 2 for c in changes.values())
    for number in range(2 * blocks if fits else 0):
        a, b = changes[f"w_a_{number:03d}"], changes[f"w_b_{number:03d}"]
        qkv = f"blocks.{number // 2}.attn.qkv.weight"
        q, k, v = merged[qkv].float().chunk(3)
        fits = fits and (b.shape[0], a.shape[1]) == q.shape and b.shape[1] == a.shape[0]
        if fits:
            change = b.float() @ a.float()
            merged[qkv] = torch.cat((q, k, v + change) if number % 2 else (q + change, k, v))
    if not fits:
        raise WeightsError(
            f"the changes w_a_* and w_b_* in {str(path)!r} do not fit the encoder's {blocks} blocks; get the file "
            "again."
        )
    return merged
