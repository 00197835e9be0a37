"""Ray nodes that join while a run goes on are put to work: each gets an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from cluster.rollout_pool import RolloutPool

WATCH_SECONDS = 2.0
"""Between two looks at the cluster."""


class Growth:
    """Looks for new nodes as long as `watch` is awaited.

    A new node is first of all a place for the engines that lost theirs: those that wait for one Ray puts there, and
    those that no longer do are started again.

    Args:
        pool: the engines.
        place: gives the name of a further engine, to be started on that node.
        look: the ids of the nodes that can hold an engine.
        say: tells the user of a node.
    """

    def __init__(
        self,
        pool: RolloutPool,
        place: Callable[[str], str],
        look: Callable[[], Awaitable[Iterable[str]]],
        say: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._place = place
        self._look = look
        self._say = say

    async def watch(self) -> None:
        """Start an engine on each node that was not there before."""
        known = set(await self._look())
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            new = sorted(set(await self._look()) - known)
            known.update(new)
            for node in new[self._pool.starting :]:
                name = next(iter(self._pool.failed), None) or self._place(node)
                self._say(f"node {node[:8]} has joined, and gets {name}")
                self._pool.begin(name)
