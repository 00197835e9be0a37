"""The reward actor: scores groups with the configured reward functions."""

from __future__ import annotations

import ray

from configs.schema import Reward
from data.types import Group, GroupSummary
from rewards.score import Scorer
from rewards.terms import terms_of


@ray.remote
class RewardActor:
    """Takes groups as they come; every function scores in a process of its own, which keeps its limits.

    Args:
        rewards: `rewards` of the configuration.
        prompt: `data.prompt`.
        start_seconds: limit of the start of a function's process.
    """

    def __init__(self, rewards: tuple[Reward, ...], prompt: str, start_seconds: float) -> None:
        self._scorer = Scorer(terms_of(rewards, prompt), start_seconds)

    async def ready(self) -> bool:
        """Answers once the reward functions are loaded."""
        await self._scorer.start()
        return True

    async def score(self, group: Group) -> tuple[Group, GroupSummary]:
        """The group with its rewards, and what the control loop needs to know of it."""
        scored = await self._scorer.score(group)
        kept = [total for total in scored.group.total if total is not None]
        means = {
            name: sum(value for value in values if value is not None) / max(sum(v is not None for v in values), 1)
            for name, values in scored.group.rewards.items()
        }
        summary = GroupSummary(
            group_id=group.prompt.group_id,
            completions=len(kept),
            completion_tokens=group.completion_tokens,
            truncated=sum(completion.finish_reason == "length" for completion in group.completions),
            rewards=means,
            total=sum(kept) / max(len(kept), 1),
            oldest_version=group.oldest_version,
            score_seconds=scored.seconds,
            dropped=dict(scored.dropped),
            problems=scored.problems,
        )
        return scored.group, summary
