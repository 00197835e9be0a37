"""Advantages of completions, from their rewards. Plain numbers in, plain numbers out.

None stands for a dropped completion: it takes no part in the statistics and keeps None. A group with fewer than two
rewards has nothing to compare, and keeps None for all; one whose rewards are all equal has advantages of exactly zero.

A plug-in gets the rewards of all groups of a step, and gives as many values for each:

    def my_advantage(groups: list[list[float | None]]) -> list[list[float | None]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

from configs.plugins import Function, PlugInError, load_plug_in

Values = tuple[float | None, ...]

DEVIATION_FLOOR = 1e-4
"""Added to a standard deviation, as in R1-AQA, so that rewards that hardly differ do not get large advantages."""

_CONTRACT = "def my_advantage(groups: list[list[float | None]]) -> list[list[float | None]]"


def advantages(groups: Sequence[Sequence[float | None]], kind: str) -> tuple[Values, ...]:
    """The advantages of a step's groups: one value a completion, in the order given.

    Args:
        groups: rewards of each group's completions.
        kind: `algorithm.advantage`.

    Raises:
        PlugInError: a plug-in cannot be used, or gives other values than one a completion.
    """
    if kind == "batch_standardised":
        return batch_standardised(groups)
    if kind in _OF_A_GROUP:
        return tuple(_OF_A_GROUP[kind](rewards) for rewards in groups)
    return _by_plug_in(groups, kind)


def standardised(rewards: Sequence[float | None]) -> Values:
    """GRPO's (r - mean) / (std + 1e-4), with the unbiased standard deviation (arXiv 2402.03300, section 4.1.2).

    >>> [value and round(value, 4) for value in standardised([1.0, 0.0, None])]
    [0.707, -0.707, None]
    """
    apart = centred(rewards)
    kept = [value for value in apart if value is not None]
    if not any(kept):
        return apart
    deviation = math.sqrt(math.fsum(value**2 for value in kept) / (len(kept) - 1))
    return _scaled(apart, deviation)


def centred(rewards: Sequence[float | None]) -> Values:
    """Dr. GRPO's r - mean (arXiv 2503.20783).

    >>> centred([1.0, 0.0, 0.5, None])
    (0.5, -0.5, 0.0, None)
    """
    kept = [reward for reward in rewards if reward is not None]
    if len(kept) < 2:
        return (None,) * len(rewards)
    if min(kept) == max(kept):
        return tuple(None if reward is None else 0.0 for reward in rewards)  # exactly, whatever the mean rounds to
    mean = math.fsum(kept) / len(kept)
    return tuple(None if reward is None else reward - mean for reward in rewards)


def leave_one_out(rewards: Sequence[float | None]) -> Values:
    """RLOO's r - mean of the other rewards (arXiv 2402.14740).

    >>> leave_one_out([1.0, 0.0, 0.5])
    (0.75, -0.75, 0.0)
    """
    kept = sum(reward is not None for reward in rewards)
    return tuple(value and value * kept / (kept - 1) for value in centred(rewards))


def batch_standardised(groups: Sequence[Sequence[float | None]]) -> tuple[Values, ...]:
    """REINFORCE++ with baseline: r - mean of the group, then standardised over the step (arXiv 2501.03262).

    >>> [round(value, 3) for value in batch_standardised([[1.0, 0.0], [3.0, 1.0]])[1]]
    [1.095, -1.095]
    """
    apart = [centred(rewards) for rewards in groups]
    kept = [value for values in apart for value in values if value is not None]
    if not any(kept):
        return tuple(apart)
    mean = math.fsum(kept) / len(kept)  # 0, up to rounding: every group's is
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in kept) / (len(kept) - 1))
    return tuple(_scaled(values, deviation) for values in apart)


_OF_A_GROUP: dict[str, Callable[[Sequence[float | None]], Values]] = {
    "standardised": standardised,
    "centred": centred,
    "leave_one_out": leave_one_out,
}


def _by_plug_in(groups: Sequence[Sequence[float | None]], name: str) -> tuple[Values, ...]:
    found = _plug_in(name)([list(rewards) for rewards in groups])
    given: list[Values] = []
    try:
        for rewards, values in zip(groups, found, strict=True):
            pairs = zip(rewards, values, strict=True)
            given.append(tuple(None if None in pair else float(pair[1]) for pair in pairs))
    except (TypeError, ValueError) as error:
        raise PlugInError(f"algorithm.advantage: {name!r} gave {found!r} for {groups!r}; give a number each") from error
    if not all(value is None or math.isfinite(value) for values in given for value in values):
        raise PlugInError(f"algorithm.advantage: {name!r} gave {found!r} for {groups!r}; give finite numbers")
    return tuple(given)


@cache
def _plug_in(name: str) -> Function:
    return load_plug_in("algorithm.advantage", name, _CONTRACT, ([],))


def _scaled(values: Values, deviation: float) -> Values:
    return tuple(value and value / (deviation + DEVIATION_FLOOR) for value in values)
