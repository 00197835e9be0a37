"""The `nccl` transport between real learner ranks and engines, over gloo: who gets what, and who is left out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from cluster.placement import Node
from tests.integration import gloo
from tests.integration.live import Live, examples, live, live_config
from tests.integration.recordings import Questions
from tests.integration.test_weight_transfer import AGREEMENT, keep_digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a busy machine starts an engine in minutes

ENGINES, UPDATE_SECONDS, JOIN_SECONDS = 2, 8.0, 120.0


@pytest.fixture(scope="module")
def session(model: Any, questions: Questions, nodes: list[Node]) -> Iterator[Live]:
    config = live_config(
        *(model, questions),
        model={"audio_tower": "frozen", "projector": "frozen"},
        rollout={"engines": ENGINES, "weight_transfer": "nccl", "update_timeout_seconds": UPDATE_SECONDS},
        learner={"ranks": 2, "zero_stage": 3},
    )
    with live(config, nodes) as started:
        for engine in started.workers.rollout.actors.values():
            ray.get(engine.__ray_call__.remote(gloo.install))
        ray.get([rank.__ray_call__.remote(gloo.install_in_learner) for rank in started.workers.learner.actors])
        yield started


def on_engines(session: Live, function: Any) -> dict[str, Any]:
    """What a function of each vLLM engine gives, by name."""

    def call(actor: Any) -> Any:
        return actor._engine.call(function).result(30)

    actors = session.workers.rollout.actors
    return {name: ray.get(actor.__ray_call__.remote(call)) for name, actor in actors.items()}


def given(session: Live) -> dict[str, dict[str, str]]:
    """What each engine's model was given since `keep_digests`."""
    found = on_engines(session, lambda engine: engine.collective_rpc(lambda worker: worker.get_model().given))
    return {name: of_worker for name, [of_worker] in found.items()}


def ranks(session: Live) -> list[int]:
    """Where each engine stands in the group."""

    def rank(engine: Any) -> list[int]:
        return engine.collective_rpc(lambda worker: worker.weight_transfer_engine.model_update_group.rank)

    return sorted(rank for [rank] in on_engines(session, rank).values())


def wait_for_all(session: Live) -> None:
    """Wait until no engine is missing."""

    async def joined() -> None:
        async with asyncio.timeout(JOIN_SECONDS):
            while len(session.workers.rollout.actors) < ENGINES:
                await asyncio.sleep(0.1)

    session._run(joined())


def agree(session: Live, questions: Questions, epoch: int) -> bool:
    """Whether the engines sample from the learner's policy; takes a step from what they sampled."""
    groups = session.sample(session.prompts(examples(questions), epoch))
    assert {group.engine for group in groups} == set(session.workers.rollout.actors)
    assert all(group.is_of(session.version) for group in groups)
    difference = session.train(groups).logprob_difference_max
    return difference is not None and difference < AGREEMENT


def test_every_engine_gets_the_same_from_one_broadcast_and_is_the_learners_policy(
    session: Live, questions: Questions
) -> None:
    on_engines(session, lambda engine: engine.collective_rpc(keep_digests))
    for epoch in range(2):
        session.train(session.sample(session.prompts(examples(questions), epoch)))
        session.send_weights()
    first, second = given(session).values()
    assert first == second
    assert len(first) > 20
    assert ranks(session) == [1, 2]
    assert agree(session, questions, epoch=2)


@pytest.mark.long
def test_an_engine_that_is_late_is_replaced_by_one_that_is_in_the_next_broadcast_and_the_others_go_on(
    session: Live, questions: Questions, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = session.workers.rollout
    pid = ray.get(pool.actors["engine-0"].__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGSTOP)
    session.send_weights()
    assert list(pool.actors) == ["engine-1"]
    assert pool.version == session.version
    told = capsys.readouterr().out
    assert f"engine-0 has not finished 'prepare' of version {session.version} within {UPDATE_SECONDS:g} s" in told
    assert ranks(session) == [1]
    assert agree(session, questions, epoch=3)

    wait_for_all(session)
    assert pool.reports["engine-0"].version == session.version
    sampled = session.sample(session.prompts(examples(questions), epoch=4))
    joiners = [group for group in sampled if group.engine == "engine-0"]
    assert joiners
    assert all(group.is_of(session.version) for group in joiners)
    differences = session._run(session.workers.learner.differences([ray.put(group) for group in joiners]))
    assert max(differences) < AGREEMENT
    ray.get(pool.actors["engine-0"].__ray_call__.remote(gloo.install))
    session.send_weights()
    assert ranks(session) == [1, 2]
    assert agree(session, questions, epoch=5)


def test_a_broadcast_in_which_an_engine_dies_ends_and_all_that_depended_on_it_are_replaced(
    session: Live, questions: Questions, capsys: pytest.CaptureFixture[str]
) -> None:
    session.train(session.sample(session.prompts(examples(questions), epoch=6)))
    pool = session.workers.rollout
    ray.get(pool.actors["engine-1"].__ray_call__.remote(gloo.die_in_broadcast))
    session.send_weights()  # the learner's ranks have gathered every weight, and nobody waits for the group
    told = capsys.readouterr().out
    assert "engine-1 is lost" in told
    assert f"engine-0 is stuck in the broadcast of version {session.version}" in told
    assert not pool.actors
    wait_for_all(session)
    assert pool.version == session.version
    assert agree(session, questions, epoch=7)
