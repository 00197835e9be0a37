"""The terms of the weighted sum that rewards a completion, as a configuration names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards import judge
from rewards.registry import RewardError, RewardFunction, load_reward

if TYPE_CHECKING:
    from configs.schema import Form, Reward

FOLLOW_THE_PROMPT = ("format", "well_formed")
"""Rewards whose `form` is the run's `data.prompt.form` where their `args` do not say otherwise."""

JUDGE = "judge"
"""The reward that asks an endpoint once for each completion."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term: which function, called how, weighed how. Plain values, so that it can go to another process."""

    name: str
    use: str
    weight: float = 1.0
    """0 only observes: then no value is missed, and nothing is dropped for it."""
    args: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 60.0
    concurrency: int = 8
    """Groups at a time, where the function is asynchronous."""

    def groups_at_once(self, completions: int) -> int:
        """Groups of so many completions that an asynchronous function is given at a time.

        The judge gets as many as it has requests for. Those of one more would wait, and its time would run.
        """
        if self.use != JUDGE:
            return self.concurrency
        requests = int(self.args.get("max_concurrency", judge.MAX_CONCURRENCY))
        return max(1, min(self.concurrency, requests // max(completions, 1)))


def terms_of(rewards: Sequence[Reward], form: Form) -> tuple[Term, ...]:
    """The terms that a configuration names.

    Args:
        rewards: `rewards` of the configuration.
        form: `data.prompt.form`.
    """
    return tuple(
        Term(
            name=reward.name or reward.use,
            use=reward.use,
            weight=reward.weight,
            args={"form": form, **reward.args} if reward.use in FOLLOW_THE_PROMPT else reward.args,
            timeout_seconds=reward.timeout_seconds,
            concurrency=reward.concurrency,
        )
        for reward in rewards
    )


def load(term: Term) -> RewardFunction:
    """The function of a term; raises `RewardError` where it cannot be used, with the arguments and limits it has."""
    function = load_reward(term.use, term.args)
    if term.use == JUDGE:
        seconds = judge.longest_request_seconds(**term.args)
        if seconds > term.timeout_seconds:
            raise RewardError(
                f"rewards: 'judge': a request may take {seconds:g} s, args.request_timeout_seconds x (args.retries + "
                f"1), and timeout_seconds of the group is {term.timeout_seconds:g}; raise that or lower these"
            )
    return function
