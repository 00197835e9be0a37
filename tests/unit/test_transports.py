"""What a transport asks of learner and engines, with stand-ins that answer as told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

import pytest

from actors.report import EngineReport
from actors.weights.buckets import Layout
from cluster.transports import Broadcast, Buckets, Nccl, ObjectStore, transport
from cluster.waiting import WorkerError
from configs.schema import Config
from tests.unit.test_rollout_pool import LAYOUT, Method


def config(kind: str = "nccl", seconds: float = 1800.0) -> Config:
    return Config.model_validate(
        {
            "model": {"path": "m"},
            "data": {"train": "t.jsonl"},
            "rollout": {"weight_transfer": kind, "audio": "waveform"},
            "learner": {"step_timeout_seconds": seconds},
        }
    )


class Learner:
    """A rank; the first one has the buckets and does the broadcasts."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.asked: list[str] = []
        self.at = 7
        self.outcomes: list[tuple[bool, dict[str, str]]] = []
        """What the next broadcasts tell."""
        self.ended = asyncio.Event()
        self.ended.set()
        self.error: Exception | None = None
        self.packed = [asyncio.Event() for _ in "abc"]
        """By bucket, whether it is."""
        for event in self.packed:
            event.set()
        self.layout = Method(self._layout)
        self.bucket = Method(self._bucket)
        self.help_gather = Method(self._help_gather)
        self.version = Method(self._version)
        self.broadcast = Method(self._broadcast)

    async def _layout(self) -> Layout:
        self.asked.append("layout")
        return LAYOUT

    def _bucket(self, number: int) -> tuple[str, Awaitable[None]]:
        self.asked.append(f"bucket {number}")
        return "abc"[number], asyncio.ensure_future(self._pack(number))

    async def _pack(self, number: int) -> None:
        await self.packed[number].wait()
        await self._over()

    def _help_gather(self) -> Awaitable[None]:
        self.asked.append("help")
        return asyncio.ensure_future(self._over())

    async def _over(self) -> None:
        if self.error is not None:
            raise self.error
        await self.ended.wait()

    async def _version(self) -> int:
        return self.at

    async def _broadcast(self, version: int, engines: Mapping[str, Any]) -> tuple[bool, dict[str, str]]:
        self.asked.append(f"broadcast {version} to {', '.join(engines)}")
        return self.outcomes.pop(0) if self.outcomes else (True, {})


class Engine:
    def __init__(self) -> None:
        self.received: list[tuple[int, int, str]] = []
        self.receive = Method(self._receive)
        self.report = Method(self._report)

    def _receive(self, version: int, number: int, bucket: str) -> Awaitable[EngineReport]:
        self.received.append((version, number, bucket))
        return asyncio.ensure_future(self._report(version))

    async def _report(self, version: int = 1) -> EngineReport:
        return EngineReport(version, 0.0, 0.0)


async def delivered(update: Any, engine: Engine) -> EngineReport:
    report: Awaitable[EngineReport] = await update.send(engine)
    return await report


def test_the_configuration_names_the_transport() -> None:
    assert isinstance(transport([], config("object_store")), ObjectStore)
    assert isinstance(transport([], config("nccl")), Nccl)


async def test_an_engine_gets_all_buckets_of_the_first_rank_and_the_layout_is_asked_for_once() -> None:
    ranks, engine = [Learner(0), Learner(1)], Engine()
    weights: Any = transport(ranks, config("object_store"))
    for version in (1, 2):
        update: Buckets = await weights.begin(version, {})
        report, _ = await asyncio.gather(delivered(update, engine), weights.publish(update))
        assert report.version == version
    assert engine.received == [(v, number, name) for v in (1, 2) for number, name in enumerate("abc")]
    assert ranks[0].asked == ["layout", *["bucket 0", "bucket 1", "bucket 2"] * 2]
    assert ranks[1].asked == ["help", "help"]


async def test_an_engine_has_a_bucket_while_the_next_is_packed_and_no_sooner() -> None:
    learner, engine = Learner(0), Engine()
    learner.packed[0].clear()
    learner.packed[1].clear()
    weights: Any = transport([learner], config("object_store"))
    update: Buckets = await weights.begin(1, {})
    sending, publishing = (
        asyncio.create_task(delivered(update, engine)),
        asyncio.create_task(weights.publish(update)),
    )
    for packed, received in ((0, []), (1, [(1, 0, "a")])):
        await asyncio.sleep(0.01)
        assert engine.received == received
        assert not publishing.done()
        learner.packed[packed].set()
    await asyncio.gather(sending, publishing)
    assert len(engine.received) == 3


async def test_a_bucket_that_cannot_be_packed_ends_the_publishing() -> None:
    learner = Learner(0)
    learner.error = RuntimeError("rank 0 has no memory left")
    weights: Any = transport([learner], config("object_store"))
    with pytest.raises(RuntimeError, match="rank 0 has no memory left"):
        await weights.publish(await weights.begin(1, {}))


async def test_publishing_ends_when_every_rank_has_ended_and_has_a_limit() -> None:
    ranks = [Learner(0), Learner(1)]
    ranks[1].ended.clear()
    weights: Any = transport(ranks, config("object_store", seconds=0.05))
    with pytest.raises(WorkerError, match=r"the learner has not published version 1 within learner\.step_timeout"):
        await weights.publish(await weights.begin(1, {}))


async def test_a_rank_that_fails_ends_the_publishing_while_another_waits_for_it() -> None:
    ranks = [Learner(0), Learner(1)]
    ranks[0].ended.clear()
    ranks[1].error = RuntimeError("rank 1 has no memory left")
    weights: Any = transport(ranks, config("object_store"))
    with pytest.raises(RuntimeError, match="rank 1 has no memory left"):
        await weights.publish(await weights.begin(1, {}))


async def test_a_broadcast_that_has_not_begun_is_repeated_without_the_engines_that_were_late() -> None:
    learner, engines = Learner(0), {name: Engine() for name in ("engine-0", "engine-1", "engine-2")}
    learner.outcomes = [(False, {"engine-1": "engine-1 was late"}), (True, {"engine-0": "engine-0 died"})]
    weights: Any = transport([learner], config())
    update: Broadcast = await weights.begin(1, engines)
    waiting = [asyncio.create_task(delivered(update, engine)) for engine in engines.values()]
    await weights.publish(update)
    first, second, third = await asyncio.gather(*waiting, return_exceptions=True)
    assert (str(first), str(second)) == ("engine-0 died", "engine-1 was late")
    assert isinstance(third, EngineReport)
    assert learner.asked[1:] == ["broadcast 1 to engine-0, engine-1, engine-2", "broadcast 1 to engine-0, engine-2"]


async def test_an_engine_that_is_not_in_the_broadcast_gets_buckets_of_what_the_learner_has_then() -> None:
    learner, late = Learner(0), Engine()
    weights: Any = transport([learner], config())
    update: Broadcast = await weights.begin(1, {"engine-0": Engine()})
    await weights.publish(update)
    report = await delivered(update, late)
    assert report.version == 7
    assert late.received == [(7, 0, "a"), (7, 1, "b"), (7, 2, "c")]


async def test_a_broadcast_without_engines_asks_nothing_of_the_learner() -> None:
    learner = Learner(0)
    weights: Any = transport([learner], config())
    await weights.publish(await weights.begin(1, {}))
    assert learner.asked == ["layout"]


def test_nccl_is_refused_where_the_rollout_actor_has_weights_of_its_own_to_get() -> None:
    with pytest.raises(ValueError, match="nccl broadcasts into vLLM alone"):
        Config.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, "rollout": {"weight_transfer": "nccl"}})
