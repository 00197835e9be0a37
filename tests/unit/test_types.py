"""The values that travel."""

from __future__ import annotations

import pytest

from data.types import Clip, ClipSource, Completion, Example, Group, Prompt

PROMPT = Prompt("g", Example("e", ClipSource("e.wav"), "?", ("a", "b"), "a"), (1, 2), Clip("sha", 1.0, 3), seed=1)


def completion(*versions: int) -> Completion:
    count = len(versions)
    return Completion((1,) * count, "", (-1.0,) * count, versions, "stop")


@pytest.mark.parametrize(
    ("completions", "context_version", "oldest"),
    [
        ((completion(4, 4), completion(4, 5)), 4, 4),
        ((completion(5), completion(5, 5)), 4, 4),
        ((completion(5), completion(3, 4)), 5, 3),
        ((completion(), completion(6)), 6, 6),
        ((), 2, 2),
    ],
)
def test_a_group_is_as_old_as_its_oldest_token_or_its_embeddings(
    completions: tuple[Completion, ...], context_version: int, oldest: int
) -> None:
    assert Group(PROMPT, completions, context_version=context_version).oldest_version == oldest
