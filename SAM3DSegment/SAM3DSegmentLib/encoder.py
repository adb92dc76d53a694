"""The frozen slice encoder: SAM's image encoder from `segment_anything`, built once, at any image size.

Its weights are read here; `packed_vit.py` computes with them. Position tables are interpolated when the image size is
not the checkpoint's, as SAM's follow-ups do (e.g. SAMed, arXiv:2304.13785).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base.devices import available_memory_bytes, resolve_device, resolve_precision
from .base.errors import DependencyError, InputError, WeightsError
from .base.hashes import remembered_sha256
from .card import EMBEDDING_CHANNELS, PATCH_SIZE, EncoderConfig, VitConfig
from .sam.packed_vit import PackedVit
from .sam.weights import resolve_checkpoint

logger = logging.getLogger(__name__)


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

SAM_ENCODERS = {
    "sam_vit_b": VitConfig(768, 12, 12, (2, 5, 8, 11)),
    "sam_vit_l": VitConfig(1024, 24, 16, (5, 11, 17, 23)),
    "sam_vit_h": VitConfig(1280, 32, 16, (7, 15, 23, 31)),
}
# A small encoder of the same class, for models that are trained end to end and carry it in their file.
COMPACT_ENCODER = "compact_vit"
COMPACT_VIT = VitConfig(192, 1, 4, (0,))

_PREFIX = "image_encoder."


def build_vit(config: VitConfig, image_size: int) -> nn.Module:
    """An untrained encoder, to be trained, for slices of image_size x image_size pixels.

    It is segment_anything's own module, whose plain attention makes a training step of the compact encoder 1.26 times
    as fast as a fused one does (measured on a CPU).
    """
    return _upstream.ImageEncoderViT(
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


class FrozenEncoder:
    """A frozen encoder on one device: slices (B, 3, S, S) float32, SAM-normalised -> (B, 256, S/16, S/16) float32.

    It is no `nn.Module`, so that an optimiser or a decoder's state_dict cannot take hold of its weights.
    """

    def __init__(self, vit: nn.Module, config: EncoderConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self._width: int = vit.get_parameter("pos_embed").shape[-1]
        self._packed = PackedVit(vit, device, dtype)

    @property
    def image_size(self) -> int:
        return self.config.image_size

    def __call__(self, slices: Tensor) -> Tensor:
        expected = (3, self.image_size, self.image_size)
        if slices.ndim != 4 or tuple(slices.shape[1:]) != expected:
            raise InputError(f"slices of shape {tuple(slices.shape)} do not fit; this encoder takes (B, *{expected}).")
        return self._packed(slices).float()

    @property
    def batch_size(self) -> int:
        """Slices per call: as many as fit in a quarter of the free memory, at most 8 (more is no faster)."""
        tokens = (self.image_size // PATCH_SIZE) ** 2
        # About 16 activations of the embedding's width live at once (MLP 4, q/k/v with positions 9, residuals 3).
        slice_bytes = 16 * tokens * self._width * 4
        return int(max(1, min(8, available_memory_bytes(self.device) // 4 // slice_bytes)))


def load_encoder(
    name: str = "sam_vit_b",
    checkpoint: str | Path | None = None,
    image_size: int = 1024,
    device: str | torch.device = "auto",
    precision: str = "auto",
    expected_sha256: str = "",
) -> FrozenEncoder:
    """SAM's encoder `name` from `checkpoint` (sam_vit_b_01ec64.pth or any file of the same keys and shapes).

    Only `image_encoder.*` is read, and all of it must fit. Raises InputError for an unknown name or size, WeightsError
    for a missing, damaged or unfitting file, or one whose hash is not `expected_sha256` where that is given.
    """
    if name not in SAM_ENCODERS:
        raise InputError(f"encoder {name!r} is unknown; use one of {', '.join(SAM_ENCODERS)}.")
    path = resolve_checkpoint(name, checkpoint)
    if not path.is_file():
        raise WeightsError(f"checkpoint {str(path)!r} is not a file; give the path of {name}'s .pth file.")
    try:
        sha256 = remembered_sha256(path)
    except OSError as error:
        raise WeightsError(f"checkpoint {str(path)!r} cannot be read: {error.strerror}; check its rights.") from error
    if expected_sha256 and sha256 != expected_sha256:
        raise WeightsError(
            f"checkpoint {str(path)!r} has SHA-256 {sha256[:16]}..., but the model was trained with "
            f"{expected_sha256[:16]}...; use the checkpoint that it was trained with."
        )
    config = EncoderConfig(name, image_size, sha256)
    target = resolve_device(str(device))
    vit = build_vit(SAM_ENCODERS[name], image_size)
    load_vit_state(vit, read_checkpoint(path), path)
    return FrozenEncoder(vit, config, target, resolve_precision(precision, target))


def encoder_from_tensors(
    config: EncoderConfig, tensors: dict[str, Tensor], device: str | torch.device = "auto", precision: str = "auto"
) -> FrozenEncoder:
    """The encoder that a model file carries: `tensors` as `nn.Module.state_dict` names them."""
    if config.vit is None:
        raise InputError(f"encoder {config.name!r} is not carried in the model file; load its checkpoint instead.")
    target = resolve_device(str(device))
    vit = build_vit(config.vit, config.image_size)
    load_vit_state(vit, tensors, config.name)
    return FrozenEncoder(vit, config, target, resolve_precision(precision, target))


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Hash of names, shapes and bytes: names a carried encoder as a file's hash names a checkpoint."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of SAM's image encoder in a checkpoint, under the encoder's own names. Raises WeightsError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no checkpoint can raise anything
        raise WeightsError(f"checkpoint {str(path)!r} cannot be read ({type(error).__name__}); get it anew.") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]  # some fine-tuned copies of SAM wrap their weights
    named = state.items() if isinstance(state, dict) else ()
    encoder = {key[len(_PREFIX) :]: value for key, value in named if str(key).startswith(_PREFIX)}
    if not encoder:
        raise WeightsError(f"checkpoint {str(path)!r} holds no {_PREFIX}* weights; it is not a SAM checkpoint.")
    return encoder


def load_vit_state(vit: nn.Module, tensors: dict[str, Tensor], source: object) -> None:
    """Load strictly, after bringing position tables to the encoder's size."""
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not torch.isfinite(tensor).all():
            raise WeightsError(f"{key!r} of {str(source)!r} holds what is no finite number; get the file anew.")
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
    if key.endswith(("rel_pos_h", "rel_pos_w")):
        return F.interpolate(table.T[None], shape[0], mode="linear", align_corners=False)[0].T
    return table
