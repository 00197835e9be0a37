"""Which engine gets a group, and what becomes of a lost one, with stand-ins that answer when a test lets them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
from ray.exceptions import ObjectLostError, RayActorError

from actors.report import EngineDied, EngineReport
from actors.weights.buckets import Layout, Slot
from cluster.rollout_pool import EngineLost, RolloutPool
from cluster.transports import Buckets
from cluster.waiting import WorkerError
from configs.schema import Config
from data.types import Clip, ClipSource, Example, GroupSummary, Prompt, Sampling

EXAMPLE = Example("e", ClipSource("e.wav"), "What is heard?", ("a", "b"), "a")
SAMPLING = Sampling(4, 1.0, 8)


def prompt(name: str = "0-0") -> Prompt:
    return Prompt(name, EXAMPLE, (1,), Clip("c", 1.0, 25), seed=0)


class Method:
    """A remote method that calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.remote = function

    def options(self, **_: Any) -> Method:
        return self


class Reference:
    """Gives its value to who awaits it."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        return self.value


class Engine:
    """Reports as told: `kv_cache_use`, or an error in place of an answer."""

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self.asked: list[str] = []
        self.kv_cache_use = 0.5
        self.busy_seconds = 0.0
        self.error: Exception | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.ended = False
        self.loading = 0
        self.generate = Method(self._generate)
        self.layouts: list[Layout] = []
        self.received: list[tuple[int, int, str]] = []
        self.expect = Method(self._expect)
        self.receive = Method(self._receive)

    def _generate(self, asked: Prompt, *_: Any) -> tuple[Reference, Awaitable[EngineReport]]:
        self.asked.append(asked.group_id)

        return Reference(asked.group_id), self._report()

    async def _expect(self, layout: Layout) -> None:
        self.layouts.append(layout)

    def _receive(self, version: int, number: int, bucket: str) -> Awaitable[EngineReport]:
        self.loading = version
        self.received.append((version, number, bucket))

        async def loaded() -> EngineReport:
            await self.free.wait()
            self.version = version
            return await self._report()

        return loaded()

    async def _report(self) -> EngineReport:
        await self.free.wait()
        if self.error is not None:
            raise self.error
        self.busy_seconds += 1.0
        return EngineReport(self.version, self.busy_seconds, self.kv_cache_use)


class Reward:
    """Scores at once, unless a test keeps it from that or from answering at all."""

    def __init__(self) -> None:
        self.score = Method(self._score)
        self.ready = Method(self._ready)
        self.error: Exception | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.there = asyncio.Event()
        self.there.set()
        self.pings = 0

    async def _ready(self) -> bool:
        self.pings += 1
        return await self.there.wait()

    def _score(self, group: Reference) -> tuple[str, Awaitable[GroupSummary]]:
        async def summary() -> GroupSummary:
            await self.free.wait()
            if self.error is not None:
                raise self.error
            return GroupSummary(await group, 4, 4, 0, {}, 0.0, 0)

        return "reference", summary()


class Pool:
    """A pool of engines that a test holds in its hands."""

    def __init__(self, engines: int = 2, update_seconds: float = 60.0) -> None:
        self.engines = {f"engine-{number}": Engine() for number in range(engines)}
        self.said: list[str] = []
        self.new: list[Engine] = []
        self.starts: asyncio.Event = asyncio.Event()
        self.starts.set()
        self.start_error: Exception | None = None
        self.new_error: Exception | None = None
        """What engines that take another's place answer with."""
        self.deaths = 0
        """How many engines are still to die before they are ready."""
        self.slow = False
        """Whether engines that take another's place load no weights until they are freed."""
        config = Config.model_validate(
            {
                "model": {"path": "m"},
                "data": {"train": "t.jsonl"},
                "rollout": {"max_running": 8, "update_timeout_seconds": update_seconds},
                "algorithm": {"group_size": 4},
            }
        )
        self.reward = Reward()
        self.counted: list[tuple[str, str]] = []
        self.pool = RolloutPool(
            *(self.engines, [self.reward], config, 0, self.start, self.said.append, self.end),
            count=lambda name, why: self.counted.append((name, why)),
        )

    async def start(self, name: str) -> Engine:
        await self.starts.wait()
        if self.start_error is not None:
            raise self.start_error
        if self.deaths:
            self.deaths -= 1
            raise RayActorError
        self.new.append(Engine())
        self.new[-1].error = self.new_error
        if self.slow:
            self.new[-1].free.clear()
        return self.new[-1]

    def end(self, name: str, engine: Engine) -> None:
        engine.ended = True

    async def lose_first(self, error: Exception) -> None:
        """Have the first engine answer a group with an error; who waits for it is told."""
        self.engines["engine-0"].error = error
        with pytest.raises(EngineLost):
            await self.pool.sample_and_score(prompt(), SAMPLING)

    async def joined(self, engines: int) -> None:
        async with asyncio.timeout(5):
            while len(self.pool.actors) < engines:
                await asyncio.sleep(0)


