"""One file per model, `NAME.sam3d`: a safetensors file (never pickle) with a JSON card in its header."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .base.errors import InputError, ModelFileError
from .base.files import check_new_file, openable, write_bytes
from .base.folders import models_folder
from .base.hashes import file_sha256
from .base.jsonable import to_json
from .card import DecoderConfig, EncoderConfig, ModelCard
from .decoder import Sam3dDecoder
from .encoder import FrozenEncoder, encoder_from_tensors, load_encoder
from .model_store import FORMAT_VERSION, METADATA_KEY, SUFFIX, bundled_folder, find_model, read_card
from .sam.vit import is_shaped_as

_DECODER, _ENCODER = "decoder.", "encoder."
_COARSE = "coarse."  # before both, of the coarse look


@dataclass(frozen=True)
class Sam3dModel:
    """A card, a decoder in eval mode on the CPU, and the tensors of the encoder if the model carries one.

    An ensemble has `more_decoders` of the same shape, and the mean of their logits is taken. sha256 is the hash of the
    file that it was read from, for records of provenance. coarse: the model that finds places for this one.
    """

    card: ModelCard
    decoder: Sam3dDecoder
    encoder_tensors: dict[str, Tensor] = field(default_factory=dict)
    sha256: str = ""
    more_decoders: tuple[Sam3dDecoder, ...] = ()
    coarse: Sam3dModel | None = None

    @property
    def decoders(self) -> tuple[Sam3dDecoder, ...]:
        return (self.decoder, *self.more_decoders)

    def load_encoder(
        self,
        device: str = "auto",
        precision: str = "auto",
        checkpoint: str | Path | None = None,
        image_size: int | None = None,
        channel_layout: str = "",
    ) -> FrozenEncoder:
        """The encoder that the decoder was trained with: the carried one, else from its `checkpoint`.

        `image_size` and `channel_layout` are others than the decoder's, for a decoder that is to be trained.
        """
        own = self.card.encoder
        config = replace(
            own,
            image_size=own.image_size if image_size is None else image_size,
            channel_layout=channel_layout or own.channel_layout,
        )
        if config.in_model_file:
            return encoder_from_tensors(config, self.encoder_tensors, device, precision)
        return load_encoder(
            config.name,
            checkpoint,
            config.image_size,
            device,
            precision,
            config.sha256,
            config.normalisation,
            config.channel_layout,
        )


def save_model(model: Sam3dModel, path: str | Path) -> None:
    """The file appears complete or not at all."""
    tensors = _tensors_of(model)
    if model.coarse is not None:
        shared = _ENCODER if _share_encoder(model.card) else ()
        of_coarse = _tensors_of(model.coarse)
        tensors |= {_COARSE + key: value for key, value in of_coarse.items() if not key.startswith(shared)}
    header = {"format_version": FORMAT_VERSION, **to_json(model.card)}
    content = safetensors.torch.save(
        {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
        metadata={METADATA_KEY: json.dumps(header)},
    )
    write_bytes(Path(path), content)


def _share_encoder(card: ModelCard) -> bool:
    """Whether the coarse look has the encoder that the model carries, which is then in the file once."""
    return card.coarse is not None and card.coarse.card.encoder.sha256 == card.encoder.sha256


def _tensors_of(model: Sam3dModel) -> dict[str, Tensor]:
    tensors = {_ENCODER + key: value for key, value in model.encoder_tensors.items()}
    for number, decoder in enumerate(model.decoders):
        prefix = f"{_DECODER}{number}." if model.more_decoders else _DECODER
        tensors |= {prefix + key: _smallest(value) for key, value in decoder.state_dict().items()}
    return tensors


def _smallest(tensor: Tensor) -> Tensor:
    """As float16 where that loses nothing: training rounds its weights so, before it measures them."""
    half = tensor.half()
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor


def load_model(name_or_path: str | Path) -> Sam3dModel:
    """A model by name (see `sam3dsegment models list`) or by its file's path. Raises InputError, ModelFileError.

    No more memory than the file's size is allocated, whatever its header says.
    """
    path = find_model(name_or_path)
    card = read_card(path)
    try:
        with openable(path, f"model{SUFFIX}") as name, safetensors.safe_open(name, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelFileError(f"{str(path)!r} is not a model file, or it is damaged; copy it again.") from error
    _check_tensors(tensors, path)
    of_coarse = _under(tensors, _COARSE)
    if bool(of_coarse) != (card.coarse is not None):
        raise _misfit(path)
    both = [(card, tensors)]
    if card.coarse is not None:
        if _share_encoder(card):
            of_coarse |= {_ENCODER + key: value for key, value in _under(tensors, _ENCODER).items()}
        both.append((card.coarse.card, of_coarse))
    model, *coarse = (_make(one, its_tensors, path) for one, its_tensors in both)
    return replace(model, sha256=file_sha256(path), coarse=coarse[0] if coarse else None)


def _make(card: ModelCard, tensors: dict[str, Tensor], path: Path) -> Sam3dModel:
    decoder, *more = (_fill(card.decoder, part, path) for part in _decoders(tensors))
    encoder = _under(tensors, _ENCODER)
    if not _is_of_card(encoder, card.encoder):
        raise _misfit(path)
    return Sam3dModel(card, decoder, encoder, more_decoders=tuple(more))


def import_model(source: Path, overwrite: bool = False) -> Path:
    """Copy a model file, checked, to the user's models, where it is found by name; return where it is.

    Raises ModelFileError if it cannot be used, InputError if there is a model of that name, unless `overwrite`; a
    bundled one is never replaced.
    """
    load_model(source)
    target = models_folder() / f"{source.stem}{SUFFIX}"
    if (bundled_folder() / target.name).exists():
        raise InputError(f"{source.stem!r} is the name of a bundled model; rename the file.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"folder {str(target.parent)!r} cannot be made ({error.strerror}); check its permissions, or set "
            "SAM3DSEGMENT_MODELS to another folder."
        ) from error
    check_new_file(target, overwrite, [source])
    write_bytes(target, source.read_bytes())
    return target


def _check_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not name.removeprefix(_COARSE).startswith((_DECODER, _ENCODER)):
            raise ModelFileError(
                f"{str(path)!r} holds {name!r}, which this program does not know; update SAM3DSegment."
            )
        if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
            raise ModelFileError(
                f"{name!r} of {str(path)!r} holds values that are not finite numbers; train the model again."
            )


def _fill(config: DecoderConfig, tensors: dict[str, Tensor], path: Path) -> Sam3dDecoder:
    try:
        with torch.device("meta"):  # shapes only
            decoder = Sam3dDecoder.from_config(config)
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes that no tensor can have
        raise _misfit(path) from error
    if {key: value.shape for key, value in decoder.state_dict().items()} != {k: v.shape for k, v in tensors.items()}:
        raise _misfit(path)
    decoder.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    return decoder.requires_grad_(False).eval()


def _is_of_card(tensors: dict[str, Tensor], config: EncoderConfig) -> bool:
    """Whether these are all tensors of the encoder that a card names: none, if it is not in the file."""
    if config.vit is None:
        return not tensors
    try:
        return is_shaped_as(tensors, config.vit, config.image_size)
    except (RuntimeError, OverflowError, TypeError):  # sizes that no tensor can have
        return False


def _misfit(path: Path) -> ModelFileError:
    return ModelFileError(f"the weights of {str(path)!r} do not fit its own card; copy the file again.")


def _decoders(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of each decoder: `decoder.*`, or of an ensemble `decoder.0.*`, `decoder.1.*` and so on."""
    numbered = [_under(tensors, f"{_DECODER}0.")]
    while numbered[-1]:
        numbered.append(_under(tensors, f"{_DECODER}{len(numbered)}."))
    return numbered[:-1] or [_under(tensors, _DECODER)]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
