"""Learning rate by step: a pure function, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from configs.schema import Learner


def learning_rate(step: int, max_steps: int, learner: Learner) -> float:
    """Learning rate of a step's updates, `step` from 0: linear warm-up, then the decay to 0 at `max_steps`."""
    if step < learner.warmup_steps:
        return learner.learning_rate * (step + 1) / learner.warmup_steps
    if learner.schedule == "constant":
        return learner.learning_rate
    span = max(max_steps - learner.warmup_steps, 1)
    progress = min((step - learner.warmup_steps) / span, 1.0)
    if learner.schedule == "linear":
        return learner.learning_rate * (1.0 - progress)
    return learner.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
