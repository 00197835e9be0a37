"""A policy version on its way from the learner to the engines: references, no weights."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from actors.report import EngineReport
from actors.weights.buckets import Layout


class WeightUpdate:
    """References to the buckets of a version, which engines are sent as the learner gives them.

    They are kept as long as this is, so that an engine that joins later can be sent all of them.

    Args:
        version: policy version of the weights.
        layout: what each bucket holds.
    """

    def __init__(self, version: int, layout: Layout) -> None:
        self.version = version
        self.layout = layout
        self.size_bytes = sum(layout.sizes_bytes)
        self._buckets: list[Any] = []
        self._more = asyncio.Event()

    def add(self, bucket: Any) -> None:
        """Take the reference to the next bucket."""
        self._buckets.append(bucket)
        self._more.set()
        self._more = asyncio.Event()

    async def send(self, engine: Any) -> Awaitable[EngineReport]:
        """Hand every bucket to an engine that expects this layout, as they come.

        Args:
            engine: handle of the rollout actor.

        Returns:
            What the engine reports when it has loaded the version.
        """
        answers = []
        for number in range(len(self.layout.buckets)):
            while number == len(self._buckets):
                await self._more.wait()
            answers.append(engine.receive.remote(self.version, number, self._buckets[number]))
        return _last(answers)


async def _last(answers: list[Awaitable[EngineReport]]) -> EngineReport:
    return (await asyncio.gather(*answers))[-1]
