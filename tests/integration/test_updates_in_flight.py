"""New weights arrive while completions are being sampled: what they are sampled from, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.weights.buckets import Bucket, Layout
from cluster.placement import Node
from data.types import Completion, Group, Prompt, Sampling
from tests.integration.live import SECONDS, Live, arrived, examples, live, live_config, rising
from tests.integration.recordings import Questions

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

AGREEMENT = 1e-4
"""Largest difference of a log-prob between engine and learner in float32."""
VISIBLE = 1e-2
"""Least difference that old keys and values make."""
TOKENS = 40
BEFORE = 12
"""Tokens that a completion has at least when the weights arrive."""


@pytest.fixture(scope="module")
def session(model: Path, questions: Questions, nodes: list[Node]) -> Iterator[Live]:
    config = live_config(
        *(model, questions),
        model={"audio_tower": "frozen", "projector": "frozen"},
        rollout={"max_completion_tokens": TOKENS, "ignore_stop": True},
        algorithm={"max_staleness": 2},
    )
    with live(config, nodes) as started:
        yield started


def sampled_over_an_update(session: Live, prompts: Sequence[Prompt], on_update: str) -> list[Group]:
    """Ask, and load what the learner has as soon as all completions have `BEFORE` tokens."""
    sampling = Sampling(4, session.config.rollout.temperature, TOKENS, ignore_stop=True)

    def ask(
        actor: Any, prompts: Sequence[Prompt], published: tuple[int, Layout, list[Bucket]], on_update: str
    ) -> list[Group]:
        thread = actor._engine
        thread._on_update = on_update
        features = ray.get([prompt.clip.features for prompt in prompts])
        loads = []

        def watch(engine: Any) -> None:
            step = engine.step

            def watched() -> Any:
                outputs = step()
                running = engine.engine_core.engine_core.scheduler.running
                begun = len(running) == 4 * len(prompts) and all(one.num_output_tokens >= BEFORE for one in running)
                if begun and not loads:
                    loads.append(thread.load(arrived(*published)))
                return outputs

            engine.step = watched

        thread.call(watch)
        asked = [thread.generate(*pair, sampling) for pair in zip(prompts, features, strict=True)]
        groups = [future.result(SECONDS) for future in asked]
        thread.call(lambda engine: delattr(engine, "step")).result(SECONDS)
        loads[0].result(SECONDS)
        return groups

    [actor] = session.workers.rollout.actors.values()
    sampled = actor.__ray_call__.remote(ask, list(prompts), session.published(), on_update)
    return [rising(group) for group in ray.get(sampled)]


def in_learner(session: Live, groups: Sequence[Group]) -> list[list[float]]:
    """The log-probs that the learner gives to every completion, by completion."""

    def score(learner: Any) -> list[list[float]]:
        return [row for group in groups for row in learner.logprobs(group, ray.get(group.prompt.clip.features))]

    return session.in_learner(score)


def differences(
    session: Live, groups: Sequence[Group], version: int, of: Sequence[list[float]] | None = None
) -> list[float]:
    """|engine - learner| of every token that the version sampled."""
    learner = of or in_learner(session, groups)
    return [
        abs(engine - own)
        for completion, logprobs in zip(completions_of(groups), learner, strict=True)
        for engine, own, sampled_by in zip(completion.logprobs, logprobs, completion.versions, strict=True)
        if sampled_by == version
    ]


def trained_between(session: Live, questions: Questions, epoch: int) -> None:
    """Take a step whose weights the engine does not have yet."""
    session.train(session.sample(session.prompts(examples(questions), epoch)))


def completions_of(groups: Sequence[Group]) -> list[Completion]:
    return [completion for group in groups for completion in group.completions]


def mixed(completion: Completion, old: int, new: int) -> bool:
    """Whether a completion was begun by one version and ended by the other."""
    switch = completion.versions.count(old)
    return BEFORE <= switch < TOKENS and completion.versions == (old,) * switch + (new,) * (TOKENS - switch)


@pytest.mark.parametrize("on_update", ["recompute", "keep_kv"])
def test_running_completions_go_on_under_the_new_version(session: Live, questions: Questions, on_update: str) -> None:
    epoch = {"recompute": 10, "keep_kv": 20}[on_update]
    trained_between(session, questions, epoch)
    old, new = session.version - 1, session.version
    prompts = session.prompts(examples(questions), epoch + 1)
    alone = session.sample(prompts, completions=4, max_tokens=TOKENS)
    groups = sampled_over_an_update(session, prompts, on_update)

    pairs = list(
        zip([c for g in alone for c in g.completions], [c for g in groups for c in g.completions], strict=True)
    )
    for before, after in pairs:
        assert mixed(after, old, new)
        begun = min(after.versions.count(old), len(before.token_ids))
        assert after.token_ids[:begun] == before.token_ids[:begun]  # sampled by the old version as without an update
        assert after.logprobs[:begun] == pytest.approx(before.logprobs[:begun], abs=1e-5)
    assert any(before.token_ids != after.token_ids[: len(before.token_ids)] for before, after in pairs)

    context = {group.context_version for group in groups}
    after_the_update = differences(session, groups, new)
    if on_update == "recompute":
        assert max(after_the_update) < AGREEMENT  # all keys and values are the new version's
        assert context == {new}  # nothing older is left but the first tokens
    else:
        assert max(after_the_update) > VISIBLE  # they are the old version's
        assert context == {old}
    assert {group.oldest_version for group in groups} == {old}
    assert not any(group.is_of(version) for group in groups for version in (old, new))


@pytest.mark.parametrize("on_update", ["recompute", "keep_kv"])
def test_after_an_update_in_flight_a_repeated_prompt_meets_no_old_key(
    session: Live, questions: Questions, on_update: str
) -> None:
    epoch = {"recompute": 30, "keep_kv": 40}[on_update]
    asked = [dataclasses.replace(one, question="What is heard first, and what is heard last? " * 8)
             for one in examples(questions)]  # fmt: skip
    trained_between(session, questions, epoch)
    sampled_over_an_update(session, session.prompts(asked, epoch + 1), on_update)
    again = session.sample(session.prompts(asked, epoch + 2))
    assert all(group.is_of(session.version) for group in again)
    assert max(differences(session, again, session.version)) < AGREEMENT


def test_draining_engines_sample_to_the_end_first(session: Live, questions: Questions) -> None:
    trained_between(session, questions, epoch=50)
    groups = sampled_over_an_update(session, session.prompts(examples(questions), epoch=51), "drain")
    assert all(group.is_of(session.version - 1) for group in groups)
    fresh = session.sample(session.prompts(examples(questions), epoch=52))
    assert all(group.is_of(session.version) for group in fresh)
    assert max(differences(session, fresh, session.version)) < AGREEMENT
