"""Examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
ROOMS = ("configs", "data", "rewards", "learner", "actors", "cluster", "bench")
MODULES = sorted(
    ".".join(path.relative_to(HOME).with_suffix("").parts)
    for room in ROOMS
    for path in (HOME / room).rglob("*.py")
    if ">>> " in path.read_text()
)


def test_there_are_examples() -> None:
    assert len(MODULES) > 5


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
