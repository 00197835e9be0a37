"""Log-probability and entropy of predicted tokens, without ever holding their logits all at once.

The output layer runs only where a completion token is predicted, a chunk of tokens at a time. Where one chunk is not
enough, a chunk's logits are computed again in the backward, so that the peak is that of one chunk, whatever the
vocabulary, the prompts and the number of completions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learner.work import CHUNK_LOGITS

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
    if again and type(head) is nn.Linear and head.bias is None and not hasattr(head.weight, "ds_id"):
        return _Chunked.apply(states, head.weight, targets, temperature, entropy, len(parts))
    scored = [
        checkpoint(_score, head, *part, temperature, entropy, use_reentrant=False)
        if again
        else _score(head, *part, temperature, entropy)
        for part in parts
    ]
    logprobs, entropies = zip(*scored, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


class _Chunked(torch.autograd.Function):
    """`_score` of every chunk, for a plain output layer that is whole.

    Autograd would make a gradient of the output layer's size for every chunk, beside the one that they are summed in;
    here each chunk is added to one, in the layer's own type.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, temperature: float, entropy: Entropy, count: int
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature, ctx.entropy, ctx.count = temperature, entropy, count
        scored = [
            _from_logits(part @ weight.T, wanted, temperature, entropy)
            for part, wanted in zip(states.tensor_split(count), targets.tensor_split(count), strict=True)
        ]
        logprobs, entropies = (torch.cat(values) for values in zip(*scored, strict=True))
        ctx.save_for_backward(states, weight, targets, entropies)
        if entropy != "gradient":
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, targets, entropies = ctx.saved_tensors
        for_states = torch.empty_like(states)
        for_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        by_token = (states, for_states, *(one[:, None] for one in (targets, entropies, grad_logprobs, grad_entropies)))
        for part, for_part, wanted, spread, from_logprobs, from_entropies in zip(
            *(values.tensor_split(ctx.count) for values in by_token), strict=True
        ):
            gradient = _log_softmax(part @ weight.T, ctx.temperature)  # (n, V)
            if ctx.entropy == "gradient":  # of -sum p log p it is -p (log p + entropy)
                distribution = gradient.exp()
                gradient.add_(spread).mul_(from_entropies).add_(from_logprobs).mul_(distribution).neg_()
                del distribution
            else:
                gradient.exp_().mul_(-from_logprobs)
            gradient = gradient.scatter_add_(-1, wanted, from_logprobs).div_(ctx.temperature).to(weight.dtype)
            for_part.copy_(gradient @ weight)
            if for_weight is not None:
                for_weight.addmm_(gradient.T, part)
            del gradient  # before the next chunk's logits are made
        return for_states, for_weight, None, None, None, None


def _score(
    head: nn.Linear, states: Tensor, targets: Tensor, temperature: float, entropy: Entropy
) -> tuple[Tensor, Tensor]:
    return _from_logits(head(states), targets, temperature, entropy)


def _from_logits(logits: Tensor, targets: Tensor, temperature: float, entropy: Entropy) -> tuple[Tensor, Tensor]:
    """`logits` are used up."""
    logprobs = _log_softmax(logits, temperature)  # (n, V)
    del logits
    of_targets = logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if entropy == "none":
        return of_targets, torch.zeros_like(of_targets)
    if entropy == "gradient" and torch.is_grad_enabled():
        return of_targets, -(logprobs.exp() * logprobs).sum(-1)
    logprobs = logprobs.detach()
    return of_targets, -logprobs.exp().mul_(logprobs).sum(-1)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """In float32; in place as far as it can be."""
    return logits.float().div_(temperature).log_softmax(-1)
