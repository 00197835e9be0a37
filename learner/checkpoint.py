"""What a checkpoint holds, at one moment of the training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Contents:
    """Weights and state, which rank 0 writes. Each tensor is made whole when its turn comes, by all ranks together."""

    weights: Iterable[tuple[str, Tensor]]
    """Of the model: released name and whole tensor on the CPU; empty ones on other ranks."""
    state: Iterable[tuple[str, dict[str, Tensor]]]
    """See `learner.engine.Engine.state`."""
    random: Tensor
    """State of torch's generator."""
    facts: Mapping[str, Any]
    """For `trainer/state.json`."""

    def gathered(self) -> Contents:
        """The same, all in memory: the learner may step before it is written. A collective."""
        return replace(self, weights=list(self.weights), state=list(self.state))

    def pass_over(self) -> None:
        """Go through what is left: the part of a rank that writes nothing, or could not."""
        deque(self.weights, maxlen=0)
        deque(self.state, maxlen=0)
