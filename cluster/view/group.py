"""One group of the rollout log as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.outputs import finite
from cluster.view.tokens import Tokens
from data.types import SILENCE
from rewards.answers import is_correct

QUESTION = (
    "group_id", "step", "example_id", "audio_sha256", "audio_seconds", "question", "choices", "answer", "task",
    "sub_category", "difficulty", "source", "engine", "drop_reason",
)  # fmt: skip
COLUMNS = {
    "text": "completions",
    "token_ids": "token_ids",
    "logprobs": "logprobs",
    "learner_logprobs": "learner_logprobs",
    "versions": "versions",
    "total": "total",
    "advantage": "advantages",
    "finish_reason": "finish_reasons",
}
"""What is told of a completion, and the column of the log that holds it for all."""


def as_shown(row: Mapping[str, Any], tokens: Tokens) -> dict[str, Any]:
    """The question, the prompt as text, and a value for each completion."""
    texts = row.get("completions") or []
    rewards = dict(row.get("rewards") or [])
    completions = []
    for number, text in enumerate(texts):
        one = {name: (row.get(column) or [None] * len(texts))[number] for name, column in COLUMNS.items()}
        completions.append(
            one
            | {
                "tokens": tokens.texts(one["token_ids"] or []),
                "correct": is_correct(text, str(row["answer"])),
                "rewards": {name: values[number] for name, values in rewards.items()},
            }
        )
    prompt = row.get("prompt_token_ids")
    told = {name: row.get(name) for name in QUESTION} | {"silent": (row.get("audio_sha256") or "").startswith(SILENCE)}
    return finite(told | {"prompt": tokens.text(prompt) if prompt else None, "completions": completions})  # type: ignore[no-any-return]
