"""Log-probability and entropy of predicted tokens, without ever holding their logits all at once.

The output layer runs only where a completion token is predicted, a chunk of tokens at a time. Where one chunk is not
enough, a chunk's logits are computed again in the backward, so that the peak is that of one chunk, whatever the
vocabulary, the prompts and the number of completions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**24
"""Logits that are held at once: 64 MiB in float32, and about three times that in the backward."""

Entropy = Literal["none", "value", "gradient"]
"""What is wanted of the entropy: nothing, its value, or its value with the gradient."""


def chunks(states: Tensor, targets: Tensor, vocabulary: int, most_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden states (N, H) and targets (N,) in chunks of tokens whose logits fit; some may be empty.

    There are as many chunks as `most_tokens` tokens need. Ranks that hold shards of the output layer give the same
    number here, and so call it equally often.
    """
    count = max(math.ceil(max(most_tokens, len(targets)) * vocabulary / CHUNK_LOGITS), 1)
    yield from zip(states.tensor_split(count), targets.tensor_split(count), strict=True)


def score(
    head: nn.Linear, states: Tensor, targets: Tensor, temperature: float, entropy: Entropy, most_tokens: int = 0
) -> tuple[Tensor, Tensor]:
    """Log-probability (N,) and entropy (N,) in float32 nats, at the sampling temperature.

    Args:
        head: output layer, (V, H).
        states: hidden states that predict, (N, H).
        targets: token ids, (N,).
        temperature: logits are divided by it.
        entropy: whether it is computed, else it is 0, and whether it has a gradient.
        most_tokens: see `chunks`.
    """
    parts = list(chunks(states, targets, head.out_features, most_tokens))
    again = len(parts) > 1 and torch.is_grad_enabled()
    scored = [
        checkpoint(_score, head, *part, temperature, entropy, use_reentrant=False)
        if again
        else _score(head, *part, temperature, entropy)
        for part in parts
    ]
    logprobs, entropies = zip(*scored, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _score(
    head: nn.Linear, states: Tensor, targets: Tensor, temperature: float, entropy: Entropy
) -> tuple[Tensor, Tensor]:
    logits = head(states).float() / temperature  # (n, V)
    normaliser = logits.logsumexp(-1)  # (n,)
    logprobs = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    if entropy == "none":
        return logprobs, torch.zeros_like(logprobs)
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        everything = logits - normaliser.unsqueeze(-1)  # (n, V)
        return logprobs, -(everything.exp() * everything).sum(-1)
