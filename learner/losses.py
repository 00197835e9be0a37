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


def grpo(
    logprobs: Tensor,
    entropy: Tensor,
    advantages: Tensor,
    weights: Tensor,
    reference_logprobs: Tensor | None,
    beta: float,
    entropy_coefficient: float,
) -> Tensor:
    """GRPO with one update a batch (arXiv 2402.03300, eq. 4): the ratio is 1 and carries only the gradient.

    Args:
        logprobs: the policy's log-probability of each sampled token, (N,), with gradient.
        entropy: entropy of the policy at each token in nats, (N,), with gradient if its coefficient is not 0.
        advantages: the advantage of the completion that each token belongs to, (N,).
        weights: share of each token in the mean, (N,); see `sequence_mean_weights`.
        reference_logprobs: the reference's log-probabilities, (N,), or None where beta is 0.
        beta: weight of the KL to the reference.
        entropy_coefficient: weight of the entropy bonus.

    Returns:
        Scalar, to be minimised and summed over micro-batches and ranks.
    """
    ratio = torch.exp(logprobs - logprobs.detach())  # (N,)
    per_token = -ratio * advantages
    if reference_logprobs is not None:
        per_token = per_token + beta * kl_k3(logprobs, reference_logprobs)
    if entropy_coefficient:
        per_token = per_token - entropy_coefficient * entropy
    return (weights * per_token).sum()


def sequence_mean_weight(completion_tokens: int, completions: int) -> float:
    """Weight of a token in a mean over tokens within a completion, then over all completions of the batch."""
    return 1.0 / (completion_tokens * completions)
