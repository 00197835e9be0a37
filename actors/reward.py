"""The reward actor: scores groups with the configured reward functions."""

from __future__ import annotations

import time

import ray

from configs.schema import Config
from data.types import Group, GroupSummary
from rewards.overlong import shaped
from rewards.score import load_terms, score_group


@ray.remote
class RewardActor:
    """Scores one group at a time, in its main thread (math-verify needs that)."""

    def __init__(self, config: Config) -> None:
        self._terms = load_terms(config.rewards, config.data.prompt.form)
        self._most_tokens = config.rollout.max_completion_tokens
        self._overlong_share = config.algorithm.overlong_share

    def ready(self) -> bool:
        """Answers once the reward functions are loaded."""
        return True

    def score(self, group: Group) -> tuple[Group, GroupSummary]:
        """The group with its rewards, and what the control loop needs to know of it."""
        started = time.perf_counter()
        scored, problems = score_group(group, self._terms)
        scored = shaped(scored, self._most_tokens, self._overlong_share)
        kept = [total for total in scored.total if total is not None]
        means = {
            name: sum(value for value in values if value is not None) / max(sum(v is not None for v in values), 1)
            for name, values in scored.rewards.items()
        }
        summary = GroupSummary(
            group_id=group.prompt.group_id,
            completions=len(kept),
            completion_tokens=group.completion_tokens,
            truncated=sum(completion.finish_reason == "length" for completion in group.completions),
            rewards=means,
            total=sum(kept) / max(len(kept), 1),
            spread=max(kept, default=0.0) - min(kept, default=0.0),
            oldest_version=group.oldest_version,
            score_seconds=time.perf_counter() - started,
            problems=problems,
        )
        return scored, summary
