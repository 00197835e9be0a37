"""The format reward of R1-AQA: whether a completion is nothing but the tags that the prompt asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import Form
    from data.types import Example

_FORMS = {
    "answer": re.compile(r"<answer>.*?</answer>", re.DOTALL),
    "think": re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL),
}


def format_reward(completions: list[str], example: Example, *, form: Form = "answer") -> list[float | None]:
    """1 for a completion of the form, else 0; a run gives its `data.prompt.form` as `form`.

    The whole completion must match, with no white space around it. A second answer inside does not matter (R1-AQA).
    """
    if form not in _FORMS:
        raise ValueError(f"args.form is {form!r}; use one of {', '.join(_FORMS)}")
    return [1.0 if _FORMS[form].fullmatch(text) else 0.0 for text in completions]


def think_format(completions: list[str], example: Example) -> list[float | None]:
    """`format_reward` for thoughts and then the answer, whatever the prompt asked for."""
    return format_reward(completions, example, form="think")
