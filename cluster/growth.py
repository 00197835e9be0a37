"""Ray nodes that join while a run goes on are put to work: each gets an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass

from cluster.rollout_pool import RolloutPool

WATCH_SECONDS = 2.0
"""Between two looks at the cluster."""


@dataclass(frozen=True, slots=True)
class View:
    """What a look at the cluster has found."""

    able: frozenset[str]
    """Nodes that could hold an engine."""
    used: frozenset[str]
    """Nodes on which a place of an engine lies."""
    unplaced: int
    """Places of engines whose node is lost, or that no node has room for."""


class Growth:
    """Looks for new nodes as long as `watch` is awaited.

    An engine whose node was lost may get a place on a new one. A new node on which no engine has its place then
    gets a further engine. Engines that could not be started are tried again whenever the nodes are others.

    Args:
        pool: the engines.
        first: nodes that the run was planned on.
        look: a look at the cluster.
        further: gives the name of a further engine, with a place on that node; None where their number is fixed.
        say: tells the user of a node.
        a_node: engines that a new node gets.
    """

    def __init__(
        self,
        pool: RolloutPool,
        first: Set[str],
        look: Callable[[], Awaitable[View]],
        further: Callable[[str], str] | None,
        say: Callable[[str], None],
        a_node: int,
    ) -> None:
        self._pool = pool
        self._first = first
        self._look = look
        self._further = further
        self._say = say
        self._a_node = a_node
        self._given: set[str] = set()
        """Nodes that were given engines, which Ray may have put elsewhere where such a node was full."""

    async def watch(self) -> None:
        """Look again and again."""
        before = frozenset(self._first)
        while True:
            view = await self._look()
            if view.able != before:
                for name in list(self._pool.failed):
                    self._pool.begin(name)
            before = view.able
            if self._further is not None and not view.unplaced:
                for node in sorted(view.able - view.used - self._first - self._given):
                    self._given.add(node)
                    names = [self._further(node) for _ in range(self._a_node)]
                    self._say(f"node {node[:8]} has joined, and gets {' and '.join(names)}")
                    for name in names:
                        self._pool.begin(name)
            await asyncio.sleep(WATCH_SECONDS)
