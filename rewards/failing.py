"""Rewards that fail every group: a run should not sample an epoch for them. Pure."""

from __future__ import annotations

from collections.abc import Collection

FIRST_GROUPS = 16
"""A reward is not given up before so many groups, or two steps of them."""


class Failing:
    """Notes which rewards failed each of the first groups of a run; one that has not, once, is trusted from then on.

    Args:
        prompts_per_step: of the run.
    """

    def __init__(self, prompts_per_step: int) -> None:
        self.first_groups = max(FIRST_GROUPS, 2 * prompts_per_step)
        self._groups = 0
        self._always: frozenset[str] = frozenset()

    def note(self, faulted: Collection[str]) -> str | None:
        """Note a group by the rewards that failed it; gives one that failed all of the first groups."""
        if self._groups >= self.first_groups:
            return None
        self._always = frozenset(faulted) if self._groups == 0 else self._always.intersection(faulted)
        self._groups += 1
        return min(self._always, default=None) if self._groups == self.first_groups else None
