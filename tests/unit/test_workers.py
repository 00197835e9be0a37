"""The surfaces by which a run asks its actors, with stand-ins for these."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from cluster import workers
from cluster.supervision import TooManyLost
from cluster.workers import RolloutLog, Workers
from configs.schema import Config
from data.types import LoggedStep
from data.whole_file import WriteError


class Writer:
    """A log actor whose shards are written when a test says so."""

    def __init__(self) -> None:
        self.write = self
        self.shards: list[asyncio.Future[tuple[str, ...]]] = []

    def remote(self, *_: Any) -> asyncio.Future[tuple[str, ...]]:
        self.shards.append(asyncio.get_running_loop().create_future())
        return self.shards[-1]


def step(number: int) -> LoggedStep:
    return LoggedStep(number, [], [], [], [])


def log(writer: Writer) -> RolloutLog:
    return RolloutLog([writer], Config.model_validate({"model": {"path": ""}, "data": {"train": ""}}))


async def test_all_who_wait_for_a_shard_wait_until_it_is_written() -> None:
    writer = Writer()
    one = log(writer)
    await one.write("", "", step(1))
    next_step = asyncio.create_task(one.write("", "", step(2)))
    await asyncio.sleep(0)
    checkpoint = asyncio.create_task(one.written())
    await asyncio.sleep(0)
    assert not checkpoint.done()
    writer.shards[0].set_result(())
    await asyncio.gather(next_step, checkpoint)
    assert len(writer.shards) == 2
    last = asyncio.create_task(one.written())
    await asyncio.sleep(0)
    assert not last.done()
    writer.shards[1].set_result(())
    await last
    await one.written()


async def test_what_the_log_has_to_tell_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    writer = Writer()
    one = log(writer)
    await one.write("", "", step(1))
    writer.shards[0].set_result(("clips/ is full",))
    await asyncio.gather(one.written(), one.written())
    assert capsys.readouterr().out == "clips/ is full\n"


async def test_a_shard_that_could_not_be_written_is_told_to_all_who_ask() -> None:
    writer = Writer()
    one = log(writer)
    await one.write("", "", step(1))
    writer.shards[0].set_exception(WriteError("no room"))
    for asks in (one.written, one.written, lambda: one.write("", "", step(2))):
        with pytest.raises(WriteError, match="no room"):
            await asks()


async def test_losses_end_the_watch_once_there_are_more_than_a_run_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        def __init__(self) -> None:
            self.beat = self

        async def remote(self) -> int:
            raise RayActorError

    config = Config.model_validate(
        {"model": {"path": ""}, "data": {"train": ""}, "cluster": {"max_losses_per_hour": 2}}
    )
    killed: list[Any] = []
    monkeypatch.setattr(workers, "watch_control", asyncio.Event().wait)
    monkeypatch.setattr(workers.ray, "kill", lambda actor, no_restart: killed.append(actor))
    started = Workers(config, [], "", 0, (), set(), print, None)
    actors = [Dead() for _ in range(3)]
    started.audio = SimpleNamespace(actors=actors[:2])  # type: ignore[assignment]
    started.rollout = SimpleNamespace(actors={}, rewards=actors[2:])  # type: ignore[assignment]
    started.log = started.learner = SimpleNamespace(actors=[])  # type: ignore[assignment]
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(10):
            await started.watch()
    [error] = raised.value.exceptions
    assert isinstance(error, TooManyLost)
    assert "1 x audio actor 0, 1 x audio actor 1, 1 x reward actor 0" in str(error)
    assert killed == actors
