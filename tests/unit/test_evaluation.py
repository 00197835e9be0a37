"""How the questions of an evaluation reach the engines: how many at a time, and about which clips."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cluster.asking import Unusable
from cluster.errors import UsageError
from cluster.evaluation.evaluation import QUESTIONS_AT_ONCE, ask_about_other_clips, ask_all
from cluster.evaluation.scoring import Answered
from configs.schema import Config
from data.types import Clip, ClipSource, Completion, Example, Group, Prompt, Sampling

ABSENT = "absent.wav"
TOO_LONG = "Which of all these?"


class Audio:
    """Clips that are known by their path; one is not there."""

    async def prepare(self, source: ClipSource, silent: bool = False) -> Clip | str:
        return "clip_missing: there is no such file" if source.path == ABSENT else Clip(source.path, 1.0, 25)


class Asker:
    """Makes prompts without a tokenizer."""

    def __init__(self, seed: int = 0) -> None:
        self.audio = Audio()
        self.config = Config.model_validate({"run": {"seed": seed}, "model": {"path": ""}, "data": {"train": ""}})

    async def prompt(self, example: Example, group_id: str, epoch: int, silent: bool = False) -> Prompt | Unusable:
        clip = await self.audio.prepare(example.clip, silent)
        if example.question == TOO_LONG:
            return Unusable("prompt_too_long", "")
        return Unusable("clip_missing", "") if isinstance(clip, str) else Prompt(group_id, example, (1,), clip, 0)


class Engines:
    """Engines that say which clip they heard."""

    def __init__(self, count: int = 1) -> None:
        self.actors = dict.fromkeys(map(str, range(count)))
        self.sampling = self.most = 0

    async def sample(self, prompt: Prompt, sampling: Sampling) -> Group:
        self.sampling += 1
        self.most = max(self.most, self.sampling)
        await asyncio.sleep(0)
        self.sampling -= 1
        completion = Completion((1,), f"heard {prompt.clip.sha256}", (0.0,), (0,), "stop")
        return Group(prompt, (completion,) * sampling.completions)


def questions(*clips: str) -> list[Example]:
    return [
        Example(f"q{number}", ClipSource(clip), "What is heard?", ("a", "b"), "a") for number, clip in enumerate(clips)
    ]


def about_other_clips(examples: Sequence[Example], seed: int = 0) -> list[Answered]:
    asker: Any = Asker(seed)
    engines: Any = Engines()
    return asyncio.run(ask_about_other_clips(asker, engines, examples, 2))


def test_each_question_is_asked_about_another_recording_and_counts_as_about_its_own() -> None:
    examples = questions("a", "a", "b", "c", "c", "d")
    answers = about_other_clips(examples)
    assert [answer.recording for answer in answers] == ["a", "a", "b", "c", "c", "d"]
    assert sorted(answer.heard for answer in answers) == ["a", "a", "b", "c", "c", "d"]
    for answer in answers:
        assert answer.heard != answer.recording
        assert answer.greedy == f"heard {answer.heard}"
        assert answer.sampled == (answer.greedy,) * 2
    assert [answer.row()["heard"] for answer in answers] == [answer.heard for answer in answers]
    assert answers == about_other_clips(examples)


def test_a_question_whose_own_clip_is_missing_is_not_answered_and_gives_no_clip_away() -> None:
    answers = about_other_clips(questions("a", ABSENT, "b", "c"))
    assert [answer.problem for answer in answers] == ["", "clip_missing", "", ""]
    assert {answer.heard for answer in answers} == {"a", "b", "c", ""}


def test_a_question_that_cannot_be_asked_with_the_other_clip_is_about_its_own_still() -> None:
    [first, *others] = questions("a", "b", "c")
    answers = about_other_clips([replace(first, question=TOO_LONG), *others])
    assert [(answer.recording, answer.problem) for answer in answers] == [
        ("a", "prompt_too_long"),
        ("b", ""),
        ("c", ""),
    ]
    assert answers[0].heard == ""


def test_too_many_questions_about_one_recording_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--shuffled: 3 of 5 questions are about one recording, a: more than half"):
        about_other_clips(questions("a", "a", "a", "b", "c"))


@pytest.mark.heavy
@pytest.mark.parametrize("engines", [1, 3])
def test_every_engine_is_kept_busy(engines: int) -> None:
    asker: Any = Asker()
    pool: Any = Engines(engines)
    asyncio.run(ask_all(asker, pool, questions(*map(str, range(500))), 0))
    assert pool.most == QUESTIONS_AT_ONCE * engines
