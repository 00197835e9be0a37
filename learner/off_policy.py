"""What a token counts that another policy sampled: truncated importance sampling, as pure functions of tensors.

The ratio is the learner's probability over the engine's, before the update. It is 1 for what the learner's own version
sampled, up to arithmetic, and drifts away from it with staleness.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema import Algorithm
from learner import advantage, losses


@dataclass(frozen=True, slots=True)
class Importance:
    """Ratios and weights of the tokens of a micro-batch, without gradient."""

    ratios: Tensor
    """(N,), of the token, or of its completion where that is the level."""
    weights: Tensor
    """(N,): the ratios, truncated, and 0 where they are masked."""
    cut: Tensor
    """(N,): whether the ratio was truncated."""
    masked: Tensor
    """(N,): whether the token counts nothing."""


def importance(logprobs: Tensor, sampled_logprobs: Tensor, owners: Tensor, algorithm: Algorithm) -> Importance:
    """How far a micro-batch's tokens are from the policy that learns, and what they would count.

    Args:
        logprobs: the learner's log-probability of each token, (N,).
        sampled_logprobs: the engine's when it sampled the token, (N,).
        owners: number of the completion that each token belongs to, (N,).
        algorithm: `correction` says at which level ratios are taken, and which are truncated and masked.
    """
    level, correction = algorithm.correction_level, algorithm.correction
    ratios = importance_ratios(logprobs.detach(), sampled_logprobs, owners, level)
    cut = masked = torch.zeros_like(ratios, dtype=torch.bool)
    if level != "none":
        if correction.mask is not None:
            low, high = correction.mask
            masked = (ratios < low) | (ratios > high)
        cut = (ratios > correction.cap) & ~masked
    return Importance(ratios, ratios.clamp(max=correction.cap).masked_fill(masked, 0.0), cut, masked)


def check_objective(algorithm: Algorithm) -> None:
    """Raise `PlugInError` for an advantage or a surrogate of a user's own that cannot be used."""
    advantage.advantages([[1.0, 0.0, None], [0.5, 0.5, 0.5]], algorithm.advantage)
    losses.surrogate(algorithm.surrogate)


def policy_loss(
    logprobs: Tensor,
    sampled_logprobs: Tensor,
    first_logprobs: Tensor | None,
    advantages: Tensor,
    owners: Tensor,
    found: Importance,
    algorithm: Algorithm,
) -> tuple[Tensor, Tensor]:
    """What the advantages come to, (N,), with gradient, and whether the token is clipped, (N,).

    The engine's log-prob counts in the weight or in the ratio, or in neither, but never in both.

    Args:
        logprobs: the policy's log-probability of each token, (N,), with gradient.
        sampled_logprobs: the engine's, (N,).
        first_logprobs: the policy's before the first update from the batch, (N,); None in the first.
        advantages: of the token's completion, (N,).
        owners: number of the completion that each token belongs to, (N,).
        found: what `importance` gave for them before the first update.
        algorithm: `ratio` says which policy it is to; `surrogate`, its bounds, and whether tokens are weighed.
    """
    older = sampled_logprobs if algorithm.ratio == "sampled" else first_logprobs
    older = logprobs.detach() if older is None else older
    clip = losses.Clip(*algorithm.clip, algorithm.dual_clip)
    loss, cut = losses.surrogate(algorithm.surrogate)(logprobs, older, advantages, owners, clip)
    return (loss if algorithm.correction_level == "none" else loss * found.weights), cut


def importance_ratios(logprobs: Tensor, sampled_logprobs: Tensor, owners: Tensor, level: str) -> Tensor:
    """exp(log-prob - sampled log-prob) of each token, or with `sequence` the product over its completion, (N,); within
    the bounds of `losses.ratio_of`."""
    difference = logprobs - sampled_logprobs  # (N,)
    if level == "sequence":
        sums, _ = losses.by_completion(difference, owners)  # (C,)
        difference = sums[owners]
    return losses.ratio_of(difference)
