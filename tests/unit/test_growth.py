"""Which nodes get an engine, on a cluster that a test makes up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import growth
from cluster.growth import Growth


class Grown:
    """A cluster and a pool; `nodes` may be changed at any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waiting: int = 0) -> None:
        monkeypatch.setattr(growth, "WATCH_SECONDS", 0.001)
        self.nodes = {"head", "rollout"}
        self.begun: list[str] = []
        self.said: list[str] = []
        self.pool: Any = SimpleNamespace(starting=waiting, failed={}, begin=self.begun.append)
        self.looks = 0

    async def look(self) -> set[str]:
        self.looks += 1
        return set(self.nodes)

    async def seen(self) -> None:
        """Two more looks were taken: one may have begun already."""
        after = self.looks + 2
        while self.looks < after:
            await asyncio.sleep(0.001)

    async def follow(self, *changes: set[str]) -> None:
        task = asyncio.create_task(Growth(self.pool, lambda node: f"on {node}", self.look, self.said.append).watch())
        await self.seen()
        for nodes in changes:
            self.nodes = nodes
            await self.seen()
        task.cancel()


def test_a_node_that_joins_gets_an_engine_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(monkeypatch)
    asyncio.run(grown.follow({"head", "rollout", "new"}, {"head", "rollout"}, {"head", "rollout", "new", "newer"}))
    assert grown.begun == ["on new", "on newer"]
    assert grown.said[0] == "node new has joined, and gets on new"


def test_nodes_of_the_start_get_none(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(monkeypatch)
    asyncio.run(grown.follow({"head", "rollout"}))
    assert grown.begun == []


def test_an_engine_that_waits_for_a_place_takes_the_new_node(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(monkeypatch, waiting=1)
    asyncio.run(grown.follow({"head", "first", "second"}))
    assert grown.begun == ["on second"]


def test_an_engine_that_could_not_be_started_is_tried_again_there(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(monkeypatch)
    grown.pool.failed = {"engine-0": "it had no place"}
    asyncio.run(grown.follow({"head", "rollout", "new"}))
    assert grown.begun == ["engine-0"]
