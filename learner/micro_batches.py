"""The micro-batches of this rank: what `learner.packing` plans, with the clips of its sequences fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch.distributed as dist

from data.types import ClipFeatures
from learner.packing import Sequences, pack, plan_micro_batches
from learner.policy import MicroBatch


@dataclass(frozen=True, slots=True)
class Share:
    """A micro-batch that this rank computes."""

    batch: MicroBatch
    indices: tuple[int, ...]
    """Of its sequences, in the order in which they are packed."""
    planned: bool
    """Whether it is of the plan: a rank without work still takes part in the collectives of the forward, with the least
    that there is."""


def shares(
    sequences: Mapping[int, Sequences],
    clip_of: Callable[[int], str],
    fetch: Callable[[int], ClipFeatures],
    micro_batch_tokens: int,
) -> Iterator[Share]:
    """Plan the sequences over all ranks and make this rank's micro-batches one by one; every rank gets as many.

    Args:
        sequences: by index; the same on every rank.
        clip_of: name of the clip that the sequence of an index hears; in a micro-batch each is fetched once.
        fetch: the features of that clip; called on the rank that computes them only.
        micro_batch_tokens: budget of a micro-batch.
    """
    used = list(sequences)
    plan = plan_micro_batches(
        [sequences[index].packed_tokens for index in used], dist.get_world_size(), micro_batch_tokens
    )
    smallest = min(used, key=lambda index: sequences[index].targets)
    for number, members in enumerate(plan[dist.get_rank()]):
        most_targets = max(sum(sequences[used[member]].targets for member in parts[number]) for parts in plan)
        indices = tuple(used[member] for member in members) or (smallest,)
        clips = {clip_of(index): index for index in reversed(indices)}
        features = {name: fetch(index) for name, index in clips.items()}
        packed = pack([sequences[index] for index in indices])
        batch = MicroBatch(packed, [features[clip_of(index)] for index in indices], most_targets)
        yield Share(batch, indices, bool(members))
