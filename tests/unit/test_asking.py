"""What a prompt is made of: the choices in the order of their epoch, and where that order is the file's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.asking import EVALUATION, Asker, as_asked
from configs.schema import Config
from data.types import Clip, ClipSource, Example, Prompt

EXAMPLE = Example("e", ClipSource("e.wav"), "What is heard?", ("a", "b", "c", "d", "e", "f"), "b")
EPOCHS = range(6)


class Encoder:
    """Gives the choices' letters in place of token ids."""

    def encode(self, example: Example) -> tuple[int, ...]:
        return tuple(ord(choice) for choice in example.choices)


class Audio:
    """A clip without features."""

    async def prepare(self, source: ClipSource, silent: bool = False) -> Clip:
        return Clip("c", 1.0, 25)


def config(seed: int = 0, shuffle: bool = True) -> Config:
    data = {"train": "t", "shuffle_choices": shuffle}
    return Config.model_validate({"model": {"path": "m"}, "data": data, "run": {"seed": seed}})


def ask(settings: Config, epoch: int, issue: int = 0) -> Prompt:
    asker: Any = Asker(settings, Encoder(), Audio())  # type: ignore[arg-type]
    prompt: Prompt = asyncio.run(asker.prompt(EXAMPLE, "g", epoch, issue))
    return prompt


def test_a_prompt_and_its_example_have_the_choices_as_they_are_asked() -> None:
    for epoch in EPOCHS:
        prompt = ask(config(), epoch)
        assert "".join(map(chr, prompt.token_ids)) == "".join(prompt.example.choices)
        assert prompt.example == as_asked(config(), EXAMPLE, epoch)
        assert prompt.example.answer == "b"


def test_every_epoch_and_every_run_has_an_order_of_its_own_and_a_group_asked_again_the_same() -> None:
    orders = {ask(config(seed), epoch).example.choices for seed in range(2) for epoch in EPOCHS}
    assert len(orders) > 8
    assert ask(config(), 3, issue=2).example == ask(config(), 3).example


@pytest.mark.parametrize(("shuffle", "epoch"), [(True, EVALUATION), (False, 0), (False, 5)])
def test_evaluations_and_runs_that_do_not_shuffle_ask_in_the_order_of_the_file(shuffle: bool, epoch: int) -> None:
    assert ask(config(shuffle=shuffle), epoch).example == EXAMPLE
