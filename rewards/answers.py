"""What a completion answers, and whether that is right: the definition behind the `accuracy` of evaluations.

The reward `accuracy` (rewards/accuracy.py) is stricter and follows the paper; this is what a reader would call right.
"""

from __future__ import annotations

import re

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def extract_answer(text: str) -> str:
    """The prediction: the text of the last `<answer>...</answer>`, or the whole completion without one."""
    answers = _ANSWER.findall(text)
    return str(answers[-1] if answers else text).strip()


def normalise(text: str) -> str:
    """One space between words, none around them, lower case."""
    return " ".join(text.split()).lower()


def is_correct(completion: str, answer: str) -> bool:
    """Whether the prediction of the completion equals the gold choice, white space and case aside."""
    return normalise(extract_answer(completion)) == normalise(answer)
