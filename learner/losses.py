"""The objective, token by token, as pure functions of tensors.

A loss is the weighted sum of its tokens. The weights carry the normalisation, and are computed from counts over all
ranks and micro-batches, so that the gradient does not depend on how the work was packed or sharded.

A surrogate takes log-probs (N,) with gradient, those of the older policy that the ratio is to (N,), advantages (N,),
the completion of each token (N,) and the clip's bounds. It gives the loss of each token (N,), and whether it is
clipped (N,). Where the older policy is the policy itself, the ratio is 1 and each has the plain policy gradient. A
plug-in has the same form:

    def my_surrogate(logprobs, older_logprobs, advantages, owners, clip) -> tuple[Tensor, Tensor]

No ratio leaves [exp(-20), exp(20)], and beyond these bounds it has no gradient: nothing here is infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from configs.algorithms import Mean
from configs.plugins import PlugInError, load_plug_in

LARGEST_LOG_RATIO = 20.0
"""Difference of two log-probs that still counts; its exponential is 5e8, and a sum of squares of such is finite."""


class Clip(NamedTuple):
    """Where a ratio stops to count."""

    low: float
    """It gains nothing below 1 - low ..."""
    high: float
    """... and above 1 + high."""
    dual: float | None = None
    """A negative advantage is multiplied by this at most, which is above 1; None has no bound."""


def clipped(
    logprobs: Tensor, older_logprobs: Tensor, advantages: Tensor, owners: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """PPO's clipped ratio of each token (arXiv 1707.06347, eq. 7); DAPO's with other bounds (arXiv 2503.14476)."""
    return _clipped_gain(ratio_of(logprobs - older_logprobs), advantages, clip)


def sequence_clipped(
    logprobs: Tensor, older_logprobs: Tensor, advantages: Tensor, owners: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """GSPO: the ratio is of the completion, its tokens' geometric mean, and is clipped as one (arXiv 2507.18071).

    Every token has its completion's loss, of which the mean over the completion's tokens makes one.
    """
    sums, lengths = by_completion(logprobs - older_logprobs, owners)
    return _clipped_gain(ratio_of(sums / lengths)[owners], advantages, clip)


def completion_clipped(
    logprobs: Tensor, older_logprobs: Tensor, advantages: Tensor, owners: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """RLOO: the completion is one action, whose ratio is its tokens' product, clipped as one (arXiv 2402.14740).

    Every token has an even share of its completion's loss, of which the sum over the completion's tokens makes one.
    """
    sums, lengths = by_completion(logprobs - older_logprobs, owners)
    loss, cut = _clipped_gain(ratio_of(sums)[owners], advantages, clip)
    return loss / lengths[owners], cut


def weighted(
    logprobs: Tensor, older_logprobs: Tensor, advantages: Tensor, owners: Tensor, clip: Clip
) -> tuple[Tensor, Tensor]:
    """CISPO: the log-prob, weighted by the ratio, whose truncation takes no token's gradient (arXiv 2506.13585)."""
    ratio = ratio_of(logprobs.detach() - older_logprobs)  # (N,)
    truncated = ratio.clamp(1 - clip.low, 1 + clip.high)
    return -truncated * advantages * logprobs, truncated != ratio


Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor, Clip], tuple[Tensor, Tensor]]

SURROGATES: dict[str, Surrogate] = {
    "clipped": clipped,
    "sequence": sequence_clipped,
    "completion": completion_clipped,
    "weighted": weighted,
}
"""By `algorithm.surrogate`."""

_CONTRACT = "def my_surrogate(logprobs, older_logprobs, advantages, owners, clip) -> tuple[Tensor, Tensor]"


@cache
def surrogate(name: str) -> Surrogate:
    """What `algorithm.surrogate` names; a plug-in is tried on three tokens first.

    Raises:
        PlugInError: it cannot be used.
    """
    if name in SURROGATES:
        return SURROGATES[name]
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    older, advantages, owners = logprobs.detach() - 0.1, torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0, 0, 1])
    given = logprobs, older, advantages, owners, Clip(0.2, 0.2)
    function: Surrogate = load_plug_in("algorithm.surrogate", name, _CONTRACT, given)
    try:
        loss, cut = function(*given)
        good = loss.shape == cut.shape == (3,) and loss.requires_grad and bool(loss.isfinite().all())
    except Exception as error:
        raise PlugInError(f"algorithm.surrogate: {name!r} raised {error!r} on three tokens; mend it") from error
    if not good:
        raise PlugInError(
            f"algorithm.surrogate: {name!r} gives {loss} and {cut} for three tokens; give the loss of each, finite and "
            f"with a gradient, and whether it is clipped"
        )
    return function


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
    difference = (reference_logprobs - logprobs).clamp(max=LARGEST_LOG_RATIO)  # (N,)
    return torch.exp(difference) - difference - 1


KL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
"""By `algorithm.kl`."""


def objective(
    surrogate: Tensor, kl: Tensor | None, entropy: Tensor, weights: Tensor, beta: float, entropy_weight: float
) -> Tensor:
    """The surrogate and the KL to the reference in one mean over tokens, and an entropy bonus.

    Args:
        surrogate: loss of each token, (N,), with gradient.
        kl: estimate of the KL at each token, (N,), with gradient; None where it is not in the loss.
        entropy: entropy of the policy at each token in nats, (N,), with gradient if its weight is not 0.
        weights: share of each token in the mean, (N,); see `token_weight`.
        beta: weight of the KL to the reference.
        entropy_weight: of a token's entropy, the same for all: the bonus is a mean over the step's tokens.

    Returns:
        Scalar, to be minimised and summed over micro-batches and ranks.
    """
    per_token = surrogate
    if kl is not None:
        per_token = per_token + beta * kl
    loss = (weights * per_token).sum()
    return loss - entropy_weight * entropy.sum() if entropy_weight else loss


def token_weight(mean: Mean, tokens: int, completions: int, step_tokens: int, most_tokens: int) -> float:
    """Weight of a completion's token in the step's mean.

    Args:
        mean: `algorithm.mean`: `sequence` as in GRPO, `token` as in DAPO (arXiv 2503.14476, over the whole step),
            `constant` as in Dr. GRPO (arXiv 2503.20783), `sum` as in RLOO, whose action is the whole completion.
            A KL in the loss is weighed alike.
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


def ratio_of(difference: Tensor) -> Tensor:
    """The exponential of a difference of log-probs, kept within its bounds."""
    return torch.exp(difference.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def _clipped_gain(ratio: Tensor, advantages: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages)
    flat = torch.where(advantages > 0, ratio > 1 + clip.high, (advantages < 0) & (ratio < 1 - clip.low))
    if clip.dual is None:
        return loss, flat
    loss = torch.where(advantages < 0, torch.minimum(loss, -clip.dual * advantages), loss)
    return loss, flat | ((advantages < 0) & (ratio > clip.dual))


def by_completion(values: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the values of each completion's tokens, and how many they are, (C,) each."""
    count = int(owners.max()) + 1 if len(owners) else 0
    sums = values.new_zeros(count).index_add(0, owners, values)  # (C,)
    return sums, torch.bincount(owners, minlength=count).clamp(min=1)
