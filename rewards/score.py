"""Score groups: every reward once for all completions of a group, each in its process, and their weighted sum.

What goes wrong costs a group its score, not the run: the completions are dropped, and the reasons counted.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewards.process import RewardProcess
from rewards.terms import Term
from rewards.values import Dropped, Outcome

if TYPE_CHECKING:
    from data.types import Group


@dataclass(frozen=True, slots=True)
class Scored:
    """A group with `rewards` and `total` filled, and what became of the completions that have no total."""

    group: Group
    dropped: Mapping[str, int]
    """Completions by reason, such as `reward_none`; of several reasons that of the first term counts."""
    problems: tuple[str, ...]
    """One line for each reward that left a completion without a value."""
    seconds: float
    """What the slowest reward took."""


class Scorer:
    """All terms of a run. Groups may be scored at once; each function gets as many as it takes.

    Args:
        terms: of the configuration.
        start_seconds: limit of the start of a function's process.
    """

    def __init__(self, terms: Sequence[Term], start_seconds: float) -> None:
        self._processes = [RewardProcess(term, start_seconds) for term in terms]

    async def start(self) -> None:
        """Load every function; raises `RewardError` for one that cannot be used."""
        await asyncio.gather(*(process.start() for process in self._processes))

    async def score(self, group: Group) -> Scored:
        """The group with its rewards."""
        texts = [completion.text for completion in group.completions]
        outcomes = await asyncio.gather(*(process.judge(texts, group.prompt.example) for process in self._processes))
        return combined(group, [process.term for process in self._processes], outcomes)

    async def end(self) -> None:
        """End every process."""
        await asyncio.gather(*(process.end() for process in self._processes))


def combined(group: Group, terms: Sequence[Term], outcomes: Sequence[Outcome]) -> Scored:
    """What the outcomes of the terms, in their order, make of a group."""
    columns = tuple(zip(*(outcome.values for outcome in outcomes), strict=True))
    total = tuple(_total(terms, values) for values in columns)
    reasons = (next((value.reason for value in values if isinstance(value, Dropped)), None) for values in columns)
    dropped = Counter(f"reward_{reason}" for reason in reasons if reason is not None)
    rewards, problems = {}, []
    for term, outcome in zip(terms, outcomes, strict=True):
        rewards[term.name] = tuple(None if isinstance(value, Dropped) else value for value in outcome.values)
        if problem := outcome.problem or _without_value(outcome):
            problems.append(f"reward {term.name}, example {group.prompt.example.id}: {problem}")
    slowest = max(outcome.seconds for outcome in outcomes)
    return Scored(dataclasses.replace(group, rewards=rewards, total=total), dropped, tuple(problems), slowest)


def _total(terms: Sequence[Term], values: Sequence[float | Dropped]) -> float | None:
    """Weighted sum over the terms; None where any term gave none."""
    known = [term.weight * value for term, value in zip(terms, values, strict=True) if not isinstance(value, Dropped)]
    return sum(known) if len(known) == len(terms) else None


def _without_value(outcome: Outcome) -> str:
    """How many completions a reward gave no value, and why; empty where each has one."""
    reasons = Counter(value.reason for value in outcome.values if isinstance(value, Dropped))
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    return f"no value for {reasons.total()} of {len(outcome.values)} completions ({told})" if reasons else ""
