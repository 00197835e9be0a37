"""What a token counts that another policy sampled: truncated importance sampling, as pure functions of tensors.

The ratio is the learner's probability over the engine's, before the update. It is 1 for what the learner's own version
sampled, up to arithmetic, and drifts away from it with staleness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import Algorithm


@dataclass(frozen=True, slots=True)
class Importance:
    """Ratios and weights of the tokens of a micro-batch."""

    ratios: Tensor
    """(N,), of the token, or of its completion where that is the level."""
    weights: Tensor
    """(N,): the ratios, truncated, and 0 where they are masked."""
    cut: Tensor
    """(N,): whether the ratio was truncated, or its gain clipped."""
    masked: Tensor
    """(N,)."""


def importance(
    logprobs: Tensor, sampled_logprobs: Tensor, advantages: Tensor, owners: Tensor, algorithm: Algorithm
) -> Importance:
    """The weights of a micro-batch's tokens, without gradient.

    Args:
        logprobs: the learner's log-probability of each token, (N,).
        sampled_logprobs: the engine's when it sampled the token, (N,).
        advantages: of the token's completion, (N,).
        owners: number of the completion that each token belongs to, (N,).
        algorithm: `correction` says at which level ratios are taken, and which are truncated and masked.
    """
    level, correction = algorithm.correction_level, algorithm.correction
    ratios = importance_ratios(logprobs.detach(), sampled_logprobs, owners, level)
    never = torch.zeros_like(ratios, dtype=torch.bool)
    if algorithm.ratio == "sampled":
        low, high = algorithm.clip
        cut = torch.where(advantages > 0, ratios > 1 + high, (advantages < 0) & (ratios < 1 - low))
        return Importance(ratios, torch.ones_like(ratios), cut, never)
    if level == "none":
        return Importance(ratios, torch.ones_like(ratios), never, never)
    masked = never
    if correction.mask is not None:
        low, high = correction.mask
        masked = (ratios < low) | (ratios > high)
    weights = ratios.clamp(max=correction.cap).masked_fill(masked, 0.0)
    return Importance(ratios, weights, ratios > correction.cap, masked)


def importance_ratios(logprobs: Tensor, sampled_logprobs: Tensor, owners: Tensor, level: str) -> Tensor:
    """exp(log-prob - sampled log-prob) of each token, or with `sequence` the product over its completion, (N,)."""
    difference = logprobs - sampled_logprobs  # (N,)
    if level == "sequence" and len(owners):
        by_completion = difference.new_zeros(int(owners.max()) + 1).index_add(0, owners, difference)  # (C,)
        difference = by_completion[owners]
    return torch.exp(difference)
