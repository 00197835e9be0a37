"""Rewards of the benchmarks: drawn, not earned, so that every group has variance whatever a random model says."""

from __future__ import annotations

import random
from collections.abc import Sequence

from data.types import Example


def drawn(completions: list[str], example: Example, alike: Sequence[str] = ()) -> list[float | None]:
    """A number between 0 and 1 for each completion, the same for the same question.

    Args:
        completions: only counted.
        example: its id is the seed.
        alike: ids of questions whose completions all get the same, so that their groups have nothing to teach.
    """
    if example.id in alike:
        return [1.0] * len(completions)
    generator = random.Random(example.id)
    return [generator.random() for _ in completions]
