"""The embeddings of a frozen encoder for training: each case and its changed copies, encoded once and kept.

First the cases as they are; their copies then follow during the training, a batch after each step, so that it can begin
early. Which copies a step may draw is a matter of its number alone, so that a resumed run draws as an unbroken one.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..base.files import written_whole
from ..base.watch import Watch
from ..intensity import normalise, split_passes
from ..preparation import SquareFit
from ..sam.cache import EmbeddingCache
from ..sam.cached_encoder import CachedEncoder
from ..settings import TrainingConfig
from .augmentation import random_view
from .prepared import PreparedCase, plain_view
from .samples import Sample
from .splits import share_out

ENCODE_BATCH = 8  # slices; never what memory allows, or a resumed run would count other steps
READY_LAG = 16  # steps from when a copy should be there until it is drawn: workers draw ahead


class StoredViews:
    """Views of cases whose embeddings are in the cache, found by the keys that `ViewEncoder` leaves in `folder`."""

    def __init__(
        self,
        cases: list[PreparedCase],
        config: TrainingConfig,
        cache: EmbeddingCache,
        folder: Path,
        ranks: int,
    ) -> None:
        self.cases = cases
        self._config = config
        self._cache = cache
        self._folder = folder
        self._ready_steps = self._plan(ranks)

    def sample(self, case: int, start: int, stop: int, step: int, generator: torch.Generator) -> Sample:
        copies = [copy for copy in range(self._config.augmented_copies + 1) if self._ready_steps[case, copy] <= step]
        copy = copies[int(torch.randint(len(copies), (1,), generator=generator))]
        fit = self.cases[case].fit
        if not self.is_stored(case, copy):
            drawn, classes = self.draw(case, copy)
            return Sample(fit, classes[start:stop], drawn[:, start:stop])
        keys = np.load(self._path(case, copy, "keys"))[start:stop]  # (n, passes)
        found = [self._cache.get(key) for key in keys.ravel().tolist()]
        classes = torch.tensor(np.load(self._path(case, copy, "classes"), mmap_mode="r")[start:stop])
        known = [array for array in found if array is not None]
        if len(known) < len(found):  # evicted
            return Sample(fit, classes, self.draw(case, copy)[0][:, start:stop])
        grey = None
        if self._config.detail:
            grey = torch.tensor(np.load(self._path(case, copy, "grey"), mmap_mode="r")[:, start:stop])
        passes = torch.from_numpy(np.stack(known)).unflatten(0, keys.shape)
        return Sample(fit, classes, grey, passes.flatten(1, 2).transpose(0, 1))

    def draw(self, case: int, copy: int) -> tuple[Tensor, Tensor]:
        """A whole view, the same each time: copy 0 is the case as it is."""
        prepared = self.cases[case]
        if copy == 0:
            return plain_view(prepared, 0, prepared.depth)
        # By its name, so that folds, in which it has another number, share its copies.
        entropy = (self._config.seed, copy, zlib.crc32(os.fsencode(prepared.name)))
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        return random_view(prepared, 0, prepared.depth, self._config.augmentation, generator)

    def is_stored(self, case: int, copy: int) -> bool:
        return self._path(case, copy, "keys").is_file()

    def store(self, case: int, copy: int, keys: list[tuple[str, ...]], grey: Tensor, classes: Tensor) -> None:
        """keys: of each slice, one for each pass."""
        # A folder for each case: what a write costs grows with the number of files beside it.
        self._path(case, copy, "classes").parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self._path(case, copy, "classes")) as partial:
            np.save(partial, classes.numpy())
        if self._config.detail:
            with written_whole(self._path(case, copy, "grey")) as partial:
                np.save(partial, grey.numpy())
        with written_whole(self._path(case, copy, "keys")) as partial:
            np.save(partial, np.array(keys))

    def of_rank(self, rank: int, ranks: int) -> list[tuple[int, int]]:
        """The changed copies (case, copy) that one of `ranks` processes encodes, in their order."""
        copies = range(1, self._config.augmented_copies + 1)
        every = [(case, copy) for copy in copies for case in range(len(self.cases))]
        return [every[number] for number in share_out([self.batches(case) for case, _ in every], ranks)[rank]]

    def batches(self, case: int) -> int:
        return -(-self.cases[case].depth // ENCODE_BATCH)

    def _plan(self, ranks: int) -> dict[tuple[int, int], int]:
        """From which step on each view is drawn."""
        ready = {(case, 0): 0 for case in range(len(self.cases))}
        for rank in range(ranks):
            done = 0
            for case, copy in self.of_rank(rank, ranks):
                done += self.batches(case)
                ready[case, copy] = done + READY_LAG
        return ready

    def _path(self, case: int, copy: int, what: str) -> Path:
        return self._folder / self.cases[case].name / f"{copy}.{what}.npy"


class ViewEncoder:
    """Fills the cache with the embeddings of `views`, this process's share of them."""

    def __init__(self, views: StoredViews, encoder: CachedEncoder, rank: int, ranks: int) -> None:
        self.encoder = encoder
        self._views = views
        sizes = [views.batches(case) for case in range(len(views.cases))]
        self._plain = [(case, 0) for case in share_out(sizes, ranks)[rank]]
        self._copies = self._encode_all(views.of_rank(rank, ranks))

    def encode_plain(self, watch: Watch) -> None:
        """Encode the cases as they are; tells slices done and in all. Raises Cancelled, asked at every batch."""
        total = sum(self._views.cases[case].depth for case, _ in self._plain)
        done = 0
        watch.progress("encode", done, total)
        for slices in self._encode_all(self._plain):
            done = min(done + slices, total)
            watch.progress("encode", done, total)
            watch.check(f"{done} of {total} slices were encoded; add --resume to go on.")

    def encode_more(self) -> None:
        """One batch more of the copies, if any are left."""
        next(self._copies, None)

    def embed(self, grey: Tensor, fit: SquareFit) -> Tensor:
        """Grey (M, D, *grid) in 0..255 -> embeddings (E, D, s, s) float32, from the cache or computed."""
        parts = [
            torch.cat([self.encoder(slices) for slices in self._passes(part, fit)], dim=1)
            for part in grey.split(ENCODE_BATCH, dim=1)
        ]
        return torch.cat(parts).half().float().transpose(0, 1)  # as exact as they are kept

    def _encode_all(self, wanted: list[tuple[int, int]]) -> Iterator[int]:
        """Yields the number of slices after each batch."""
        for case, copy in wanted:
            if self._views.is_stored(case, copy):
                yield from [ENCODE_BATCH] * self._views.batches(case)
                continue
            grey, classes = self._views.draw(case, copy)
            keys: list[tuple[str, ...]] = []
            for part in grey.split(ENCODE_BATCH, dim=1):
                passes = self._passes(part, self._views.cases[case].fit)
                keys += zip(*(self.encoder.embed(slices)[1] for slices in passes))
                if len(keys) == len(classes):
                    self._views.store(case, copy, keys, grey, classes)
                yield part.shape[1]

    def _passes(self, grey: Tensor, fit: SquareFit) -> list[Tensor]:
        """(M, n, *grid) in 0..255 -> for each of its passes (n, 3, S, S), as the encoder takes it."""
        config = self.encoder.config
        squares = fit.place(grey.transpose(0, 1))
        return [normalise(part, config.normalisation) for part in split_passes(squares, config.channel_layout)]
