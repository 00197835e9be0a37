"""What a trial of a reward on logged groups tells of it. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rewards.logged import LoggedGroup
from rewards.values import Dropped, Outcome


@dataclass(frozen=True, slots=True)
class Scored:
    """A completion with its value."""

    value: float
    text: str
    group: LoggedGroup


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a reward goes with one that was logged, over the completions that both gave a value."""

    completions: int
    mean: float | None
    """Of the logged one."""
    correlation: float | None
    """Pearson's; None where one of them is constant."""
    equal: float | None
    """Share of completions to which both gave the same."""


@dataclass(frozen=True)
class Trial:
    """The groups, and what the reward made of each."""

    groups: Sequence[LoggedGroup]
    outcomes: Sequence[Outcome]

    @cached_property
    def scored(self) -> list[Scored]:
        """Every completion that has a value."""
        return [
            Scored(value, text, group)
            for group, outcome in zip(self.groups, self.outcomes, strict=True)
            for text, value in zip(group.completions, outcome.values, strict=True)
            if not isinstance(value, Dropped)
        ]

    @property
    def completions(self) -> int:
        """How many there are, with and without a value."""
        return sum(len(group.completions) for group in self.groups)

    @property
    def dropped(self) -> Counter[str]:
        """Completions without a value, by reason."""
        values = (value for outcome in self.outcomes for value in outcome.values)
        return Counter(f"reward_{value.reason}" for value in values if isinstance(value, Dropped))

    @property
    def alike(self) -> int:
        """Groups whose completions all got the same, or of which fewer than two got anything: they teach nothing."""
        return sum(len(set(values)) < 2 for values in map(_numbers, self.outcomes))

    @property
    def problems(self) -> dict[str, list[str]]:
        """What went wrong, each with the ids of its examples."""
        found: dict[str, list[str]] = {}
        for group, outcome in zip(self.groups, self.outcomes, strict=True):
            if outcome.problem:
                found.setdefault(outcome.problem, []).append(group.example.id)
        return found

    def extremes(self, count: int) -> tuple[list[Scored], list[Scored]]:
        """Completions of the lowest and of the highest value; each text stands once, and in one of the two."""
        different = {(one.text, one.group.example.id): one for one in self.scored}
        ranked = sorted(different.values(), key=lambda one: one.value)
        low = ranked[: min(count, (len(ranked) + 1) // 2)]
        return low, ranked[len(low) :][-count:][::-1]

    def agreements(self) -> Mapping[str, Agreement]:
        """How it goes with each reward that was logged, by name."""
        names = dict.fromkeys(name for group in self.groups for name in group.rewards)
        return {name: _agreement(list(self._pairs(name))) for name in names}

    def _pairs(self, name: str) -> Iterator[tuple[float, float]]:
        for group, outcome in zip(self.groups, self.outcomes, strict=True):
            logged = group.rewards.get(name, (None,) * len(outcome.values))
            for value, other in zip(outcome.values, logged, strict=True):
                if not isinstance(value, Dropped) and other is not None:
                    yield value, other


def _numbers(outcome: Outcome) -> list[float]:
    return [value for value in outcome.values if not isinstance(value, Dropped)]


def _agreement(pairs: Sequence[tuple[float, float]]) -> Agreement:
    if not pairs:
        return Agreement(0, None, None, None)
    values, logged = zip(*pairs, strict=True)
    varied = len(set(values)) > 1 and len(set(logged)) > 1
    return Agreement(
        len(pairs),
        statistics.fmean(logged),
        statistics.correlation(values, logged) if varied else None,
        statistics.fmean(value == other for value, other in pairs),
    )
