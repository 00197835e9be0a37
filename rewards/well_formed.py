"""A format reward without the loopholes of the paper's: one answer that holds something, and `<think>` and `<answer>`
nowhere else. Other tags are text.

`format` is 1 for two answers in a row, of which `accuracy` takes the first, and 0 for a newline at the end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import Form
    from data.types import Example

_INSIDE = r"((?:(?!</?(?:think|answer)>).)*)"
_FORMS = {
    "answer": re.compile(rf"\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL),
    "think": re.compile(rf"\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL),
}


def well_formed(completions: list[str], example: Example, *, form: Form = "answer") -> list[float | None]:
    """1 for a completion that is one `<answer>`, with `think` after one `<think>`, each with text in it; else 0.

    White space around the tags does not matter. A run gives its `data.prompt.form` as `form`.
    """
    if form not in _FORMS:
        raise ValueError(f"args.form is {form!r}; use one of {', '.join(_FORMS)}")
    return [float(_is_well_formed(text, form)) for text in completions]


def _is_well_formed(text: str, form: Form) -> bool:
    found = _FORMS[form].fullmatch(text)
    return found is not None and all(part.strip() for part in found.groups())
