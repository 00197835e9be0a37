"""Rewards that wait, hang, raise or give nothing, on a real reward actor and in a run: they cost groups and no run."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.reward import RewardActor
from cluster.placement import Node
from configs.schema import Config
from data.types import Clip, ClipSource, Completion, Example, Group, GroupSummary, Prompt
from rewards.process import GRACE_SECONDS
from tests.integration.loops import Run, loop
from tests.integration.recordings import Questions

pytestmark = pytest.mark.timeout(600)  # a busy machine starts an engine in minutes

TROUBLED, PATIENT = (f"tests.integration.plug_ins:{name}" for name in ("troubled", "patient"))
LIMIT_SECONDS = 0.5
WAIT_SECONDS = 1.0
GROUPS = 8
STEPS, PROMPTS, GROUP_SIZE = 3, 2, 4


def group(example_id: str) -> Group:
    example = Example(example_id, ClipSource("a.wav"), "What is heard?", ("a", "b"), "a")
    completion = Completion((1,), "a", (-0.1,), (0,), "stop")
    return Group(Prompt(example_id, example, (1,), Clip("c", 1.0, 25), seed=0), (completion,) * 2)


@contextmanager
def actor(*rewards: dict[str, Any]) -> Iterator[Any]:
    config = Config.model_validate({"model": {"path": "m"}, "data": {"train": "t.jsonl"}, "rewards": rewards})
    started = RewardActor.options(num_cpus=0).remote(config)
    ray.get(started.ready.remote())
    try:
        yield started
    finally:
        ray.kill(started)


def scored(actor: Any, *example_ids: str) -> list[tuple[Group, GroupSummary]]:
    """Groups that come at the same time."""
    return ray.get([actor.score.remote(group(name)) for name in example_ids])


def test_groups_wait_for_an_asynchronous_reward_side_by_side(nodes: list[Node]) -> None:
    with actor({"use": PATIENT, "args": {"seconds": WAIT_SECONDS}}, {"use": "accuracy"}) as reward:
        started = time.perf_counter()
        summaries = [summary for _, summary in scored(reward, *map(str, range(GROUPS)))]
        seconds = time.perf_counter() - started
    assert [summary.total for summary in summaries] == [1.0] * GROUPS
    assert WAIT_SECONDS <= seconds < GROUPS * WAIT_SECONDS / 2


def test_three_kinds_of_hanging_are_dropped_within_their_limit_and_the_next_group_is_scored(nodes: list[Node]) -> None:
    limit = {"timeout_seconds": LIMIT_SECONDS}
    troubles = {"sleeps": "sleeps", "loops": "loops in C"}
    rewards = (
        {"use": TROUBLED, "args": {"troubles": troubles}, **limit},
        {"use": PATIENT, "args": {"seconds": 0.0, "waits_for_ever": "waits"}, **limit},
    )
    with actor(*rewards) as reward:
        [(before, _)] = scored(reward, "before")
        started = time.perf_counter()
        late = [summary for _, summary in scored(reward, "sleeps", "loops", "waits")]
        seconds = time.perf_counter() - started
        [(after, kept)] = scored(reward, "after")
    assert [summary.dropped for summary in late] == [{"reward_timeout": 2}] * 3
    for name, summary in zip((TROUBLED, TROUBLED, PATIENT), late, strict=True):
        assert f"reward {name}, example {summary.group_id}: gave nothing within timeout_seconds" in summary.problems[0]
    assert seconds < 3 * LIMIT_SECONDS + GRACE_SECONDS + 10.0
    assert (kept.completions, kept.dropped) == (2, {})
    assert before.rewards[TROUBLED] != after.rewards[TROUBLED]  # the loop has taken its process with it


def test_the_processes_of_functions_end_with_their_actor(nodes: list[Node]) -> None:
    with actor({"use": TROUBLED, "args": {"troubles": {"loops": "loops in C"}}}) as reward:
        [(found, _)] = scored(reward, "a")
        [pid, _] = found.rewards[TROUBLED]
        looping = psutil.Process(int(pid or 0))
        reward.score.remote(group("loops"))
        time.sleep(1.0)  # it loops by then
        assert looping.is_running()
    looping.wait(30)


@dataclass(frozen=True)
class Troubled:
    """A run in which most questions make trouble."""

    run: Run
    said: list[str]
    troubles: dict[str, str]


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, model: Path, questions: Questions, nodes: list[Node]
) -> Troubled:
    ids = [row["id"] for row in questions.rows()]
    kinds = ("sleeps", "loops in C", "raises", "gives nothing", "gives nothing for one")
    troubles = dict(zip(ids, kinds, strict=False)) | {ids[5]: "waits for ever"}
    limit = {"timeout_seconds": LIMIT_SECONDS}
    config = Config.model_validate(
        {
            "run": {"name": "troubled", "dir": str(tmp_path_factory.mktemp("troubled"))},
            "model": {"path": str(model), "audio_tower": "frozen", "projector": "frozen"},
            "data": {"train": str(questions.train)},
            "rollout": {"engines": 1, "max_completion_tokens": 8, "max_model_tokens": 1024},
            "rewards": [
                {"use": "tests.integration.plug_ins:vowels"},
                {"use": TROUBLED, "weight": 1e-6, "args": {"troubles": troubles}, **limit},
                {"use": PATIENT, "args": {"seconds": 0.01, "waits_for_ever": ids[5]}, **limit},
            ],
            "learner": {"threads": 1},
            "algorithm": {"beta": 0.0, "group_size": GROUP_SIZE, "prompts_per_step": PROMPTS},
        }
    )
    said: list[str] = []

    async def go() -> Run:
        async with loop(config, nodes, said.append) as started:
            return await started.run(config, STEPS)

    return Troubled(asyncio.run(go()), said, troubles)


def test_a_run_goes_on_past_rewards_that_hang_raise_and_give_nothing(troubled: Troubled) -> None:
    lines = troubled.run.lines
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["trained"] == STEPS * PROMPTS
    assert all(line["admitted"] == line["trained"] + line["dropped"] + line["in_flight"] for line in lines)


def test_what_a_run_drops_is_counted_by_reason(troubled: Troubled) -> None:
    dropped = troubled.run.lines[-1]["dropped_by_reason"]
    assert set(dropped) == {"reward_timeout", "reward_raised", "reward_none"}
    assert dropped["reward_timeout"] >= 3
    assert sum(dropped.values()) == troubled.run.lines[-1]["dropped"]
    assert dropped == Counter(why.partition(":")[0] for why in troubled.run.dropped.drop_reason)
    kept = sum(line["completions"] for line in troubled.run.lines)
    lost = sum(line["completions_dropped"].get("reward_none", 0) for line in troubled.run.lines)
    assert lost >= 1
    assert kept + lost == STEPS * PROMPTS * GROUP_SIZE


def test_the_rollout_log_tells_which_reward_lost_which_group_and_why(troubled: Troubled) -> None:
    wanted = {
        "sleeps": f"reward_timeout: reward {TROUBLED}, example",
        "loops in C": f"reward_timeout: reward {TROUBLED}, example",
        "raises": f"reward_raised: reward {TROUBLED}, example",
        "gives nothing": f"reward_none: reward {TROUBLED}, example",
        "waits for ever": f"reward_timeout: reward {PATIENT}, example",
    }
    reasons = {row.example_id: row.drop_reason for row in troubled.run.dropped.itertuples()}
    for example_id, trouble in troubled.troubles.items():
        if trouble in wanted:
            assert reasons.pop(example_id).startswith(wanted[trouble])
    assert reasons == {}


def test_a_completion_without_a_value_has_no_advantage_and_the_others_do(troubled: Troubled) -> None:
    [partly] = [name for name, trouble in troubled.troubles.items() if trouble == "gives nothing for one"]
    rows = [row for row in troubled.run.trained.itertuples() if row.example_id == partly]
    assert rows
    for row in rows:
        advantages = list(row.advantages)
        assert advantages[0] is None or advantages[0] != advantages[0]
        assert all(value == value for value in advantages[1:])
