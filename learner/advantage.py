"""Advantages of the completions of one group, from their rewards. Plain numbers in, plain numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence

STANDARD_DEVIATION_FLOOR = 1e-4
"""Added to the standard deviation, as in R1-AQA, so that a group without variance has advantages of zero."""


def grpo(rewards: Sequence[float | None]) -> tuple[float | None, ...]:
    """GRPO's advantage (r - mean) / (std + 1e-4), with the unbiased standard deviation (arXiv 2402.03300, eq. 3).

    None stands for a dropped completion: it takes no part in the statistics and keeps None.

    >>> [value and round(value, 4) for value in grpo([1.0, 0.0, None])]
    [0.707, -0.707, None]
    """
    kept = [reward for reward in rewards if reward is not None]
    if len(kept) < 2:
        return tuple(None for _ in rewards)
    if min(kept) == max(kept):
        return tuple(None if reward is None else 0.0 for reward in rewards)  # exactly, whatever the mean rounds to
    mean = math.fsum(kept) / len(kept)
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in kept) / (len(kept) - 1))
    return tuple(
        None if reward is None else (reward - mean) / (deviation + STANDARD_DEVIATION_FLOOR) for reward in rewards
    )
