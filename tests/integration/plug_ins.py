"""Rewards of a user's own, for runs of a model that knows no answer yet."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Mapping

from data.types import Example


def vowels(completions: list[str], example: Example, per_letter: float = 0.1) -> list[float | None]:
    """More for every vowel: some completions get more than others whatever the model says."""
    return [per_letter * sum(letter in "aeiou" for letter in completion) for completion in completions]


def troubled(completions: list[str], example: Example, troubles: Mapping[str, str]) -> list[float | None]:
    """The id of its process, or for some questions the trouble that it is told to make."""
    match troubles.get(example.id):
        case "sleeps":
            time.sleep(600)
        case "loops in C":
            sum(itertools.repeat(0))
        case "raises":
            raise KeyError("trouble")
        case "gives nothing":
            return [None] * len(completions)
        case "gives nothing for one":
            return [None, *(0.0 for _ in completions[1:])]
    return [float(os.getpid())] * len(completions)


async def patient(
    completions: list[str], example: Example, seconds: float, waits_for_ever: str = ""
) -> list[float | None]:
    """0 after a while, or for one question never."""
    await asyncio.sleep(600 if example.id == waits_for_ever else seconds)
    return [0.0] * len(completions)
