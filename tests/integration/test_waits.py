"""No wait on an actor is without a limit, and none of them swallows Ctrl-C."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from actors.report import EngineReport
from actors.reward import RewardActor
from cluster.clips import AudioPool
from cluster.placement import Node, plan
from cluster.rollout_pool import RolloutPool
from cluster.session import workers
from cluster.waiting import WorkerError
from cluster.workers import LearnerGroup, RolloutLog
from configs.schema import Config
from data.types import Clip, ClipSource, Completion, Example, Group, LoggedStep, Prompt, Sampling
from tests.integration.commands import command
from tests.integration.recordings import Questions
from tests.integration.runs import START_SECONDS, write_config

pytestmark = pytest.mark.timeout(600)  # a busy machine starts Ray in a minute

EXAMPLE = Example("e", ClipSource("e.wav"), "What is heard?", ("a", "b"), "a")
PROMPT = Prompt("0-0", EXAMPLE, (1,), Clip("c", 1.0, 25), seed=0)
ANSWER = r"within cluster\.actor_timeout_seconds \(1 s\): raise cluster\.actor_timeout_seconds"
END_SECONDS = 20.0


@ray.remote(num_cpus=0)
class Hanging:
    """Answers nothing that a run asks."""

    def here(self) -> None: ...

    def prepare(self, source: ClipSource, silent: bool) -> None:
        time.sleep(600)

    def node(self) -> None:
        time.sleep(600)

    def write(self, *_: Any) -> None:
        time.sleep(600)

    def generate(self, *_: Any) -> None:
        time.sleep(600)


@ray.remote(num_cpus=0)
class Engine:
    """Samples at once, and always the same."""

    async def generate(self, prompt: Prompt, features: Any, sampling: Sampling) -> tuple[Group, EngineReport]:
        group = Group(prompt, (Completion((1,), "a", (0.0,), (0,), "stop"),) * sampling.completions)
        return group, EngineReport(0, 0.0, 0.0)


def config(**sections: Any) -> Config:
    given = {"cluster": {"actor_timeout_seconds": 1.0}, **sections}
    return Config.model_validate({"model": {"path": "m"}, "data": {"train": "t.jsonl"}, **given})


@pytest.fixture
def hanging(nodes: list[Node]) -> Iterator[Any]:
    actor = Hanging.remote()
    ray.get(actor.here.remote())
    yield actor
    ray.kill(actor)


def refused(call: Coroutine[Any, Any, Any], pattern: str) -> None:
    with pytest.raises(WorkerError, match=pattern):
        asyncio.run(asyncio.wait_for(call, END_SECONDS))


def test_a_clip_that_is_never_prepared_ends_the_wait(hanging: Any) -> None:
    refused(AudioPool([hanging], config()).prepare(EXAMPLE.clip), rf"has not prepared e\.wav {ANSWER}")


def test_a_learner_that_never_starts_ends_the_wait(hanging: Any) -> None:
    refused(LearnerGroup([hanging], config()).join("m", "m", None), f"learner ranks have not started {ANSWER}")


def test_a_shard_that_is_never_written_ends_the_wait(hanging: Any) -> None:
    async def write() -> None:
        log = RolloutLog([hanging], config())
        await log.write("runs/r/rollouts", "runs/r/clips", LoggedStep(3, [], [], [], []))
        await log.written()

    refused(write(), f"rollout log has not written step 3 {ANSWER}")


def test_an_engine_that_never_samples_is_named(hanging: Any) -> None:
    settings = config(rollout={"request_timeout_seconds": 1.0}, cluster={"actor_timeout_seconds": 60.0})
    pool = RolloutPool({"engine-0": hanging}, [], settings)
    pattern = r"engine-0 has not finished group 0-0 within rollout\.request_timeout_seconds \(1 s\)"
    refused(pool.sample_and_score(PROMPT, Sampling(2, 1.0, 4)), pattern)


def test_a_plug_in_that_hangs_is_blamed_on_nobody_else_and_waited_for_as_long_as_it_may_take(
    nodes: list[Node],
) -> None:
    hangs = {"use": "tests.integration.plug_ins:troubled", "args": {"troubles": {EXAMPLE.id: "sleeps"}}}
    settings = config(rewards=[hangs | {"timeout_seconds": 3.0}])  # longer than any other answer may take
    engine = Engine.remote()
    reward = RewardActor.options(num_cpus=0).remote(settings)
    ray.get(reward.ready.remote())
    pool = RolloutPool({"engine-0": engine}, [reward], settings)
    try:
        assert asyncio.run(pool.sample(PROMPT, Sampling(2, 1.0, 4))).prompt == PROMPT
        _, summary = asyncio.run(asyncio.wait_for(pool.sample_and_score(PROMPT, Sampling(2, 1.0, 4)), END_SECONDS))
        assert (summary.completions, summary.dropped) == (0, {"reward_timeout": 2})
        assert pool.outstanding == {"engine-0": 0}
    finally:
        ray.kill(reward)
        ray.kill(engine)


@pytest.fixture
def full(nodes: list[Node]) -> Iterator[None]:
    """The cluster while another run holds every CPU of it."""
    taken = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    assert taken.wait(START_SECONDS)
    yield
    remove_placement_group(taken)


def test_a_role_that_finds_no_place_ends_the_wait(full: None, nodes: list[Node], model: Path) -> None:
    settings = config(model={"path": str(model)}, cluster={"wait_seconds": 1.0})

    async def start() -> None:
        async with workers(settings, nodes, plan(settings, nodes), str(model)):
            raise AssertionError("the cluster is full")

    refused(start(), r"1 x audio \(0\.5 CPU.* have not been placed within cluster\.wait_seconds \(1 s\).*another run")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_actors_wait_for_a_place_ends_everything_at_once(
    full: None, number: int, tmp_path: Path, model: Path, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file = write_config(tmp_path / "waiting.yaml", model, questions.train)
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    with command("cluster.launch", "--config", config_file.name, cwd=tmp_path) as started:
        started.wait_for(lambda: "starting engines and learner" in started.output, "the start", START_SECONDS)
        time.sleep(2.0)  # its first role is waiting by then
        started.process.send_signal(number)
        assert started.wait(END_SECONDS) == 130, started.output
        assert re.search(r"^stopped: every actor", started.output, re.MULTILINE)
    states = [group["state"] for group in ray.util.placement_group_table().values()]
    assert states.count("PENDING") == 0
    assert not (tmp_path / "runs" / "waiting" / "metrics.jsonl").exists()
