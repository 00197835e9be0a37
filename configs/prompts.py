"""The prompts that come with Auricle: what `data.prompt` names."""

from __future__ import annotations

from collections.abc import Mapping

_OPTIONS = "{question} Please choose the answer from the following options: {choices}. "

PROMPTS: Mapping[str, Mapping[str, str]] = {
    "answer": {
        "text": _OPTIONS + "Output the final answer in <answer> </answer>.",
        "choices": "list",
        "form": "answer",
    },
    "think": {
        "text": _OPTIONS + "Output the thinking process in <think> </think> and final answer in <answer> </answer>.",
        "choices": "list",
        "form": "think",
    },
    "letters": {
        "text": _OPTIONS + "Output the text of the right option, without its letter, in <answer> </answer>.",
        "choices": "letters",
        "form": "answer",
    },
}
"""`answer` and `think` are R1-AQA's (arXiv 2503.11197), byte for byte; there the choices stand as Python prints a list.
`letters` has them as MMAU's prompts do, and asks for the text all the same: an answer has one form to be scored by."""
