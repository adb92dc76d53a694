"""Where model files live, and their cards. Nothing here imports torch, so that listing models is instant."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .base.errors import InputError, ModelFileError
from .base.folders import models_folder
from .base.hashes import remembered_sha256
from .base.jsonable import from_json
from .card import ModelCard

SUFFIX = ".sam3d"
DEFAULT_MODEL = "hippocampus-mri"  # one of the bundled ones
FORMAT_VERSION = 1
METADATA_KEY = "sam3dsegment"
_MOST_HEADER_BYTES = 10_000_000  # the header of a model with an encoder has some 20 kB


class Described(Protocol):
    """A model, as far as it is described: its card, and the hash of its file."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class ModelOnDisk:
    """A model of which only the card was read."""

    path: Path
    card: ModelCard
    sha256: str

    @classmethod
    def find(cls, name_or_path: str | Path) -> ModelOnDisk:
        path = find_model(name_or_path)
        return cls(path, read_card(path), remembered_sha256(path))


def bundled_folder() -> Path:
    """Resources/Models: beside the package in a checkout and in Slicer, inside it when installed by pip."""
    inside = Path(__file__).parent / "Resources" / "Models"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "Resources" / "Models"


def list_models() -> list[Path]:
    """Model files, the bundled ones first; a user's model never hides a bundled one of the same name."""
    found: dict[str, Path] = {}
    folders = [bundled_folder()]
    with contextlib.suppress(InputError):  # who has no home has no models of their own
        folders.append(models_folder())
    for folder in folders:
        for path in sorted(folder.glob(f"[!.]*{SUFFIX}")):
            found.setdefault(path.stem, path)
    return list(found.values())


def find_model(name_or_path: str | Path) -> Path:
    """The file of a model given by name or by path; InputError lists what there is."""
    path = Path(name_or_path)
    if path.suffix == SUFFIX or os.path.isfile(path):
        if not os.path.lexists(path):
            raise InputError(
                f"model file {str(path)!r} does not exist; give a {SUFFIX} file or a name from `models list`."
            )
        return path
    models = {model.stem: model for model in list_models()}
    if str(name_or_path) not in models:
        raise InputError(f"model {str(name_or_path)!r} is unknown; use a model file, or one of {', '.join(models)}.")
    return models[str(name_or_path)]


def read_card(path: Path) -> ModelCard:
    """The card of a model file, without reading its tensors. Raises ModelFileError."""
    return card_from_metadata(_read_metadata(path), path)


def card_from_metadata(metadata: dict[str, str] | None, path: Path) -> ModelCard:
    if not metadata or METADATA_KEY not in metadata:
        raise ModelFileError(f"{str(path)!r} is not a SAM3DSegment model; make one with `sam3dsegment train`.")
    try:
        header: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        version = header.pop("format_version")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"the header of {str(path)!r} is damaged; copy the file again.") from error
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{str(path)!r} has format version {version}, but this program reads version {FORMAT_VERSION}; update "
            "SAM3DSegment."
        )
    try:
        return from_json(ModelCard, header)
    except InputError as error:
        raise ModelFileError(
            f"the header of {str(path)!r} cannot be used: {str(error).rstrip('.')}; update SAM3DSegment if a newer "
            "version made the file, else copy it again."
        ) from error


def _read_metadata(path: Path) -> dict[str, str] | None:
    """Metadata of a safetensors file: 8 bytes of header length, little-endian, then the header as JSON."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if not 0 < length <= min(path.stat().st_size - 8, _MOST_HEADER_BYTES):
                raise ModelFileError(f"{str(path)!r} {_what_it_is(start)}; copy it again, or give a {SUFFIX} file.")
            return json.loads(file.read(length)).get("__metadata__")
    except IsADirectoryError as error:
        raise ModelFileError(f"model file {str(path)!r} is a folder; give a {SUFFIX} file.") from error
    except OSError as error:
        raise ModelFileError(
            f"model file {str(path)!r} cannot be read ({error.strerror}); check its permissions."
        ) from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{str(path)!r} is not a model file, or it is damaged; copy it again.") from error


def _what_it_is(start: bytes) -> str:
    if start.startswith((b"PK", b"\x80")):
        return "is a Python or torch pickle, which could run any program and is never opened"
    return "is not a model file, or it is damaged" if start else "is empty"
