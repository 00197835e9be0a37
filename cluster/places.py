"""Where the actors of a run go: Ray's placement groups, one a role, and one for each engine that comes later."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.growth import View
from cluster.placement import Role
from cluster.waiting import bounded

Options = dict[str, Any]
"""What an actor class is given to be placed."""


class Places:
    """What a run has reserved. A place on a node that is lost moves to one with room, as soon as there is one."""

    def __init__(self, wait_seconds: float) -> None:
        self.wait_seconds = wait_seconds
        self._groups: defaultdict[str, list[PlacementGroup]] = defaultdict(list)
        """By role."""

    async def reserve(self, role: Role) -> list[Options]:
        """Reserve what a role needs; gives a place for each of its actors.

        Raises:
            WorkerError: there was no room in time.
        """
        home = ray.get_runtime_context().get_node_id() if role.strategy == "HOME" else None
        group, places = self._ask(role, role.count, home)
        what = f"{role.count} x {role.name} ({role.cpus:g} CPU, {role.gpus:g} GPU each) have not been placed"
        mend = "another run may hold the cluster"
        await bounded(group.ready(), "cluster.wait_seconds", self.wait_seconds, what, mend)
        return places

    def on(self, node: str, role: Role) -> Options:
        """A place on a node, or where there is room once it is lost."""
        _, [place] = self._ask(role, 1, node)
        return place

    async def look(self, role: Role) -> View:
        """Where places of the role lie, and which nodes could hold one."""
        nodes = await asyncio.to_thread(ray.nodes)
        needs = {"CPU": role.cpus, "GPU": role.gpus}
        able = {
            node["NodeID"]
            for node in nodes
            if node["Alive"] and all(node["Resources"].get(kind, 0.0) >= need for kind, need in needs.items())
        }
        tables = [await asyncio.to_thread(placement_group_table, group) for group in self._groups[role.name]]
        where = [node for table in tables for node in table["bundles_to_node_id"].values()]
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        used = alive.intersection(where)
        return View(frozenset(able), frozenset(used), sum(node not in alive for node in where))

    def give_back(self) -> None:
        """Reserve nothing any more."""
        for group in itertools.chain.from_iterable(self._groups.values()):
            remove_placement_group(group)

    def _ask(self, role: Role, count: int, node: str | None) -> tuple[PlacementGroup, list[Options]]:
        bundles = [{"CPU": role.cpus} | ({"GPU": role.gpus} if role.gpus else {})] * count
        if node is None:
            group = placement_group(bundles, strategy=role.strategy)
        else:
            group = placement_group(bundles, strategy="STRICT_PACK", _soft_target_node_id=node)
        self._groups[role.name].append(group)
        resources = {"num_cpus": role.cpus, "num_gpus": role.gpus}
        strategies = [PlacementGroupSchedulingStrategy(group, number) for number in range(count)]
        return group, [{**resources, "scheduling_strategy": strategy} for strategy in strategies]
