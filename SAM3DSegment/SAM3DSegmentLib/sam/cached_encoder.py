"""A frozen encoder that computes each slice only once, whether for training, validation or inference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..network import SliceEncoder
from .cache import EmbeddingCache, embedding_key


class CachedEncoder:
    """A `SliceEncoder` that keeps its answers, as float16, in an `EmbeddingCache`."""

    def __init__(self, encoder: SliceEncoder, cache: EmbeddingCache) -> None:
        self.config = encoder.config
        self.device = encoder.device
        self.dtype = encoder.dtype
        self.cache = cache
        self._encoder = encoder

    @property
    def image_size(self) -> int:
        return self._encoder.image_size

    @property
    def batch_size(self) -> int:
        return self._encoder.batch_size

    def __call__(self, slices: Tensor) -> Tensor:
        """As `FrozenEncoder`; rounded to float16, so that it is one answer whether it was kept or not."""
        known = [self.cache.get(key) for key in self.keys(slices)]
        found = [None if array is None else torch.from_numpy(array) for array in known]
        missing = [index for index, embedding in enumerate(found) if embedding is None]
        for index, embedding in zip(missing, self.compute(slices[missing]) if missing else ()):
            found[index] = embedding
        return torch.stack([e for e in found if e is not None]).to(self.device).float()

    def keys(self, slices: Tensor) -> list[str]:
        """Under which each of the slices (B, 3, S, S) float32, SAM-normalised, is kept."""
        config, precision = self.config, str(self.dtype)
        contents = slices.detach().cpu().contiguous().numpy()
        return [embedding_key(config.sha256, config.image_size, precision, part.tobytes()) for part in contents]

    def compute(self, slices: Tensor) -> Tensor:
        """(B, 256, s, s) float16 on the CPU, computed and kept."""
        embeddings = self._encoder(slices).half().cpu()
        for key, embedding in zip(self.keys(slices), embeddings):
            self.cache.put(key, np.ascontiguousarray(embedding.numpy()))
        return embeddings
