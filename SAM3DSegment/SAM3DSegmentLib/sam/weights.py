"""Files of published encoders: whether they are here and complete, and how to get them. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import InputError, WeightsError
from ..base.files import last_line
from ..base.hashes import file_sha256, remembered_sha256
from ..base.watch import UNWATCHED, Watch
from .download import fetch, partial_path
from .encoders import ENCODERS, PublishedEncoder


def resolve_checkpoint(encoder: PublishedEncoder, given: str | Path | None) -> Path:
    """The checkpoint that the user gave, else the one in the weights folder, else WeightsError saying how to get it."""
    if given is not None:
        return Path(given)
    if not encoder.path.is_file():
        raise WeightsError(
            f"{encoder.family}'s weights for {encoder.name!r} are not at {str(encoder.path)!r}; {how_to_get(encoder)}, "
            "or give --sam-checkpoint FILE."
        )
    return encoder.path


def how_to_get(encoder: PublishedEncoder) -> str:
    """What a user does to have its file in the weights folder."""
    if encoder.sha256:
        return f"run `sam3dsegment weights download {encoder.name}` ({encoder.megabytes} MB)"
    return f"get {encoder.file_name} from {encoder.source} and put it there"


def verify(encoder: PublishedEncoder, path: Path) -> None:
    """Read all of `path`; raises WeightsError unless it is the published file to the byte, InputError if none knows."""
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder; give the file {encoder.file_name} in it.")
    if not encoder.sha256:
        raise InputError(
            f"the hash of {encoder.family}'s {encoder.file_name} is not known here, so {str(path)!r} cannot be "
            f"verified; compare it with what {encoder.source} says."
        )
    if not path.is_file():
        raise WeightsError(f"{str(path)!r} does not exist; {how_to_get(encoder)}, or copy {encoder.file_name} there.")
    try:
        found = file_sha256(path)
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read ({last_line(error)}); check its permissions.") from error
    if found != encoder.sha256:
        raise WeightsError(
            f"{str(path)!r} has SHA-256 {found}, not {encoder.sha256} as published; remove it and download it again."
        )


def download(encoder: PublishedEncoder, watch: Watch = UNWATCHED) -> Path:
    """Fetch its file into the weights folder, verified, as `fetch` does; what is there already is only verified.

    Raises InputError where no hash is known.
    """
    if not encoder.sha256:
        raise InputError(
            f"{encoder.family}'s weights are not downloaded, because their hash is not known here; "
            f"{how_to_get(encoder)}: {str(encoder.path)!r}."
        )
    if encoder.path.exists():
        verify(encoder, encoder.path)
    else:
        fetch(encoder.url, encoder.path, encoder.sha256, watch)
    return encoder.path


def clear() -> tuple[list[Path], list[Path]]:
    """Remove what was downloaded, and what has arrived of it: paths that were removed, and that were left.

    A file of a checkpoint's name with another content is a user's own, and is left.
    """
    removed, left = [], []
    for encoder in ENCODERS.values():
        if not encoder.sha256:
            continue  # put there by the user
        for path in (encoder.path, partial_path(encoder.path)):
            if not path.is_file():
                continue
            if path == encoder.path and remembered_sha256(path) != encoder.sha256:
                left.append(path)
                continue
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed, left
