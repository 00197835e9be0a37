"""DAPO's soft overlong punishment (arXiv 2503.14476): what a completion loses that comes near the token limit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from configs.algorithms import OVERLONG
from rewards.length import penalty

if TYPE_CHECKING:
    from data.types import Group


def overlong(tokens: int, most_tokens: int, share: float) -> float:
    """0 outside of the last `share` of the limit, then falling linearly to -1 at the limit.

    >>> overlong(75, 100, 0.2), overlong(90, 100, 0.2), overlong(100, 100, 0.2)
    (0.0, -0.5, -1.0)
    """
    margin = share * most_tokens
    return penalty(tokens - (most_tokens - margin), margin) if margin else 0.0


def shaped(group: Group, most_tokens: int, share: float) -> Group:
    """The scored group with the punishment among its rewards and in its totals; as it is where `share` is 0."""
    if not share:
        return group
    values = tuple(overlong(len(completion.token_ids), most_tokens, share) for completion in group.completions)
    total = tuple(None if total is None else total + value for total, value in zip(group.total, values, strict=True))
    return dataclasses.replace(group, rewards={**group.rewards, OVERLONG: values}, total=total)
