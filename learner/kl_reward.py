"""The KL to the reference as a part of the reward: taken off each completion before advantages are made.

So it is in RLOO (arXiv 2402.14740): the completion is one action, and what it costs to leave the reference is known as
soon as it is sampled. The policy's log-probs are those of the engine that sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from configs.schema import Algorithm
from data.types import ClipFeatures, Group
from learner import losses
from learner.head import Entropy
from learner.micro_batches import shares
from learner.packing import Sequences
from learner.policy import MicroBatch


@torch.no_grad()
def less_kl(
    groups: Sequence[Group],
    sequences: Sequence[Sequences],
    reference: Callable[[MicroBatch, Entropy], tuple[Tensor, Tensor]],
    fetch: Callable[[Group], ClipFeatures],
    algorithm: Algorithm,
    micro_batch_tokens: int,
) -> tuple[list[tuple[float | None, ...]], float]:
    """The rewards of the groups' completions, each less beta times its KL, and the mean KL of a token; a collective.

    Args:
        groups: scored; the same on every rank.
        sequences: their token ids, those of dropped completions empty.
        reference: the reference policy.
        fetch: the features of a group's clip.
        algorithm: `beta`, and the estimator `kl` of which a completion has the sum over its tokens.
        micro_batch_tokens: budget of a micro-batch.
    """
    most = max(len(group.completions) for group in groups)
    found: Tensor | None = None  # (groups, completions)
    parts = shares(
        dict(enumerate(sequences)),
        lambda index: groups[index].prompt.clip.sha256,
        lambda index: fetch(groups[index]),
        micro_batch_tokens,
    )
    for share in parts:
        of_reference, _ = reference(share.batch, "none")  # (N,)
        if found is None:
            found = torch.zeros(len(groups), most, dtype=torch.float64, device=of_reference.device)
        if not share.planned:
            continue
        completions = [
            (index, number, completion)
            for index in share.indices
            for number, completion in enumerate(groups[index].completions)
        ]
        sampled = [
            logprob
            for index, number, completion in completions
            if sequences[index].completions[number]
            for logprob in completion.logprobs
        ]
        kl = losses.KL[algorithm.kl](torch.tensor(sampled, device=of_reference.device), of_reference).double()  # (N,)
        owners = torch.from_numpy(share.batch.packed.owners).to(kl.device)
        by_completion = kl.new_zeros(len(completions)).index_add(0, owners, kl)  # (C,)
        for (index, number, _), value in zip(completions, by_completion, strict=True):
            found[index, number] = value
    assert found is not None
    dist.all_reduce(found)
    costs = found.tolist()
    tokens = sum(one.targets for one in sequences)
    rewards = [
        tuple(
            None if total is None else total - algorithm.beta * cost
            for total, cost in zip(group.total, row, strict=False)
        )
        for group, row in zip(groups, costs, strict=True)
    ]
    return rewards, sum(map(sum, costs)) / max(tokens, 1)
