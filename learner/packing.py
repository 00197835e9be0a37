"""How the groups of a step are laid out: shared-prefix sequences, micro-batches and ranks. Pure; no tensors' library.

A group is one sequence `[prompt, completion 1, ..., completion G]`. The prompt stands once; every completion sees
the prompt and itself, and its positions go on where the prompt ends:

    tokens     p0 p1 p2 | a0 a1 | b0 b1 b2        (the last token of a completion predicts nothing: it is left out)
    branch      0  0  0 |  1  1 |  2  2  2
    position    0  1  2 |  3  4 |  3  4  5
    predicts          a0,b0  a1 a2 |  b1 b2 b3

Several groups follow each other in one micro-batch and do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data.types import Prompt

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sequences:
    """What one group brings to a micro-batch."""

    prompt: Sequence[int]
    """Expanded prompt: the audio placeholder stands `audio_tokens` times."""
    completions: Sequence[Sequence[int]]
    """Token ids; an empty completion contributes nothing."""

    @classmethod
    def of(cls, prompt: Prompt, completions: Sequence[Sequence[int]], audio_token_id: int) -> Sequences:
        """The prompt with its clip expanded, and these completions."""
        return cls(expand_audio(prompt.token_ids, audio_token_id, prompt.clip.audio_tokens), completions)

    @property
    def packed_tokens(self) -> int:
        """Positions that the group takes in a micro-batch."""
        return len(self.prompt) + sum(max(len(completion) - 1, 0) for completion in self.completions)

    @property
    def targets(self) -> int:
        """Completion tokens, which are what the group predicts."""
        return sum(len(completion) for completion in self.completions)


@dataclass(frozen=True, slots=True)
class Packed:
    """A micro-batch as index arrays: T positions, N predicted tokens."""

    token_ids: Ints  # (T,)
    positions: Ints  # (T,)
    segments: Ints  # (T,) which group
    branches: Ints  # (T,) 0 in the prompt, 1..G in a completion
    sources: Ints  # (N,) position whose hidden state predicts the target
    targets: Ints  # (N,) token id
    owners: Ints  # (N,) index of the completion, counted over all groups of the micro-batch

    @property
    def group_ends(self) -> list[int]:
        """Position after the last of each group."""
        return [*(np.flatnonzero(np.diff(self.segments)) + 1).tolist(), len(self.segments)]


def pack(groups: Sequence[Sequences]) -> Packed:
    """Lay the groups one after the other.

    >>> packed = pack([Sequences([7, 8], [[1, 2], [3]])])
    >>> packed.token_ids.tolist(), packed.positions.tolist(), packed.branches.tolist()
    ([7, 8, 1], [0, 1, 2], [0, 0, 1])
    >>> packed.sources.tolist(), packed.targets.tolist(), packed.owners.tolist()
    ([1, 2, 1], [1, 2, 3], [0, 0, 1])
    """
    token_ids: list[int] = []
    positions: list[int] = []
    segments: list[int] = []
    branches: list[int] = []
    sources: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    owner = 0
    for segment, group in enumerate(groups):
        start, length = len(token_ids), len(group.prompt)
        token_ids.extend(group.prompt)
        positions.extend(range(length))
        branches.extend([0] * length)
        for branch, completion in enumerate(group.completions, start=1):
            fed = max(len(completion) - 1, 0)
            here = len(token_ids)
            token_ids.extend(completion[:fed])
            positions.extend(range(length, length + fed))
            branches.extend([branch] * fed)
            if completion:
                sources.append(start + length - 1)
                sources.extend(range(here, here + fed))
                targets.extend(completion)
                owners.extend([owner] * len(completion))
            owner += 1
        segments.extend([segment] * (len(token_ids) - start))
    return Packed(
        *(np.asarray(x, np.int64) for x in (token_ids, positions, segments, branches, sources, targets, owners))
    )


def expand_audio(token_ids: Sequence[int], audio_token_id: int, audio_tokens: int) -> list[int]:
    """The prompt as the language model sees it: the placeholder repeated once for each audio position.

    >>> expand_audio([5, 9, 6], 9, 3)
    [5, 9, 9, 9, 6]
    """
    place = list(token_ids).index(audio_token_id)
    return [*token_ids[:place], *[audio_token_id] * audio_tokens, *token_ids[place + 1 :]]


def with_prompt_targets(packed: Packed, skipped_id: int) -> Packed:
    """Predict the prompts' own tokens too, except `skipped_id` (the audio placeholder); their owner is -1.

    >>> packed = with_prompt_targets(pack([Sequences([7, 0, 8], [[1]])]), skipped_id=0)
    >>> packed.sources.tolist(), packed.targets.tolist(), packed.owners.tolist()
    ([2, 1], [1, 8], [0, -1])
    """
    follows = (packed.segments[1:] == packed.segments[:-1]) & (packed.branches[1:] == 0)
    sources = np.flatnonzero(follows & (packed.token_ids[1:] != skipped_id))
    return replace(
        packed,
        sources=np.concatenate([packed.sources, sources]),
        targets=np.concatenate([packed.targets, packed.token_ids[sources + 1]]),
        owners=np.concatenate([packed.owners, np.full(len(sources), -1)]),
    )


def attention_allowed(packed: Packed, part: slice = slice(None)) -> NDArray[np.bool_]:
    """Which position (row) sees which (column), (T, T): its own group's prompt and its own completion, up to itself.

    `part` takes some positions alone, for example those of one group.
    """
    segments, branches = packed.segments[part], packed.branches[part]
    order = np.arange(len(segments))
    same_group = segments[:, None] == segments[None, :]
    in_prompt = branches[None, :] == 0
    same_branch = branches[:, None] == branches[None, :]
    not_later = order[:, None] >= order[None, :]
    allowed: NDArray[np.bool_] = same_group & (in_prompt | same_branch) & not_later
    return allowed


def plan_micro_batches(
    packed_tokens: Sequence[int], ranks: int, micro_batch_tokens: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Give every group to a rank and a micro-batch.

    Ranks are balanced by tokens (longest first to the least loaded), and every rank gets the same number of
    micro-batches, since sharded parameters are gathered in lockstep; a rank that lacks work gets empty ones.

    Args:
        packed_tokens: tokens of each group.
        ranks: learner ranks.
        micro_batch_tokens: budget of a micro-batch; a larger group stands alone.

    Returns:
        `plan[rank][micro_batch]` = indices of groups.

    >>> plan_micro_batches([5, 3, 4], ranks=2, micro_batch_tokens=6)
    (((0,), ()), ((2,), (1,)))
    """
    loads = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(packed_tokens)), key=lambda i: (-packed_tokens[i], i)):
        rank = min(range(ranks), key=lambda r: (loads[r], r))
        loads[rank] += packed_tokens[index]
        shares[rank].append(index)
    plans = [_fill(share, packed_tokens, micro_batch_tokens) for share in shares]
    count = max(len(plan) for plan in plans)
    return tuple(tuple(plan) + ((),) * (count - len(plan)) for plan in plans)


def _fill(share: Sequence[int], packed_tokens: Sequence[int], budget: int) -> list[tuple[int, ...]]:
    """First fit, longest first."""
    bins: list[tuple[int, list[int]]] = []
    for index in share:
        tokens = packed_tokens[index]
        for place, (used, members) in enumerate(bins):
            if used + tokens <= budget:
                bins[place] = (used + tokens, [*members, index])
                break
        else:
            bins.append((tokens, [index]))
    return [tuple(members) for _, members in bins]
