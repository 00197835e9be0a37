"""Rewards of a user's own, for runs of a model that knows no answer yet."""

from __future__ import annotations

import time

from data.types import Example


def vowels(completions: list[str], example: Example, per_letter: float = 0.1) -> list[float | None]:
    """More for every vowel: some completions get more than others whatever the model says."""
    return [per_letter * sum(letter in "aeiou" for letter in completion) for completion in completions]


def hanging(completions: list[str], example: Example) -> list[float | None]:
    """Never gives a reward."""
    time.sleep(600)
    return [None] * len(completions)
