"""Score groups: every reward once for all completions of a group, each in its process, and their weighted sum.

What goes wrong costs a group its score, not the run: the completions are dropped, and the reasons counted.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from rewards.process import RewardProcess
from rewards.registry import BUILT_IN
from rewards.terms import Term, load, terms_of
from rewards.values import DETAIL_CHARACTERS, Dropped, Fault, Outcome, cut

if TYPE_CHECKING:
    from configs.schema import Form, Reward
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
    faulted: tuple[str, ...] = ()
    """Names of the terms that failed the whole group: they raised, were late or died, or gave what is no value."""
    notes: tuple[str, ...] = ()
    """What the user should hear of."""


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
        outcomes = await asyncio.gather(*(process.score(texts, group.prompt.example) for process in self._processes))
        return combined(group, [process.term for process in self._processes], outcomes)

    async def end(self) -> None:
        """End every process."""
        await asyncio.gather(*(process.end() for process in self._processes))


def check_rewards(rewards: Sequence[Reward], form: Form, start_seconds: float) -> None:
    """Load every reward that a configuration names, those of others in processes of their own, as a run will.

    Args:
        rewards: `rewards` of the configuration.
        form: `data.prompt.form`.
        start_seconds: limit of the start of a process.

    Raises:
        RewardError: one of them cannot be used.
    """
    terms = terms_of(rewards, form)
    for term in terms:
        if term.use in BUILT_IN:
            load(term)

    async def start_others() -> None:
        scorer = Scorer([term for term in terms if term.use not in BUILT_IN], start_seconds)
        try:
            await scorer.start()
        finally:
            await scorer.end()

    asyncio.run(start_others())


def combined(group: Group, terms: Sequence[Term], outcomes: Sequence[Outcome]) -> Scored:
    """What the outcomes of the terms, in their order, make of a group."""
    weighed = [(term, outcome) for term, outcome in zip(terms, outcomes, strict=True) if term.weight]
    columns = tuple(zip(*(outcome.values for _, outcome in weighed), strict=True)) or ((),) * len(group.completions)
    total = tuple(_total([term for term, _ in weighed], values) for values in columns)
    reasons = (next((value.reason for value in values if isinstance(value, Dropped)), None) for values in columns)
    dropped = Counter(f"reward_{reason}" for reason in reasons if reason is not None)
    faulted = tuple(term.name for term, outcome in weighed if _failed(outcome))
    rewards, problems = {}, []
    for term, outcome in zip(terms, outcomes, strict=True):
        rewards[term.name] = tuple(None if isinstance(value, Dropped) else value for value in outcome.values)
        if problem := outcome.problem or _without_value(outcome):
            problems.append(f"reward {term.name}, example {group.prompt.example.id}: {problem}")
    slowest = max(outcome.seconds for outcome in outcomes)
    scored = dataclasses.replace(group, rewards=rewards, total=total)
    notes = tuple(outcome.note for outcome in outcomes if outcome.note)
    return Scored(scored, dropped, tuple(problems), slowest, faulted, notes)


def _failed(outcome: Outcome) -> bool:
    faults = get_args(Fault)
    return all(isinstance(value, Dropped) and value.reason in faults for value in outcome.values)


def _total(terms: Sequence[Term], values: Sequence[float | Dropped]) -> float | None:
    """Weighted sum over the terms that have a weight; None where any of them gave none."""
    known = [term.weight * value for term, value in zip(terms, values, strict=True) if not isinstance(value, Dropped)]
    return sum(known) if len(known) == len(terms) else None


def _without_value(outcome: Outcome) -> str:
    """How many completions a reward gave no value, and why; empty where each has one."""
    without = [value for value in outcome.values if isinstance(value, Dropped)]
    if not without:
        return ""
    reasons = Counter(value.reason for value in without)
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    detail = next(
        (f"; {value.reason}: {cut(value.detail, DETAIL_CHARACTERS)}" for value in without if value.detail), ""
    )
    return f"no value for {len(without)} of {len(outcome.values)} completions ({told}){detail}"
