"""Who of a run still answers, and how often somebody may be lost before the run ends.

Every actor is asked again and again, whatever it is at: one whose process hangs, or whose machine is gone, is found
long before the limit of what it was to do.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from cluster.waiting import GONE, in_thread
from data.errors import last_line

BEAT_SECONDS = 5.0
"""Between two questions to an actor, or to Ray's control service."""

RAY_SECONDS = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112 - Ray's name
"""How long a process of Ray goes on without Ray's control service before Ray ends it, without a word of ours."""
CONTROL_SECONDS = 0.6 * RAY_SECONDS
"""How long a run goes on without it."""

HOUR_SECONDS = 3600.0
UNLUCKY = 3
"""Losses on one node within an hour, after which it gets no engine while another node can hold one."""

Silent = Callable[[str, Any, str, bool], Awaitable[None]]
"""Called with the name of an actor, the actor, why it counts as lost, and whether Ray has started it again already."""


class ActorLost(RuntimeError):
    """An actor is lost without which nothing goes on."""


class RayLost(RuntimeError):
    """The Ray cluster of the run is gone."""


class TooManyLost(RuntimeError):
    """More was lost within an hour than a run is to put up with."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Somebody who was lost and replaced."""

    at: float
    name: str
    node: str | None
    """None where it is not known."""
    why: str


class Losses:
    """What was lost within the last hour.

    Args:
        most: `cluster.max_losses_per_hour`.
        clock: seconds that never go back.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._recent: deque[Loss] = deque()
        self._exceeded = asyncio.Event()
        self._told = ""

    async def too_many(self) -> None:
        """Wait for one loss more than there may be within an hour.

        Raises:
            TooManyLost: there it is; tells who was lost, where and why.
        """
        await self._exceeded.wait()
        raise TooManyLost(self._told)

    def note(self, name: str, node: str | None, why: str) -> None:
        """Somebody was lost, on that node."""
        self._recent.append(Loss(self._clock(), name, node, why))
        recent = self._within_the_hour()
        if len(recent) <= self._most:
            return
        names = ", ".join(f"{count} x {name}" for name, count in Counter(loss.name for loss in recent).most_common())
        places = Counter(loss.node for loss in recent).most_common()
        nodes = ", ".join(f"{count} on {'an unknown node' if node is None else node[:8]}" for node, count in places)
        self._exceeded.set()
        self._told = (
            f"{len(recent)} actors were lost within an hour, more than cluster.max_losses_per_hour ({self._most}): "
            f"{names}; {nodes}. The last: {why}. When that is mended, --resume goes on from the last checkpoint"
        )

    def unlucky_nodes(self) -> set[str]:
        """Nodes on which too much was lost."""
        counts = Counter(loss.node for loss in self._within_the_hour() if loss.node is not None)
        return {node for node, count in counts.items() if count >= UNLUCKY}

    def _within_the_hour(self) -> list[Loss]:
        while self._recent and self._recent[0].at < self._clock() - HOUR_SECONDS:
            self._recent.popleft()
        return list(self._recent)


async def watch_control(answers: Callable[[], object] = ray.nodes, seconds: float = CONTROL_SECONDS) -> None:
    """Ask Ray's control service, which lives on the head node, whether it is there, as long as this is awaited.

    Args:
        answers: asks it, and comes back once it has answered.
        seconds: longest wait for an answer.

    Raises:
        RayLost: it has not answered in time.
    """
    while True:
        try:
            async with asyncio.timeout(seconds):
                await in_thread(answers)
        except TimeoutError:
            raise RayLost(
                f"Ray's control service has not answered for {seconds:g} s: the cluster's head node, or all of Ray, is "
                f"gone; a run goes on from its last checkpoint with --resume, when there is a cluster again"
            ) from None
        await asyncio.sleep(BEAT_SECONDS)


class Watch:
    """Asks actors whether they are there, one question to each at a time.

    Args:
        seconds: longest wait for an answer.
        start_seconds: longest wait for the first answer of an actor, and of one that was started again.
        actors: those that are to answer now, by name; they may be others at every look.
        silent: called for one that has died or has not answered in time; what it raises ends the watch.
    """

    def __init__(
        self, seconds: float, start_seconds: float, actors: Callable[[], Mapping[str, Any]], silent: Silent
    ) -> None:
        self._seconds = seconds
        self._start_seconds = start_seconds
        self._actors = actors
        self._silent = silent
        self._processes: dict[Any, int] = {}
        """Ids, by actor that has answered since it was last lost: Ray starts some of them again by itself."""

    async def keep(self) -> None:
        """Watch as long as this is awaited."""
        async with asyncio.TaskGroup() as tasks:
            asked: dict[str, asyncio.Task[None]] = {}
            while True:
                for name, actor in self._actors().items():
                    if name not in asked or asked[name].done():
                        asked[name] = tasks.create_task(self._ask(name, actor))
                await asyncio.sleep(BEAT_SECONDS)

    async def _ask(self, name: str, actor: Any) -> None:
        before, again = self._processes.get(actor), False
        seconds = self._start_seconds if before is None else self._seconds
        try:
            async with asyncio.timeout(seconds):
                process = await actor.beat.remote()
        except TimeoutError:
            why = f"no answer for {seconds:g} s: its process hangs, or its machine is gone"
        except GONE as error:
            why = last_line(error)
        else:
            self._processes[actor] = process
            if before in (None, process):
                return
            why, again = f"its process {before} has ended", True
        if not again:
            self._processes.pop(actor, None)
        await self._silent(name, actor, why, again)
