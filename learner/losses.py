"""The objective, token by token, as pure functions of tensors.

A loss is the weighted sum of its tokens. The weights carry the normalisation, and are computed from counts over all
ranks and micro-batches, so that the gradient does not depend on how the work was packed or sharded.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Schulman's unbiased, non-negative estimate of KL(policy || reference) for each token, (N,)."""
    difference = reference_logprobs - logprobs  # (N,)
    return torch.exp(difference) - difference - 1


def surrogate(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """The policy gradient's loss of each token, (N,): the ratio is 1 and carries only the gradient.

    Args:
        logprobs: the policy's log-probability of each sampled token, (N,), with gradient.
        advantages: the advantage of the completion that each token belongs to, (N,).
    """
    return -torch.exp(logprobs - logprobs.detach()) * advantages


def clipped_surrogate(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: tuple[float, float]) -> Tensor:
    """PPO's loss of each token, (N,), whose ratio is to an older policy (arXiv 1707.06347, eq. 7).

    Args:
        logprobs: the policy's log-probability of each sampled token, (N,), with gradient.
        old_logprobs: the older policy's, (N,).
        advantages: the advantage of the completion that each token belongs to, (N,).
        clip: the ratio gains nothing below 1 - clip[0] and above 1 + clip[1].
    """
    low, high = clip
    ratio = torch.exp(logprobs - old_logprobs)  # (N,)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def gains_nothing(ratio: Tensor, advantages: Tensor, clip: tuple[float, float]) -> Tensor:
    """Whether each token's ratio is where `clipped_surrogate` is flat, (N,)."""
    low, high = clip
    return torch.where(advantages > 0, ratio > 1 + high, (advantages < 0) & (ratio < 1 - low))


def grpo(
    surrogate: Tensor,
    logprobs: Tensor,
    entropy: Tensor,
    weights: Tensor,
    reference_logprobs: Tensor | None,
    beta: float,
    entropy_coefficient: float,
) -> Tensor:
    """GRPO (arXiv 2402.03300, eq. 3): the surrogate, the KL to the reference, and an entropy bonus.

    Args:
        surrogate: what the advantages come to, (N,), with gradient.
        logprobs: the policy's log-probability of each sampled token, (N,), with gradient.
        entropy: entropy of the policy at each token in nats, (N,), with gradient if its coefficient is not 0.
        weights: share of each token in the mean, (N,); see `sequence_mean_weight`.
        reference_logprobs: the reference's log-probabilities, (N,), or None where beta is 0.
        beta: weight of the KL to the reference.
        entropy_coefficient: weight of the entropy bonus.

    Returns:
        Scalar, to be minimised and summed over micro-batches and ranks.
    """
    per_token = surrogate
    if reference_logprobs is not None:
        per_token = per_token + beta * kl_k3(logprobs, reference_logprobs)
    if entropy_coefficient:
        per_token = per_token - entropy_coefficient * entropy
    return (weights * per_token).sum()


def sequence_mean_weight(completion_tokens: int, completions: int) -> float:
    """Weight of a token in a mean over tokens within a completion, then over all completions of the batch."""
    return 1.0 / (completion_tokens * completions)
