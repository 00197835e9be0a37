"""Figures of the questions that are alike: of one task, one difficulty, one sub-category. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

GROUPS = {"by_task": "task", "by_difficulty": "difficulty", "by_sub_category": "sub-category"}
"""Where figures by group stand in a result, and the key of a row that makes the groups."""

Item = TypeVar("Item")


def by_group(
    items: Sequence[Item],
    text: Callable[[Item, str], str | None],
    figures: Callable[[list[Item]], dict[str, Any]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of each group, by where they stand and by name.

    Args:
        items: questions.
        text: what an item has under a key of `GROUPS`; those that have None are in no group.
        figures: of the items of a group.
    """
    result = {}
    for place, key in GROUPS.items():
        members: dict[str, list[Item]] = {}
        for item in items:
            if (name := text(item, key)) is not None:
                members.setdefault(name, []).append(item)
        result[place] = {name: figures(members[name]) for name in sorted(members)}
    return result
