"""Where the actors of a run go: Ray's placement groups, one a role, and one for each engine."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.growth import WATCH_SECONDS, View
from cluster.nodes import alive_nodes, planned_on
from cluster.placement import Role, room
from cluster.waiting import bounded, in_thread

NODE_LABEL = "ray.io/node-id"
"""Ray's own, of every node."""

PATIENCE_SECONDS = 20.0
"""Longest wait for a node that is better than one that is to be avoided."""

Options = dict[str, Any]
"""What an actor class is given to be placed."""


class Place:
    """What one engine needs, reserved on its own, so that it can be given back and asked for anew.

    Args:
        role: what it needs.
        node: where it is to be, if there is room.
    """

    def __init__(self, role: Role, node: str) -> None:
        self._role = role
        self.group = _ask(role, 1, node)

    @property
    def options(self) -> Options:
        """What the engine is given."""
        return _options(self._role, self.group, 0)

    async def lost(self, avoid: Collection[str] = ()) -> bool:
        """Whether its node is, or is one to `avoid`; not where it waits for one that has room."""
        table = await self.table()
        alive = {node["NodeID"] for node in await in_thread(alive_nodes)}
        return table["state"] != "PENDING" and not (alive - set(avoid)).intersection(
            table["bundles_to_node_id"].values()
        )

    async def node(self) -> str | None:
        """Where it is, as far as it has been placed."""
        return next(iter((await self.table())["bundles_to_node_id"].values()), None) or None  # '' is no node yet

    async def table(self) -> dict[str, Any]:
        """What Ray tells of it."""
        return await in_thread(lambda: placement_group_table(self.group))

    async def until_lost(self) -> None:
        """Wait until its node is lost. Ray learns of it seconds after what ran there has been missed."""
        while not await self.lost():
            await asyncio.sleep(WATCH_SECONDS)

    async def renew(self, avoid: Collection[str] = ()) -> None:
        """Ask for another place if its node is lost or to be avoided; it is there as soon as a node has room.

        Where no other node has room soon, the place may be on one that is to be avoided.

        Ray would look for one too, but without a pause: while the nodes are full, its control service takes a core for
        that, and the agent that hears of every try another (ray-project/ray#65007).
        """
        if not await self.lost(avoid):
            return
        before, self.group = self.group, _ask(self._role, 1, None, avoid)
        remove_placement_group(before)
        if avoid and not await in_thread(lambda: self.group.wait(PATIENCE_SECONDS)):
            remove_placement_group(self.group)
            self.group = _ask(self._role, 1, None)


class Places:
    """What a run has reserved."""

    def __init__(self, wait_seconds: float) -> None:
        self.wait_seconds = wait_seconds
        self.engines: list[Place] = []
        self._groups: list[PlacementGroup] = []
        """Of the other roles."""

    async def reserve(self, role: Role) -> list[Options]:
        """Reserve what a role needs; gives a place for each of its actors.

        Raises:
            WorkerError: there was no room in time.
        """
        home = ray.get_runtime_context().get_node_id() if role.strategy == "HOME" else None
        group = _ask(role, role.count, home)
        self._groups.append(group)
        await self._ready(role, group)
        return [_options(role, group, number) for number in range(role.count)]

    async def reserve_engines(self, role: Role) -> None:
        """Reserve a place for each engine, spread over the nodes as Ray would; raises as `reserve`."""
        together = _ask(role, role.count, None)
        try:
            await self._ready(role, together)
            nodes = placement_group_table(together)["bundles_to_node_id"]
        finally:
            remove_placement_group(together)
        self.engines = [Place(role, nodes[number]) for number in range(role.count)]
        await self._ready(role, *(place.group for place in self.engines))

    async def look(self, role: Role, count: int) -> View:
        """Where engines have their places, and which nodes could hold so many."""
        nodes = await in_thread(alive_nodes)
        able = {node["NodeID"] for node in nodes if room(planned_on(node), role) >= count}
        where = [node for place in self.engines for node in (await place.table())["bundles_to_node_id"].values()]
        alive = {node["NodeID"] for node in nodes}
        return View(frozenset(able), frozenset(alive.intersection(where)), sum(node not in alive for node in where))

    def give_back(self) -> None:
        """Reserve nothing any more."""
        for group in [*self._groups, *(place.group for place in self.engines)]:
            remove_placement_group(group)

    async def _ready(self, role: Role, *groups: PlacementGroup) -> None:
        what = f"{role.count} x {role.name} ({role.cpus:g} CPU, {role.gpus:g} GPU each) have not been placed"
        mend = "another run may hold the cluster"
        ready = asyncio.gather(*(group.ready() for group in groups))
        await bounded(ready, "cluster.wait_seconds", self.wait_seconds, what, mend)


def _ask(role: Role, count: int, node: str | None, avoid: Collection[str] = ()) -> PlacementGroup:
    """Have Ray set aside what that many actors need, on that node where it has room, and never on those to `avoid`."""
    bundles = [{"CPU": role.cpus} | ({"GPU": role.gpus} if role.gpus else {})] * count
    wanted = dict(role.labels) | ({NODE_LABEL: f"!in({','.join(sorted(avoid))})"} if avoid else {})
    labels = [wanted] * count if wanted else None
    where = {"strategy": role.strategy} if node is None else {"strategy": "STRICT_PACK", "_soft_target_node_id": node}
    group: PlacementGroup = placement_group(bundles, bundle_label_selector=labels, **where)
    return group


def _options(role: Role, group: PlacementGroup, number: int) -> Options:
    strategy = PlacementGroupSchedulingStrategy(group, number)
    return {"num_cpus": role.cpus, "num_gpus": role.gpus, "scheduling_strategy": strategy}
