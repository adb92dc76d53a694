"""Work on batches in parts that fit into memory."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from .devices import give_back_unused_memory, is_out_of_memory

logger = logging.getLogger(__name__)


class RetryInHalves:
    """Calls `function` on a batch, or on halves, quarters and so on of it once memory has run out.

    function: (n, ...) -> (n, ...), each item independently. The size that fitted is kept for the batches that follow.
    consequence: told to the user, with the number of items at a time. Fewer than `least` are not tried.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], consequence: str, least: int = 1) -> None:
        self._function = function
        self._consequence = consequence
        self._least = least
        self._most = sys.maxsize

    def __call__(self, batch: Tensor) -> Tensor:
        while True:
            try:
                parts = [self._function(part) for part in batch.split(min(self._most, len(batch)))]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except (RuntimeError, MemoryError) as error:
                most = min(self._most, len(batch))
                half = -(-most // 2)
                if not self._least <= half < most or not is_out_of_memory(error):
                    raise
            # Outside the handler, where the error no longer holds the tensors of the failed attempt.
            self._most = half
            give_back_unused_memory()
            logger.warning("memory ran out; %s", self._consequence.format(count=self._most))
