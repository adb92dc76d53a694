"""The gradient of one training step, computed side by side for parts of the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ..devices import resolve_precision


class BatchGradients:
    """Gradients of the mean loss over a batch whose samples are drawn, computed and differentiated in threads.

    Small 3-D convolutions do not keep many cores busy, so on the CPU each thread takes its samples and a share of the
    cores. Its replica of the module shares the weights and owns its gradients. Where the hardware multiplies in
    bf16, the forward pass does so too (autocast); weights, gradients and loss stay float32.
    """

    def __init__(self, module: nn.Module, loss: nn.Module, device: torch.device, batch_size: int) -> None:
        self._loss = loss
        self._device = device
        half = resolve_precision("auto", device)
        # float16 would need its loss scaled.
        self._precision = torch.bfloat16 if half is torch.bfloat16 else torch.float32
        self._cores = torch.get_num_threads()
        workers = max(1, min(self._cores, batch_size)) if device.type == "cpu" else 1
        self._replicas = [module] + [_sharing_weights(module) for _ in range(workers - 1)]
        self._pool = ThreadPoolExecutor(workers)

    def compute(self, draws: Sequence[Callable[[], tuple[Tensor, Tensor]]]) -> float:
        """Leave the gradients in the module and return the mean loss. Each draw gives one sample: input, classes."""
        count = len(self._replicas)
        parts = [draws[i::count] for i in range(count)]
        losses = list(self._pool.map(self._compute_part, self._replicas, parts, [len(draws)] * count))
        torch.set_num_threads(self._cores)
        module, *others = self._replicas
        for weight, *copies in zip(module.parameters(), *(other.parameters() for other in others)):
            for gradient in (c.grad for c in copies):
                if weight.grad is not None and gradient is not None:
                    weight.grad.add_(gradient)
        return sum(losses)

    def _compute_part(
        self,
        replica: nn.Module,
        draws: Sequence[Callable[[], tuple[Tensor, Tensor]]],
        batch_size: int,
    ) -> float:
        torch.set_num_threads(max(1, self._cores // len(self._replicas)))
        inputs, classes = (torch.stack(parts).to(self._device) for parts in zip(*(draw() for draw in draws)))
        replica.train()
        replica.zero_grad()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision is torch.bfloat16):
            logits = replica(inputs)
        loss = self._loss([level.float() for level in logits], classes) * (len(draws) / batch_size)
        loss.backward()
        return loss.item()


def _sharing_weights(module: nn.Module) -> nn.Module:
    replica = copy.deepcopy(module)
    for own, shared in zip(replica.parameters(), module.parameters()):
        own.data = shared.data
    return replica
