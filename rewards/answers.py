"""What a completion answers, and whether that is right: the definition behind the `accuracy` of evaluations, and the
reward `answer`.

The reward `accuracy` (rewards/accuracy.py) follows the paper; this is what a reader would call right.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.types import Example

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_THOUGHTS = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def answer(completions: list[str], example: Example) -> list[float | None]:
    """1 for a completion whose prediction is the gold choice, white space and case aside, else 0."""
    return [float(is_correct(text, example.answer)) for text in completions]


def extract_answer(text: str) -> str:
    """The prediction: the text of the last `<answer>...</answer>`, or the whole completion without one."""
    answers = _ANSWER.findall(text)
    return str(answers[-1] if answers else text).strip()


def extract_thoughts(text: str) -> str:
    """The text of the first `<think>...</think>`, or without one what stands before the last answer."""
    thoughts = _THOUGHTS.search(text)
    if thoughts is not None:
        return thoughts.group(1).strip()
    *_, last = [None, *_ANSWER.finditer(text)]
    return "" if last is None else text[: last.start()].strip()


def normalise(text: str) -> str:
    """One space between words, none around them, lower case."""
    return " ".join(text.split()).lower()


def is_correct(completion: str, answer: str) -> bool:
    """Whether the prediction of the completion equals the gold choice, white space and case aside."""
    return normalise(extract_answer(completion)) == normalise(answer)
