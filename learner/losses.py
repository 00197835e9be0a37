"""The objective, token by token, as pure functions of tensors.

A loss is the weighted sum of its tokens. The weights carry the normalisation, and are computed from counts over all
ranks and micro-batches, so that the gradient does not depend on how the work was packed or sharded.

A surrogate takes log-probs (N,) with gradient, those of the older policy that the ratio is to (N,), advantages (N,),
the completion of each token (N,) and the clip's two bounds. It gives the loss of each token (N,), and whether it is
clipped (N,). Where the older policy is the policy itself, the ratio is 1 and each has the plain policy gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from configs.algorithms import Mean

Clip = tuple[float, float]


def clipped(
    logprobs: Tensor, older_logprobs: Tensor, advantages: Tensor, owners: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """PPO's clipped ratio of each token (arXiv 1707.06347, eq. 7); DAPO's with other bounds (arXiv 2503.14476).

    The ratio gains nothing below 1 - clip[0] and above 1 + clip[1].
    """
    return _clipped_gain(torch.exp(logprobs - older_logprobs), advantages, clip)


def sequence_clipped(
    logprobs: Tensor, older_logprobs: Tensor, advantages: Tensor, owners: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """GSPO: the ratio is of the completion, its tokens' geometric mean, and is clipped as one (arXiv 2507.18071).

    Every token has its completion's loss, of which the mean over the completion's tokens makes one.
    """
    difference = logprobs - older_logprobs  # (N,)
    sums = difference.new_zeros(_completions(owners)).index_add(0, owners, difference)  # (C,)
    lengths = torch.bincount(owners, minlength=len(sums)).clamp(min=1)  # (C,)
    return _clipped_gain(torch.exp(sums / lengths)[owners], advantages, clip)


def weighted(
    logprobs: Tensor, older_logprobs: Tensor, advantages: Tensor, owners: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """CISPO: the log-prob, weighted by the ratio, whose truncation takes no token's gradient (arXiv 2506.13585)."""
    low, high = clip
    ratio = torch.exp(logprobs.detach() - older_logprobs)  # (N,)
    truncated = ratio.clamp(1 - low, 1 + high)
    return -truncated * advantages * logprobs, truncated != ratio


SURROGATES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Clip], tuple[Tensor, Tensor]]] = {
    "clipped": clipped,
    "sequence": sequence_clipped,
    "weighted": weighted,
}
"""By `algorithm.surrogate`."""


def kl_k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """The log-ratio of each token, (N,): an unbiased estimate of KL(policy || reference) of high variance.

    The three estimates are Schulman's ("Approximating KL divergence", 2020).
    """
    return logprobs - reference_logprobs


def kl_k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio of each token, (N,): biased, but its gradient is the KL's in expectation."""
    return (logprobs - reference_logprobs).square() / 2


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Ratio - 1 - log-ratio of the reference to the policy, (N,): unbiased and never negative."""
    difference = reference_logprobs - logprobs  # (N,)
    return torch.exp(difference) - difference - 1


KL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
"""By `algorithm.kl`."""


def objective(
    surrogate: Tensor, kl: Tensor | None, entropy: Tensor, weights: Tensor, beta: float, entropy_coefficient: float
) -> Tensor:
    """The surrogate, the KL to the reference and an entropy bonus, in the mean over tokens.

    Args:
        surrogate: loss of each token, (N,), with gradient.
        kl: estimate of the KL at each token, (N,), with gradient; None where it is not in the loss.
        entropy: entropy of the policy at each token in nats, (N,), with gradient if its coefficient is not 0.
        weights: share of each token in the mean, (N,); see `token_weight`.
        beta: weight of the KL to the reference.
        entropy_coefficient: weight of the entropy bonus.

    Returns:
        Scalar, to be minimised and summed over micro-batches and ranks.
    """
    per_token = surrogate
    if kl is not None:
        per_token = per_token + beta * kl
    if entropy_coefficient:
        per_token = per_token - entropy_coefficient * entropy
    return (weights * per_token).sum()


def token_weight(mean: Mean, tokens: int, completions: int, step_tokens: int, most_tokens: int) -> float:
    """Weight of a completion's token in the step's mean.

    Args:
        mean: `algorithm.mean`: `sequence` as in GRPO, `token` as in DAPO (arXiv 2503.14476, over the whole step),
            `constant` as in Dr. GRPO (arXiv 2503.20783), `sum` as in RLOO, whose action is the whole completion.
        tokens: of the completion.
        completions: trained in the step, on all ranks.
        step_tokens: of them.
        most_tokens: that a completion can have.

    >>> token_weight("sequence", 4, 2, 10, 100), token_weight("token", 4, 2, 10, 100)
    (0.125, 0.1)
    >>> token_weight("constant", 4, 2, 10, 100), token_weight("sum", 4, 2, 10, 100)
    (0.005, 0.5)
    """
    parts = {
        "sequence": tokens * completions,
        "token": step_tokens,
        "constant": most_tokens * completions,
        "sum": completions,
    }
    return 1.0 / max(parts[mean], 1)


def _clipped_gain(ratio: Tensor, advantages: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    low, high = clip
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    flat = torch.where(advantages > 0, ratio > 1 + high, (advantages < 0) & (ratio < 1 - low))
    return loss, flat


def _completions(owners: Tensor) -> int:
    return int(owners.max()) + 1 if len(owners) else 0
