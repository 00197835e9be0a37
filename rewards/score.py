"""Score a group: every reward once for all its completions, and their weighted sum.

A reward that raises, gives the wrong number of values or a value that is no finite number costs the group its score,
not the run: all completions get None from it, and the reason is returned to be counted.
"""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.registry import RewardFunction, load_reward

if TYPE_CHECKING:
    from configs.schema import Reward
    from data.types import Group


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One term of the weighted sum."""

    name: str
    function: RewardFunction
    weight: float = 1.0
    args: Mapping[str, Any] = field(default_factory=dict)


def load_terms(rewards: Sequence[Reward], prompt: str) -> tuple[RewardTerm, ...]:
    """The terms that a configuration names; raises `RewardError` for one that cannot be used.

    Args:
        rewards: `rewards` of the configuration.
        prompt: `data.prompt`, whose form the built-in `format` asks for where its `args` do not say otherwise.
    """
    terms = []
    for reward in rewards:
        args = {"template": prompt, **reward.args} if reward.use == "format" else reward.args
        terms.append(RewardTerm(reward.use, load_reward(reward.use, args), reward.weight, args))
    return tuple(terms)


def score_group(group: Group, terms: Sequence[RewardTerm]) -> tuple[Group, tuple[str, ...]]:
    """The group with `rewards` and `total` filled, and what went wrong, one line a reward."""
    rewards: dict[str, tuple[float | None, ...]] = {}
    problems = []
    for term in terms:
        try:
            rewards[term.name] = _values(term, group)
        except _Refused as refused:
            rewards[term.name] = (None,) * len(group.completions)
            problems.append(f"reward {term.name}, example {group.prompt.example.id}: {refused}")
    total = tuple(_total(terms, values) for values in zip(*(rewards[term.name] for term in terms), strict=True))
    return dataclasses.replace(group, rewards=rewards, total=total), tuple(problems)


class _Refused(Exception):
    """Why the values of a reward cannot be used."""


def _values(term: RewardTerm, group: Group) -> tuple[float | None, ...]:
    texts = [completion.text for completion in group.completions]
    try:
        values = list(term.function(texts, group.prompt.example, **term.args))
    except Exception as error:  # a plug-in may raise anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise _Refused(f"raised {error!r} at {frame.filename}:{frame.lineno}") from error
    if len(values) != len(group.completions):
        raise _Refused(f"gave {len(values)} values for {len(group.completions)} completions")
    return tuple(None if value is None else _finite(value) for value in values)


def _finite(value: Any) -> float:
    if not isinstance(value, str | bytes):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise _Refused(f"gave {value!r}; a reward is a finite number or None")


def _total(terms: Sequence[RewardTerm], values: Sequence[float | None]) -> float | None:
    """Weighted sum over the terms; None where any term gave None."""
    known = [term.weight * value for term, value in zip(terms, values, strict=True) if value is not None]
    return sum(known) if len(known) == len(terms) else None
