"""The reward actor: scores groups with the configured reward functions."""

from __future__ import annotations

import os

import ray

from configs.schema import Config
from data.types import Group, GroupSummary
from rewards.overlong import shaped
from rewards.score import Scored, Scorer
from rewards.terms import terms_of


@ray.remote
class RewardActor:
    """Takes groups as they come; every function scores in a process of its own, which keeps its limits."""

    def __init__(self, config: Config) -> None:
        terms = terms_of(config.rewards, config.data.prompt.form)
        self._scorer = Scorer(terms, config.cluster.actor_timeout_seconds)
        self._most_tokens = config.rollout.max_completion_tokens
        self._overlong_share = config.algorithm.overlong_share

    async def ready(self) -> bool:
        """Answers once the reward functions are loaded."""
        await self._scorer.start()
        return True

    async def beat(self) -> int:
        """Answers while the process lives: with its id."""
        return os.getpid()

    async def score(self, group: Group) -> tuple[Group, GroupSummary]:
        """The group with its rewards, and what the control loop needs to know of it."""
        scored = await self._scorer.score(group)
        whole = shaped(scored.group, self._most_tokens, self._overlong_share)
        return whole, summary_of(scored, whole)


def summary_of(scored: Scored, whole: Group) -> GroupSummary:
    """What the control loop needs to know of a group that was scored, and then shaped by its lengths."""
    kept = [total for total in whole.total if total is not None]
    unshaped = [total for total in scored.group.total if total is not None]
    means = {
        name: sum(value for value in values if value is not None) / max(sum(v is not None for v in values), 1)
        for name, values in whole.rewards.items()
    }
    return GroupSummary(
        group_id=whole.prompt.group_id,
        completions=len(kept),
        completion_tokens=whole.completion_tokens,
        truncated=sum(completion.finish_reason == "length" for completion in whole.completions),
        rewards=means,
        total=sum(kept) / max(len(kept), 1),
        spread=max(unshaped, default=0.0) - min(unshaped, default=0.0),
        oldest_version=whole.oldest_version,
        score_seconds=scored.seconds,
        dropped=dict(scored.dropped),
        problems=scored.problems,
        faulted=scored.faulted,
        notes=scored.notes,
    )
