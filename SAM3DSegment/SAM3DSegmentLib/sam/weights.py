"""SAM's own checkpoints: where they are kept, where they come from, whether they are complete.

Nothing here imports torch. The files are published by Meta AI under Apache-2.0
(https://github.com/facebookresearch/segment-anything#model-checkpoints).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import InputError, WeightsError
from ..base.files import last_line
from ..base.folders import weights_folder
from ..base.hashes import file_sha256, remembered_sha256
from ..base.watch import UNWATCHED, Watch
from .download import fetch, partial_path

_SOURCE = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint. `megabytes` is the size of the download."""

    encoder: str
    file_name: str
    sha256: str
    megabytes: int

    @property
    def url(self) -> str:
        """Where to download it; SAM3DSEGMENT_WEIGHTS_URL names a mirror with the same file names."""
        return os.environ.get("SAM3DSEGMENT_WEIGHTS_URL", _SOURCE).rstrip("/") + "/" + self.file_name

    @property
    def path(self) -> Path:
        return weights_folder() / self.file_name

    @property
    def is_here(self) -> bool:
        """By its size: not the few bytes of a link of git-annex or Git LFS, nor a copy that was cut short."""
        try:
            return self.path.is_file() and abs(self.path.stat().st_size / 1e6 - self.megabytes) < 0.01 * self.megabytes
        except OSError:
            return False


CHECKPOINTS = {
    checkpoint.encoder: checkpoint
    for checkpoint in (
        Checkpoint(
            "sam_vit_b",
            "sam_vit_b_01ec64.pth",
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            375,
        ),
        Checkpoint(
            "sam_vit_l",
            "sam_vit_l_0b3195.pth",
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            1250,
        ),
        Checkpoint(
            "sam_vit_h",
            "sam_vit_h_4b8939.pth",
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            2560,
        ),
    )
}


def published(encoder: str) -> Checkpoint:
    if encoder not in CHECKPOINTS:
        raise InputError(f"encoder {encoder!r} has no published checkpoint; use one of {', '.join(CHECKPOINTS)}.")
    return CHECKPOINTS[encoder]


def resolve_checkpoint(encoder: str, given: str | Path | None) -> Path:
    """The checkpoint that the user gave, else the one in the weights folder, else WeightsError saying how to get it."""
    if given is not None:
        return Path(given)
    checkpoint = published(encoder)
    if not checkpoint.path.is_file():
        raise WeightsError(
            f"SAM's weights for {encoder!r} are not at {str(checkpoint.path)!r}; run `sam3dsegment weights download "
            f"{encoder}` ({checkpoint.megabytes} MB) or give --sam-checkpoint FILE."
        )
    return checkpoint.path


def verify(checkpoint: Checkpoint, path: Path) -> None:
    """Read all of `path`; raises WeightsError unless it is the published file to the byte."""
    if path.is_dir():
        raise WeightsError(f"{str(path)!r} is a folder; give the file {checkpoint.file_name} in it.")
    if not path.is_file():
        raise WeightsError(
            f"{str(path)!r} does not exist; run `sam3dsegment weights download {checkpoint.encoder}` "
            f"or copy {checkpoint.file_name} there."
        )
    try:
        found = file_sha256(path)
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read ({last_line(error)}); check its permissions.") from error
    if found != checkpoint.sha256:
        raise WeightsError(
            f"{str(path)!r} has SHA-256 {found}, not {checkpoint.sha256} as published; remove it and download it again."
        )


def download(checkpoint: Checkpoint, watch: Watch = UNWATCHED) -> Path:
    """Fetch a checkpoint into the weights folder, verified, as `fetch` does; what is there already is only verified."""
    if checkpoint.path.exists():
        verify(checkpoint, checkpoint.path)
    else:
        fetch(checkpoint.url, checkpoint.path, checkpoint.sha256, watch)
    return checkpoint.path


def clear() -> tuple[list[Path], list[Path]]:
    """Remove the published checkpoints and what has arrived of them: paths that were removed, and that were left.

    A file of a checkpoint's name with another content is a user's own, and is left.
    """
    removed, left = [], []
    for checkpoint in CHECKPOINTS.values():
        for path in (checkpoint.path, partial_path(checkpoint.path)):
            if not path.is_file():
                continue
            if path == checkpoint.path and remembered_sha256(path) != checkpoint.sha256:
                left.append(path)
                continue
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed, left
