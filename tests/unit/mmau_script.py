"""MMAU's rule and its script's loop, told from their published text in other words (arXiv 2410.19168, section 4).

A prediction is right that has all words of the answer and none that a wrong choice has and the answer has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def words(text: str) -> list[str]:
    """The unbroken runs of letters, digits and underscores, in small letters."""
    spaced = "".join(sign if sign.isalnum() or sign == "_" else " " for sign in text.lower())
    return [word for word in spaced.split(" ") if word]


def is_right(prediction: str, answer: str, choices: Iterable[str]) -> bool:
    """Whether a prediction is right."""
    if not words(prediction):
        return False
    for word in words(answer):
        if word not in words(prediction):
            return False
    for choice in choices:
        if any(word in words(prediction) and word not in words(answer) for word in words(choice)):
            return False
    return True


def counted(rows: Iterable[Mapping[str, Any]], key: str = "model_output") -> list[bool]:
    """What the script makes of each row that it does not pass over for want of the key."""
    return [is_right(row[key], row["answer"], row["choices"]) for row in rows if key in row]
