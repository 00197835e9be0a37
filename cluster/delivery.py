"""Every version on its way to the engines, one after the other, while the run goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cluster.transports import Update
from cluster.workers import Workers


class Delivery:
    """Has the learner publish its weights, and the engines take them.

    Args:
        workers: the learner and the engines.
        delivered: called when all engines have a version.
    """

    def __init__(self, workers: Workers, delivered: Callable[[], object]) -> None:
        self.figures: dict[str, float | None] = dict.fromkeys(("sync_bytes", "sync_seconds", "sync_bytes_per_second"))
        """How the newest delivery went that has ended."""
        self._workers = workers
        self._delivered = delivered
        self._task: asyncio.Task[None] | None = None
        self._begun: float | None = None
        """When the delivery that goes on began, by `time.perf_counter`."""

    @property
    def pending_seconds(self) -> float:
        """How long a version has been on its way; 0 while none is."""
        begun = self._begun
        return 0.0 if begun is None else time.perf_counter() - begun

    async def publish(self, version: int, tasks: asyncio.TaskGroup) -> float:
        """Begin with a version when the last one is delivered; when this is over the learner may step.

        Args:
            version: policy version of the learner's weights.
            tasks: the delivery is one of them, and may go on for longer.

        Returns:
            Seconds in which the learner gave its weights away.
        """
        await self.over()
        weights = self._workers.learner.weights
        update = await weights.begin(version, self._workers.rollout.actors)
        self._task = tasks.create_task(self._deliver(update))
        begun = time.perf_counter()
        await weights.publish(update)
        return time.perf_counter() - begun

    async def over(self) -> None:
        """Wait until the engines have the last weights that were published."""
        if self._task is not None:
            await self._task

    async def _deliver(self, update: Update) -> None:
        self._begun = begun = time.perf_counter()
        try:
            await self._workers.rollout.update(update)
        finally:
            self._begun = None
        seconds, size = time.perf_counter() - begun, update.size_bytes
        self.figures = {"sync_bytes": size, "sync_seconds": seconds, "sync_bytes_per_second": size / seconds}
        self._delivered()
