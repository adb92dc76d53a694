"""One file per model, `NAME.sam3d`: a safetensors file (never pickle) with a JSON card in its header."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from .card import ModelCard
from .decoder import Sam3dDecoder
from .encoder import FrozenEncoder, carried_encoder, load_encoder
from .errors import ModelFileError
from .files import write_bytes
from .hashes import file_sha256
from .jsonable import to_json
from .model_store import FORMAT_VERSION, METADATA_KEY, card_from_metadata, find_model

_DECODER, _ENCODER = "decoder.", "encoder."


@dataclass(frozen=True)
class Sam3dModel:
    """A card, a decoder in eval mode on the CPU, and the tensors of the encoder if the model carries one.

    sha256 is the hash of the file that it was read from, for records of provenance.
    """

    card: ModelCard
    decoder: Sam3dDecoder
    encoder_tensors: dict[str, Tensor] = field(default_factory=dict)
    sha256: str = ""

    def load_encoder(
        self, device: str = "auto", precision: str = "auto", checkpoint: str | Path | None = None
    ) -> FrozenEncoder:
        """The encoder that the decoder was trained with: the carried one, else from SAM's `checkpoint`."""
        config = self.card.encoder
        if config.carried:
            return carried_encoder(config, self.encoder_tensors, device, precision)
        return load_encoder(config.name, checkpoint, config.image_size, device, precision, config.sha256)


def save_model(model: Sam3dModel, path: str | Path) -> None:
    """Write `path` whole or not at all."""
    tensors = {_DECODER + key: value for key, value in model.decoder.state_dict().items()}
    tensors.update({_ENCODER + key: value for key, value in model.encoder_tensors.items()})
    header = {"format_version": FORMAT_VERSION, **to_json(model.card)}
    content = safetensors.torch.save(
        {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
        metadata={METADATA_KEY: json.dumps(header)},
    )
    write_bytes(Path(path), content)


def load_model(name_or_path: str | Path) -> Sam3dModel:
    """A model by name (see `sam3dsegment models list`) or by its file's path. Raises InputError, ModelFileError."""
    path = find_model(name_or_path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            card = card_from_metadata(file.metadata(), path)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelFileError(f"{str(path)!r} is no model file, or it is damaged; copy it again.") from error
    decoder = Sam3dDecoder.from_config(card.decoder)
    try:
        decoder.load_state_dict(_under(tensors, _DECODER), strict=True)
    except RuntimeError as error:
        raise ModelFileError(f"the weights of {str(path)!r} do not fit its own card; copy the file again.") from error
    decoder.requires_grad_(False).eval()
    return Sam3dModel(card, decoder, _under(tensors, _ENCODER), file_sha256(path))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
