"""A frozen encoder that remembers its answers on disk."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ..cache import embedding_key
from ..encoder import FrozenEncoder
from ..files import write_bytes


class CachedEncoder:
    """A `FrozenEncoder` whose embeddings, float16, are kept in `folder` under a hash of all that they depend on."""

    def __init__(self, encoder: FrozenEncoder, folder: Path) -> None:
        self.config = encoder.config
        self.device = encoder.device
        self.dtype = encoder.dtype
        self._encoder = encoder
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def image_size(self) -> int:
        return self._encoder.image_size

    @property
    def batch_size(self) -> int:
        return self._encoder.batch_size

    def __call__(self, slices: Tensor) -> Tensor:
        return load_embeddings(self.store(slices)).to(self.device).float()

    def store(self, slices: Tensor) -> Path:
        """The file with the embeddings of slices (B, 3, S, S); they are computed if it is not there yet."""
        config = self.config
        content = slices.detach().cpu().contiguous().numpy().tobytes()
        path = self._folder / f"{embedding_key(config.sha256, config.image_size, str(self.dtype), content)}.safetensors"
        if not path.is_file():
            embeddings = self._encoder(slices).half().cpu().contiguous()
            write_bytes(path, safetensors.torch.save({"embeddings": embeddings}))
        return path


def load_embeddings(path: Path) -> Tensor:
    """(B, 256, s, s) float16."""
    return safetensors.torch.load_file(path)["embeddings"]


class StackedEmbeddings:
    """The embeddings of one sliced volume, in files of `batch` slices each; only the slices asked for are read."""

    def __init__(self, encoder: CachedEncoder, slices: Tensor) -> None:
        self._batch = encoder.batch_size
        self._files = [encoder.store(part) for part in slices.split(self._batch)]

    def window(self, start: int, stop: int) -> Tensor:
        """(stop - start, 256, s, s) float16."""
        first = start // self._batch
        parts = [load_embeddings(file) for file in self._files[first : (stop - 1) // self._batch + 1]]
        return torch.cat(parts)[start - first * self._batch : stop - first * self._batch]
