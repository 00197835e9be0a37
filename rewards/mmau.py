"""The rule by which MMAU counts a prediction as right (arXiv 2410.19168, its `evaluation.py`); the reward `mmau`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards.answers import extract_answer

if TYPE_CHECKING:
    from data.types import Example


def mmau(completions: list[str], example: Example) -> list[float | None]:
    """1 for a completion whose prediction MMAU's rule takes, else 0."""
    return [float(mmau_correct(extract_answer(text), example.answer, example.choices)) for text in completions]


def mmau_correct(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    """Whether the prediction has every word of the answer and no word that only wrong choices have.

    Words are runs of word characters, in lower case, each counted once. A prediction without a word is wrong.
    """
    predicted, right = _words(prediction), _words(answer)
    wrong = {word for choice in choices for word in _words(choice)} - right
    return bool(predicted) and right <= predicted and not predicted & wrong


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))
