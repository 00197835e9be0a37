"""What questions have in common: task, difficulty, sub-category, and the recording that they are about. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

GROUPS = {"by_task": "task", "by_difficulty": "difficulty", "by_sub_category": "sub-category"}
"""Where figures by group stand in a result, and the key of a row that makes the groups."""

RECORDING = ("recording", "audio_id", "audio", "id")
"""Where a row names what it is about: the first that is there counts."""

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


def recording_of(row: Mapping[str, Any], otherwise: str) -> str:
    """What a row is about: intervals resample this."""
    return str(next((row[key] for key in RECORDING if row.get(key)), otherwise))
