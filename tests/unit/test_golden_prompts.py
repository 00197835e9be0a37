"""Prompts in the token ids of the real Qwen2-Audio: `tests/golden`, made without `data.prompts`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import Qwen2AudioProcessor, Qwen2Tokenizer

from configs.schema import Prompt
from data.prompts import PromptEncoder, render_question
from data.types import ClipSource, Example
from tests.golden.rebuild import HERE, PUBLISHED, SPECIAL, load

CASES: list[dict[str, Any]] = json.loads((HERE / "prompts.json").read_text())
RELEASED = (HERE / "chat_template.jinja").read_text()
TEMPLATES = {
    "released": RELEASED,
    "transformers": Qwen2AudioProcessor.default_chat_template.fget(None),  # type: ignore[attr-defined]
}


@pytest.fixture(scope="module")
def tokenizer() -> Qwen2Tokenizer:
    return load(json.loads((HERE / "tokenizer.json").read_text()))


def example(case: dict[str, Any]) -> Example:
    choices = tuple(case["choices"])
    return Example("1", ClipSource("a.wav"), case["question"], choices, choices[0] if choices else "")


def wording(case: dict[str, Any]) -> Prompt:
    return Prompt.model_validate(case["prompt"])


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_users_text_is_word_by_word_what_is_written_out(case: dict[str, Any]) -> None:
    assert render_question(example(case), wording(case)) == case["text"]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_a_prompt_has_the_token_ids_of_the_real_model(
    tokenizer: Qwen2Tokenizer, case: dict[str, Any], template: str
) -> None:
    assert list(PromptEncoder(tokenizer, template, wording(case)).encode(example(case))) == case["ids"]


def test_a_question_alone_has_the_ids_that_transformers_publishes(tokenizer: Qwen2Tokenizer) -> None:
    alone = Prompt(text="{question}", form="answer")
    asked = Example("1", ClipSource("a.wav"), "What's that sound?", (), "")
    assert list(PromptEncoder(tokenizer, RELEASED, alone).encode(asked)) == PUBLISHED


def test_the_placeholder_and_the_end_of_the_turn_have_their_real_ids(tokenizer: Qwen2Tokenizer) -> None:
    encoder = PromptEncoder(tokenizer, RELEASED, "answer")
    assert (encoder.audio_token_id, encoder.eos_token_id) == (SPECIAL["<|AUDIO|>"], SPECIAL["<|im_end|>"])
