"""How long new weights have been on their way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.delivery import Delivery
from cluster.waiting import WorkerError
from tests.unit.run_stand_ins import Actors


class Slow(Actors):
    """Engines that take new weights when a test lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = asyncio.Event()
        self.fails = False

    async def update(self, update: Any) -> None:
        await self.taken.wait()
        if self.fails:
            raise WorkerError("no engine is left")


async def test_a_delivery_is_pending_until_every_engine_has_the_version() -> None:
    workers: Any = Slow()
    delivery = Delivery(workers, lambda: None)
    assert delivery.pending_seconds == 0
    async with asyncio.TaskGroup() as tasks:
        await delivery.publish(1, tasks)
        await asyncio.sleep(0.02)
        assert 0.02 <= delivery.pending_seconds < 5
        workers.taken.set()
        await delivery.over()
        assert delivery.pending_seconds == 0


async def test_a_delivery_that_failed_is_not_pending() -> None:
    async def deliver(delivery: Delivery, workers: Slow) -> None:
        async with asyncio.TaskGroup() as tasks:
            await delivery.publish(1, tasks)
            await asyncio.sleep(0)
            assert delivery.pending_seconds > 0
            workers.taken.set()

    workers: Any = Slow()
    workers.fails = True
    delivery = Delivery(workers, lambda: None)
    with pytest.raises(ExceptionGroup):
        await deliver(delivery, workers)
    assert delivery.pending_seconds == 0