LAYOUT = Layout(tuple((Slot(name, "float32", (2,), 0),) for name in "abc"))
"""Three buckets of a tensor each."""


def begun(version: int) -> Buckets:
    """An update that waits for its buckets."""
    return Buckets(version, LAYOUT)


def update(version: int) -> Buckets:
    """An update whose buckets are all there."""
    whole = begun(version)
    for slots in LAYOUT.buckets:
        whole.add(f"{slots[0].name}{version}")
    return whole


async def test_a_group_goes_to_the_engine_with_the_least_outstanding_work() -> None:
    held = Pool()
    first, second = held.engines.values()
    first.free.clear()
    waiting = asyncio.create_task(held.pool.sample_and_score(prompt("a"), SAMPLING))
    await asyncio.sleep(0)
    for name in "bc":
        await held.pool.sample_and_score(prompt(name), SAMPLING)
    assert (first.asked, second.asked) == (["a"], ["b", "c"])
    first.free.set()
    await waiting
    assert held.pool.outstanding == {"engine-0": 0, "engine-1": 0}


async def test_an_engine_whose_cache_is_full_takes_no_further_group() -> None:
    held = Pool()
    first, second = held.engines.values()
    assert held.pool.places == 2 * (8 // 4 + 1)
    first.free.clear()
    second.free.clear()
    waiting = [asyncio.create_task(held.pool.sample_and_score(prompt(name), SAMPLING)) for name in "abcde"]
    await asyncio.sleep(0)
    assert (first.asked, second.asked) == (["a", "c", "e"], ["b", "d"])
    first.kv_cache_use = 0.95
    held.pool._heard("engine-0", EngineReport(0, 9.0, 0.95))
    assert held.pool.places == 3 + 8 // 4 + 1  # what it has, and what the other one takes
    waiting += [asyncio.create_task(held.pool.sample_and_score(prompt(name), SAMPLING)) for name in "fgh"]
    await asyncio.sleep(0)
    assert second.asked == ["b", "d", "f", "g", "h"]
    first.free.set()
    second.free.set()
    await asyncio.gather(*waiting)
    assert held.pool.places == 2 * (8 // 4 + 1)  # nothing is in its cache any more


async def test_a_report_that_was_overtaken_is_not_taken_for_the_newest() -> None:
    held = Pool(engines=1)
    held.pool._heard("engine-0", EngineReport(3, 5.0, 0.5))
    held.pool._heard("engine-0", EngineReport(2, 5.0, 0.5))
    assert held.pool.version == 3


async def test_the_pool_is_as_old_as_its_oldest_engine() -> None:
    held = Pool()
    held.engines["engine-1"].free.clear()
    loading = asyncio.create_task(held.pool.update(update(1)))
    await asyncio.sleep(0.01)
    assert {name: report.version for name, report in held.pool.reports.items()} == {"engine-0": 1, "engine-1": 0}
    assert held.pool.version == 0
    held.engines["engine-1"].free.set()
    await loading
    assert held.pool.version == 1


async def test_engines_get_each_bucket_as_it_comes_and_are_told_what_is_in_them_once() -> None:
    held = Pool()
    engines = held.engines.values()
    first, second = begun(1), update(2)
    loading = asyncio.create_task(held.pool.update(first))
    for number, name in enumerate("abc"):
        await asyncio.sleep(0.01)
        assert all(len(engine.received) == number for engine in engines)
        first.add(name)
    await loading
    await held.pool.update(second)
    for engine in engines:
        assert engine.layouts == [LAYOUT]
        assert engine.received == [(1, 0, "a"), (1, 1, "b"), (1, 2, "c"), (2, 0, "a2"), (2, 1, "b2"), (2, 2, "c2")]


async def test_the_time_that_the_learner_takes_to_publish_is_not_the_engines() -> None:
    held = Pool(update_seconds=0.05)
    slow = begun(1)
    loading = asyncio.create_task(held.pool.update(slow))
    for name in "abc":
        await asyncio.sleep(0.04)
        slow.add(name)
    await loading
    assert held.pool.version == 1
    assert held.pool.lost == 0


async def test_an_engine_that_is_lost_before_the_last_bucket_is_replaced_by_one_that_gets_all() -> None:
    held = Pool()
    half = begun(1)
    loading = asyncio.create_task(held.pool.update(half))
    half.add("a")
    await asyncio.sleep(0)
    await held.lose_first(RayActorError())
    await asyncio.sleep(0.01)
    half.add("b")
    half.add("c")
    await loading
    await held.joined(2)
    assert held.new[0].layouts == [LAYOUT]
    assert held.new[0].received == [(1, 0, "a"), (1, 1, "b"), (1, 2, "c")]
    assert held.pool.version == 1
    assert held.pool.lost == 1


@pytest.mark.parametrize("error", [RayActorError(), EngineDied("the engine died: KeyError()")])
async def test_who_waits_for_a_lost_engine_is_told_and_another_takes_its_place(error: Exception) -> None:
    held = Pool()
    first = held.engines["engine-0"]
    await held.lose_first(error)
    assert first.ended
    assert list(held.pool.actors) == ["engine-1"]
    assert "engine-0 is lost, and another takes its place" in held.said[0]
    await held.joined(2)
    assert held.pool.actors["engine-0"] is held.new[0]
    assert held.pool.lost == 1


async def test_an_engine_that_does_not_take_its_weights_in_time_is_replaced_and_the_others_go_on() -> None:
    held = Pool(update_seconds=0.5)
    held.engines["engine-1"].free.clear()
    await held.pool.update(update(1))
    assert held.pool.version == 1
    assert "engine-1 has not taken version 1 within rollout.update_timeout_seconds (0.5 s)" in held.said[0]
    await held.joined(2)
    assert held.new[0].version == 1


async def test_another_engine_joins_with_the_newest_weights() -> None:
    held = Pool()
    await held.pool.update(update(1))
    held.starts.clear()
    await held.lose_first(RayActorError())
    await held.pool.update(update(2))  # while the other one starts
    assert held.pool.version == 2
    held.starts.set()
    await held.joined(2)
    assert held.new[0].version == 2
    assert held.pool.version == 2


async def test_a_version_that_comes_while_an_engine_loads_the_last_one_is_loaded_too() -> None:
    held = Pool()
    await held.pool.update(update(1))
    held.slow = True
    await held.lose_first(RayActorError())
    while not held.new or held.new[0].loading != 1:
        await asyncio.sleep(0)
    await held.pool.update(update(2))
    held.new[0].free.set()
    await held.joined(2)
    assert held.new[0].version == 2


async def test_a_group_that_was_lost_before_it_was_scored_is_told_as_lost() -> None:
    held = Pool()
    held.reward.error = ObjectLostError("ab" * 28, None, "")
    with pytest.raises(EngineLost, match="group 0-0 was lost with its node"):
        await held.pool.sample_and_score(prompt(), SAMPLING)
    assert len(held.pool.actors) == 2


async def test_a_group_may_wait_for_its_turn_with_the_rewards_as_long_as_their_actor_is_there() -> None:
    held = Pool()
    held.pool.answer_seconds = 0.01
    held.reward.free.clear()
    scored = asyncio.create_task(held.pool.sample_and_score(prompt(), SAMPLING))
    async with asyncio.timeout(5):
        while held.reward.pings < 3:
            await asyncio.sleep(0.001)
    held.reward.free.set()
    assert (await scored)[1].group_id == "0-0"


async def test_a_reward_actor_that_does_not_answer_ends_the_wait() -> None:
    held = Pool()
    held.pool.answer_seconds = 0.01
    held.reward.free.clear()
    held.reward.there.clear()
    with pytest.raises(WorkerError, match=r"the reward actor does not answer within cluster.actor_timeout_seconds"):
        await held.pool.sample_and_score(prompt(), SAMPLING)


async def test_a_further_engine_joins_with_the_newest_weights_and_is_no_loss() -> None:
    held = Pool(engines=1)
    await held.pool.update(update(1))
    places = held.pool.places
    held.pool.begin("engine-1")
    assert len(held.pool._starts) == 1
    await held.joined(2)
    assert len(held.pool._starts) == 0
    assert held.new[0].version == 1
    assert held.pool.places == 2 * places
    assert held.pool.lost == 0


@pytest.mark.parametrize(("deaths", "joins"), [(2, True), (3, False)])
async def test_an_engine_whose_process_ends_before_it_is_ready_is_started_again_but_not_for_ever(
    deaths: int, joins: bool
) -> None:
    held = Pool(engines=1)
    held.deaths = deaths
    held.pool.begin("engine-1")
    while held.pool._starts:
        await asyncio.sleep(0)
    assert ("engine-1" in held.pool.actors) == joins
    assert ("engine-1" in held.pool.failed) != joins
    assert [name for name, _ in held.counted] == ["engine-1"] * deaths


async def test_a_question_of_an_evaluation_is_asked_again_where_its_engine_is_lost() -> None:
    held = Pool(engines=1)
    held.engines["engine-0"].error = RayActorError()
    assert await held.pool.sample(prompt("q"), SAMPLING) == "q"
    assert held.new[0].asked == ["q"]


async def test_a_question_that_every_engine_dies_of_is_not_asked_for_ever() -> None:
    held = Pool(engines=1)
    held.engines["engine-0"].error = held.new_error = RayActorError()
    with pytest.raises(EngineLost):
        await held.pool.sample(prompt("deadly"), SAMPLING)
    assert held.pool.lost == 3


async def test_every_engine_is_asked_where_each_is_to_answer_and_a_lost_one_gives_nothing() -> None:
    held = Pool(engines=3)
    held.engines["engine-1"].error = RayActorError()
    given = await held.pool.sample_from_each(prompt("check"), SAMPLING)
    assert {name: await group for name, group in given.items()} == {"engine-0": "check", "engine-2": "check"}
    assert held.pool.lost == 1
    assert set(held.pool.outstanding.values()) == {0}


async def test_an_engine_can_be_replaced_by_name_and_only_while_it_is_there() -> None:
    held = Pool()
    first = held.engines["engine-0"]
    for _ in range(2):
        held.pool.replace("engine-0", "it is another policy")
    assert first.ended
    assert held.pool.lost == 1
    await held.joined(2)
    assert held.pool.actors["engine-0"] is held.new[0]


async def test_a_pool_without_engines_ends_the_wait() -> None:
    held = Pool(engines=1)
    held.start_error = WorkerError("engine-0 has not started again")
    await held.lose_first(RayActorError())
    with pytest.raises(WorkerError, match="no engine is left: engine-0 has not started again"):
        await held.pool.sample_and_score(prompt(), SAMPLING)
    assert "could not be started, 0 engines go on" in held.said[1]
    assert list(held.pool.failed) == ["engine-0"]
