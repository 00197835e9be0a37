"""The terms of the weighted sum that rewards a completion, as a configuration names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rewards.registry import load_reward

if TYPE_CHECKING:
    from configs.schema import Reward

FOLLOW_THE_PROMPT = ("format", "well_formed")
"""Rewards whose `template` is the run's `data.prompt.form` where their `args` do not say otherwise."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term: which function, called how, weighed how. Plain values, so that it can go to another process."""

    name: str
    use: str
    weight: float = 1.0
    args: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 60.0
    concurrency: int = 8
    """Groups at a time, where the function is asynchronous."""


def terms_of(rewards: Sequence[Reward], prompt: str) -> tuple[Term, ...]:
    """The terms that a configuration names.

    Args:
        rewards: `rewards` of the configuration.
        prompt: `data.prompt.form`.
    """
    return tuple(
        Term(
            name=reward.name or reward.use,
            use=reward.use,
            weight=reward.weight,
            args={"template": prompt, **reward.args} if reward.use in FOLLOW_THE_PROMPT else reward.args,
            timeout_seconds=reward.timeout_seconds,
            concurrency=reward.concurrency,
        )
        for reward in rewards
    )


def check_rewards(rewards: Sequence[Reward], prompt: str) -> None:
    """Load every reward that a configuration names; raises `RewardError` for one that cannot be used."""
    for term in terms_of(rewards, prompt):
        load_reward(term.use, term.args)
