"""SAM's image encoder as a module of `segment_anything`, built at any image size, and filled with weights.

Position tables are interpolated when the image size is not the checkpoint's, as SAM's follow-ups do (e.g. SAMed,
arXiv:2304.13785).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.errors import DependencyError, WeightsError, require
from ..card import EMBEDDING_CHANNELS, PATCH_SIZE, VitConfig
from .adapter import AdaptedMlp


def _import_image_encoder() -> ModuleType:
    """`segment_anything.modeling.image_encoder`, without what the package's `__init__` pulls in.

    That is torchvision and torch._dynamo: more than a second and 0.2 GB that no encoder needs. `modeling` gets a bare
    package and a name of its own, so that the real one can be imported before or after, here or by somebody else.
    """
    package = importlib.util.find_spec("segment_anything")
    if package is None or not package.submodule_search_locations:
        raise DependencyError("the Python package 'segment-anything' is not installed; install it with pip.")
    modeling = ModuleType(f"{__package__}._segment_anything_modeling")
    modeling.__path__ = [str(Path(folder) / "modeling") for folder in package.submodule_search_locations]
    sys.modules[modeling.__name__] = modeling
    return importlib.import_module(f"{modeling.__name__}.image_encoder")


_upstream = _import_image_encoder()


def build_vit(config: VitConfig, image_size: int) -> nn.Module:
    """An untrained encoder, to be trained, for slices of image_size x image_size pixels.

    It is segment_anything's own module, whose plain attention makes a training step of the compact encoder 1.26 times
    as fast as a fused one does (measured on a CPU). Raises InputError for a size that its adapters cannot take.
    """
    step = 2 * PATCH_SIZE
    require(
        not config.adapters or image_size % step == 0,
        f"image_size {image_size} is not a multiple of {step}, as an encoder with adapters needs; use for example 256.",
    )
    vit = _upstream.ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH_SIZE,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=4,
        out_chans=EMBEDDING_CHANNELS,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_attention_blocks,
    )
    if config.adapters:
        for block in vit.blocks:
            block.mlp = AdaptedMlp(block.mlp, config.embed_dim)
    return vit


def vit_gflop(config: VitConfig, image_size: int) -> float:
    """Operations (1e9; a multiplication and an addition are two) that one slice needs, empty places left out."""
    side, width = image_size // PATCH_SIZE, config.embed_dim
    tokens, window = side * side, config.window_size**2
    global_blocks = len(config.global_attention_blocks)
    keys = global_blocks * tokens + (config.depth - global_blocks) * window
    patches = tokens * 3 * PATCH_SIZE**2 * width
    # An adapter's convolutions: 3 x 3 to a quarter of the tokens, 4 x 4 from these.
    linear = config.depth * tokens * width * width * (3 + 1 + 8 + (25 / 4 if config.adapters else 0))
    neck = tokens * EMBEDDING_CHANNELS * (width + 9 * EMBEDDING_CHANNELS)
    return 2 * (patches + linear + 2 * tokens * keys * width + neck) / 1e9


def is_shaped_as(tensors: dict[str, Tensor], config: VitConfig, image_size: int) -> bool:
    """Whether these are the tensors of such an encoder, position tables of any size. Allocates nothing."""
    with torch.device("meta"):
        wanted = build_vit(config, image_size).state_dict()
    return tensors.keys() == wanted.keys() and all(
        tensor.shape == wanted[key].shape
        or (_is_position_table(key) and tensor.ndim == wanted[key].ndim and tensor.shape[-1] == wanted[key].shape[-1])
        for key, tensor in tensors.items()
    )


def load_vit_state(vit: nn.Module, tensors: dict[str, Tensor], source: object) -> None:
    """Load strictly, after bringing position tables to the encoder's size."""
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{key!r} of {str(source)!r} has values that are not finite numbers; get the file again."
            )
    wanted = vit.state_dict()
    fitted = {
        key: _fit_positions(key, tensor.float(), wanted[key].shape) if key in wanted else tensor
        for key, tensor in tensors.items()
    }
    try:
        vit.load_state_dict(fitted, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(f"the weights of {str(source)!r} do not fit this encoder: {reason}") from error


def _fit_positions(key: str, table: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate a position table linearly to `shape`; everything else is handed on as it is.

    pos_embed (1, rows, columns, C) is resized in-plane; rel_pos_h and rel_pos_w (2 * size - 1, head_dim) along the
    first axis, for the blocks with global attention, whose size follows the image's.
    """
    if table.shape == shape or table.ndim != len(shape):
        return table
    if key == "pos_embed":
        resized = F.interpolate(table.permute(0, 3, 1, 2), shape[1:3], mode="bilinear", align_corners=False)
        return resized.permute(0, 2, 3, 1)
    if _is_position_table(key):
        return F.interpolate(table.T[None], shape[0], mode="linear", align_corners=False)[0].T
    return table


def _is_position_table(key: str) -> bool:
    return key.endswith(("pos_embed", "rel_pos_h", "rel_pos_w"))


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Hash of names, shapes and bytes: names a carried encoder as a file's hash names a checkpoint."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
