"""What a step tells of itself in `metrics.jsonl`, from its groups and its update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.types import GroupSummary
from learner.result import UpdateResult


@dataclass(slots=True)
class Lengths:
    """Whether long completions are trained like short ones."""

    sampled_tokens: int = 0
    sampled_groups: int = 0
    trained_tokens: int = 0
    trained_groups: int = 0

    def sampled(self, summary: GroupSummary) -> None:
        """A group is there."""
        self.sampled_groups += 1
        self.sampled_tokens += summary.completion_tokens

    def trained(self, summary: GroupSummary) -> None:
        """A group was trained."""
        self.trained_groups += 1
        self.trained_tokens += summary.completion_tokens

    @property
    def bias(self) -> float:
        """Mean tokens of a trained group over those of a sampled one, since the launch; 1 without bias."""
        trained, sampled = self.trained_tokens * self.sampled_groups, self.sampled_tokens * self.trained_groups
        return trained / sampled if sampled else 1.0


def step_line(
    step: int,
    ended_at: float,
    groups: Sequence[GroupSummary],
    result: UpdateResult,
    seconds: dict[str, float],
    sampled: int,
) -> dict[str, Any]:
    """What can be told from the groups and the update alone.

    Args:
        step: number of the step.
        ended_at: seconds since 1970.
        groups: what it trained.
        result: what the learner tells of it.
        seconds: by phase; they add up to the step's time.
        sampled: completions that were asked for, with and without a reward.
    """
    elapsed = sum(seconds.values())
    completions = sum(summary.completions for summary in groups)
    tokens = sum(summary.completion_tokens for summary in groups)

    def mean(values: Sequence[float]) -> float:
        weighted = zip(values, groups, strict=True)
        return sum(value * summary.completions for value, summary in weighted) / max(completions, 1)

    by_name = {name: mean([summary.rewards[name] for summary in groups]) for name in groups[0].rewards}
    return {
        "step": step,
        "time": ended_at,
        "reward_mean": mean([summary.total for summary in groups]),
        "accuracy": by_name.get("accuracy"),
        "rewards": by_name,
        "kl": result.kl,
        "entropy": result.entropy,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        "updates": result.updates,
        "completions": completions,
        "completions_dropped": dict(sum((Counter(summary.dropped) for summary in groups), Counter[str]())),
        "completion_tokens_mean": tokens / sampled,
        "truncated": sum(summary.truncated for summary in groups),
        "zero_variance_groups": result.zero_variance_groups,
        "logprob_difference_max": result.logprob_difference_max,
        "logprob_difference_mean": result.logprob_difference_mean,
        "off_policy": result.off_policy,
        "packed_tokens": result.packed_tokens,
        "tokens_per_second": tokens / elapsed,
        "completions_per_second": sampled / elapsed,
        "step_seconds": elapsed,
        "seconds": seconds,
    }
