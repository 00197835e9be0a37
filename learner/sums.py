"""What an update sums up over micro-batches and ranks, to tell of itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

Values = Mapping[str, Tensor | float]


class Sums:
    """Named sums and largest values, reduced over ranks once a step.

    Args:
        sums: names of what is added up.
        largest: names of what the largest is kept of; at least 0.
        device: where tensors are.
    """

    def __init__(self, sums: tuple[str, ...], largest: tuple[str, ...], device: torch.device) -> None:
        self._names = sums + largest
        self._sums = torch.zeros(len(sums), dtype=torch.float64, device=device)
        self._largest = torch.zeros(len(largest), dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, values: Values) -> None:
        """Take in what a micro-batch has of them."""
        found = [torch.as_tensor(values.get(name, 0.0)).to(self._sums) for name in self._names]
        self._sums += torch.stack(found[: len(self._sums)])
        if len(self._largest):
            self._largest = torch.maximum(self._largest, torch.stack(found[len(self._sums) :]))

    def __getitem__(self, name: str) -> float:
        """The sum of this rank alone; before `over_ranks`."""
        return float(self._sums[self._names.index(name)])

    def over_ranks(self) -> dict[str, float]:
        """Of all ranks, by name; a collective."""
        dist.all_reduce(self._sums)
        dist.all_reduce(self._largest, op=dist.ReduceOp.MAX)
        return dict(zip(self._names, [*self._sums.tolist(), *self._largest.tolist()], strict=True))
