"""Engine and learner are one policy: before and after an update, for every clip, whichever way the audio goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from cluster.placement import Node
from configs.schema import Config
from data.types import ClipSource, Example
from tests.integration.live import Live, live
from tests.integration.recordings import Questions

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

AGREEMENT = 1e-4
"""Largest difference of a log-prob between engine and learner in float32."""
VISIBLE = 1e-2
"""Least difference that old weights, old keys or another's clip would make."""
LONG_QUESTION = "Which of these is heard first, and which of these is heard last? " * 8

PATHS = {
    "a frozen tower and projector": {"model": {"audio_tower": "frozen", "projector": "frozen"}},
    "a frozen tower and a trained projector": {"model": {"audio_tower": "frozen", "projector": "trained"}},
    "a frozen tower and the engine's own": {
        "model": {"audio_tower": "frozen", "projector": "frozen"},
        "rollout": {"audio": "waveform"},
    },
    "a trained tower": {"model": {"audio_tower": "trained", "projector": "trained"}},
}
"""How the audio gets from the clip into engine and learner."""


def configured(path: str, model: Path, questions: Questions) -> Config:
    return Config.model_validate(
        {
            "model": {"path": str(model), **PATHS[path]["model"]},
            "data": {"train": str(questions.train), "max_seconds": 1.0},  # all clips alike in length
            "rollout": {"max_model_tokens": 1024, "max_completion_tokens": 16, **PATHS[path].get("rollout", {})},
            "learner": {
                "learning_rate": 0.02,
                "schedule": "constant",
                "max_grad_norm": 1e9,
                "micro_batch_tokens": 600,
                "threads": 1,
            },
            "algorithm": {"beta": 0.0, "group_size": 4, "prompts_per_step": 6},
        }
    )


@pytest.fixture(scope="module", params=PATHS)
def session(request: pytest.FixtureRequest, model: Path, questions: Questions, nodes: list[Node]) -> Iterator[Live]:
    with live(configured(request.param, model, questions), nodes) as started:
        yield started


only_the_demo_path = pytest.mark.parametrize("session", ["a frozen tower and projector"], indirect=True)


def examples(questions: Questions, question: str, count: int = 6) -> list[Example]:
    """One question about several recordings."""
    return [
        Example(row["id"], ClipSource(str(questions.folder / row["audio"])), question, ("a dog", "a cat"), "a cat")
        for row in questions.rows()[:count]
    ]


def test_every_token_has_the_same_log_prob_in_engine_and_learner_and_another_clip_would_show(
    session: Live, questions: Questions
) -> None:
    groups = session.sample(session.prompts(examples(questions, "Which animal is heard?")))
    assert len({group.prompt.expanded_tokens for group in groups}) == 1
    assert session.train(groups).logprob_difference_max < AGREEMENT
    session.send_weights()

    groups = session.sample(session.prompts(examples(questions, "Which animal is heard?"), epoch=1))
    clips = [group.prompt.clip for group in groups]
    swapped = [
        dataclasses.replace(group, prompt=dataclasses.replace(group.prompt, clip=clip))
        for group, clip in zip(groups, [*clips[1:], clips[0]], strict=True)
    ]
    assert session.train(swapped).logprob_difference_max > VISIBLE
    session.send_weights()


def test_after_an_update_a_repeated_prompt_is_sampled_from_the_learners_new_policy(
    session: Live, questions: Questions
) -> None:
    asked = examples(questions, LONG_QUESTION, count=2)
    prompts = session.prompts(asked, epoch=2)
    block_tokens, caching = session.in_engine(
        lambda engine: (
            engine.vllm_config.cache_config.block_size,
            engine.vllm_config.cache_config.enable_prefix_caching,
        )
    )
    assert caching
    assert min(prompt.expanded_tokens for prompt in prompts) > 3 * block_tokens
    before = session.version
    old = session.sample(prompts)
    assert {version for group in old for one in group.completions for version in one.versions} == {before}
    assert session.train(old).logprob_difference_max < AGREEMENT
    session.send_weights()

    new = session.sample(session.prompts(asked, epoch=3))
    assert {version for group in new for one in group.completions for version in one.versions} == {before + 1}
    assert session.train(new).logprob_difference_max < AGREEMENT
    assert session.train(old).logprob_difference_max > VISIBLE
    session.send_weights()


@only_the_demo_path
def test_no_two_completions_of_a_step_share_a_random_stream(session: Live, questions: Questions) -> None:
    [same] = examples(questions, "Which animal is heard?", count=1)
    asked = [dataclasses.replace(same, id=f"copy-{number}") for number in range(4)]
    prompts = session.prompts(asked, epoch=0) + session.prompts(asked, epoch=1)
    groups = session.sample(prompts, completions=8)
    sampled = [completion.token_ids for group in groups for completion in group.completions]
    long = [token_ids for token_ids in sampled if len(token_ids) >= 4]  # shorter ones may be equal by chance
    assert len(long) > 0.8 * len(sampled)
    assert all(first != second for first, second in combinations(long, 2))


@only_the_demo_path
def test_the_same_draw_of_the_same_run_is_sampled_again_token_by_token(session: Live, questions: Questions) -> None:
    asked = examples(questions, "Which animal is heard?", count=2)
    first = session.sample(session.prompts(asked, epoch=5))
    again = session.sample(session.prompts(asked, epoch=5))
    other = session.sample(session.prompts(asked, epoch=6))
    for one, same, different in zip(first, again, other, strict=True):
        assert [c.token_ids for c in one.completions] == [c.token_ids for c in same.completions]
        assert [c.token_ids for c in one.completions] != [c.token_ids for c in different.completions]
