"""A frozen encoder that computes each slice only once, whether for training, validation or inference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..card import EACH
from ..network import SliceEncoder
from .cache import EmbeddingCache, embedding_key
from .packed_vit import COMPUTATION


class CachedEncoder:
    """A `SliceEncoder` that keeps its answers, as float16, in an `EmbeddingCache`."""

    def __init__(self, encoder: SliceEncoder, cache: EmbeddingCache) -> None:
        self.config = encoder.config
        self.device = encoder.device
        self.dtype = encoder.dtype
        self.cache = cache
        self._encoder = encoder

    @property
    def computed(self) -> int:
        return self._encoder.computed

    @property
    def multiplications(self) -> float:
        return self._encoder.multiplications

    @property
    def image_size(self) -> int:
        return self._encoder.image_size

    @property
    def batch_size(self) -> int:
        return self._encoder.batch_size

    def __call__(self, slices: Tensor) -> Tensor:
        """As `FrozenEncoder`; rounded to float16, so that it is one answer whether it was kept or not."""
        return self.embed(slices)[0]

    def embed(self, slices: Tensor) -> tuple[Tensor, list[str]]:
        """Embeddings, and under which keys of the cache they are."""
        keys = self.keys(slices)
        known = [self.cache.get(key) for key in keys]
        found = [None if array is None else torch.from_numpy(array) for array in known]
        missing = [index for index, embedding in enumerate(found) if embedding is None]
        if missing:
            for index, embedding in zip(missing, self._encoder(slices[missing]).half().cpu()):
                self.cache.put(keys[index], np.ascontiguousarray(embedding.numpy()))
                found[index] = embedding
        return torch.stack([e for e in found if e is not None]).to(self.device).float(), keys

    def keys(self, slices: Tensor) -> list[str]:
        """Under which each of the slices (B, 3, S, S) float32, normalised, is kept.

        Of a grey slice by the first of its colours, from which the others follow under one normalisation.
        """
        config, computation = self.config, f"{COMPUTATION} {self.dtype}"
        if config.normalisation != "sam":  # which has no name in the keys of caches that are older than the others
            computation += f" {config.normalisation}"
        colours = slices[:, :1] if config.channel_layout == EACH else slices
        contents = colours.detach().cpu().contiguous().numpy()
        return [embedding_key(config.sha256, config.image_size, computation, part.tobytes()) for part in contents]
