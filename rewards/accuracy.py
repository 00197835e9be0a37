"""The accuracy reward of R1-AQA (arXiv 2503.11197): math-verify first, then the exact text of the first answer.

The gold choice is read as `<answer>{choice}</answer>`, as the paper's data has it. Most choices hold nothing that
math-verify takes for mathematics; then no completion can be verified and none is parsed. Where it does find a number
("the 3 dogs"), another choice with the same number also counts as right, in the paper and here; `args: {math: false}`
compares text alone.
"""

from __future__ import annotations

import re
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.types import Example

_FIRST_ANSWER = re.compile(r"<answer>(.*?)</answer>")
"""The dot stops at a newline, as in the paper: an answer broken over lines is not found."""

MATH_TIMEOUT_SECONDS = 2
"""Limit of one parse or comparison in the main thread; `9^9^9^9` would take for ever. It rests on SIGALRM, so other
threads have none: a reward's process calls it in its main thread (rewards/worker.py)."""

BUDGET_SECONDS = 10.0
"""Of a group. Completions that are left when it is spent are compared as text alone, and the group is not lost."""


def accuracy(completions: list[str], example: Example, *, math: bool = True) -> list[float | None]:
    """1 for a completion that gives the gold choice, else 0."""
    gold = f"<answer>{example.answer}</answer>"
    mathematical = math and bool(_expressions(gold))
    until = time.monotonic() + BUDGET_SECONDS
    return [
        1.0
        if _first_answer(text) == _first_answer(gold)
        or (mathematical and time.monotonic() < until and _verified(text, gold))
        else 0.0
        for text in completions
    ]


def _first_answer(text: str) -> str:
    found = _FIRST_ANSWER.search(text)
    return (found.group(1) if found else text).strip()


@lru_cache(maxsize=4096)
def _verified(completion: str, gold: str) -> bool:
    """Whether math-verify finds the completion equal to the gold; the completion is its first argument in R1-AQA."""
    from math_verify import verify

    found = _parse(completion)
    return bool(verify(found, list(_expressions(gold)), timeout_seconds=_timeout_seconds()))


@lru_cache(maxsize=1024)
def _expressions(gold: str) -> tuple[object, ...]:
    return tuple(_parse(gold))


def _parse(text: str) -> list[object]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=_timeout_seconds()))


def _timeout_seconds() -> int | None:
    return MATH_TIMEOUT_SECONDS if threading.current_thread() is threading.main_thread() else None
