"""What a reward gives for a completion: a finite number, or nothing and the reason for that."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

Fault = Literal["raised", "timeout", "died", "invalid"]
"""What may go wrong with a reward; it drops every completion of the group."""

PROBLEM_CHARACTERS = 400
"""Of what a function gave or raised; it may be of any size."""

DETAIL_CHARACTERS = 200
"""Of what a function tells of a completion that it drops."""

_REASON = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Dropped:
    """In place of a number: the completion is dropped, and counted as `reward_REASON`. None counts as `reward_none`."""

    reason: str
    """A word of lower-case letters, digits and `_`; a few in all, since each is a label in the metrics."""
    detail: str = field(default="", compare=False)
    """What is behind it. Of the first such completion of a group it is told."""

    def __post_init__(self) -> None:
        if not _REASON.fullmatch(self.reason):
            raise ValueError(
                f"Dropped({self.reason!r}): a reason is a word of at most 40 lower-case letters, digits and _, for "
                "example unparseable"
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reward made of the completions of a group."""

    values: tuple[float | Dropped, ...]
    problem: str = ""
    """What went wrong; empty where nothing did."""
    seconds: float = 0.0
    """What it took, without the wait for its turn."""
    note: str = ""
    """What the user should hear of, though nothing went wrong."""

    @classmethod
    def failed(cls, fault: Fault, completions: int, problem: str) -> Outcome:
        """No completion has a value."""
        return cls((Dropped(fault),) * completions, problem)


class InvalidValues(ValueError):
    """A reward gave what is none."""


def listed(given: Any, completions: int) -> list[Any]:
    """What a reward gave, one by one; raises `InvalidValues` where it has no order of the completions."""
    if given is None or isinstance(given, str | bytes | Mapping | Set) or not hasattr(given, "__iter__"):
        shown = "None" if given is None else f"{shown_value(given)} ({type(given).__name__})"
        raise InvalidValues(f"gave {shown}; return a list of {completions} values, one for each completion")
    return list(given)


def checked(given: Any, completions: int) -> tuple[float | Dropped, ...]:
    """The values of a reward, each a finite number or a reason; raises `InvalidValues`."""
    values = listed(given, completions)
    if len(values) != completions:
        raise InvalidValues(f"gave {len(values)} values for {completions} completions")
    return tuple(_value(value) for value in values)


def _value(value: Any) -> float | Dropped:
    if value is None:
        return Dropped("none")
    if isinstance(value, Dropped):
        return value
    if not isinstance(value, str | bytes):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise InvalidValues(f"gave {shown_value(value)}; a reward is a finite number or None")


def shown_value(value: object) -> str:
    """How a value is written, as far as that can be shown and is not too long."""
    try:
        return cut(repr(value), PROBLEM_CHARACTERS)
    except Exception:  # noqa: BLE001 - it is a user's class that writes it
        return f"a {type(value).__name__} that cannot be shown"


def cut(text: str, characters: int) -> str:
    """The text, or its beginning and three dots."""
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
