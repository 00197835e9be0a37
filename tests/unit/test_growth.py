"""Which nodes get an engine, on a cluster that a test makes up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import growth
from cluster.growth import Growth, View

FIRST = frozenset({"head", "rollout"})


def view(*nodes: str, used: tuple[str, ...] = ("rollout",), unplaced: int = 0) -> View:
    return View(frozenset(nodes), frozenset(used), unplaced)


class Grown:
    """A pool on a cluster that is found as told, one view after the other; a further engine uses its node."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *views: View, fixed: bool = False, elsewhere: bool = False
    ) -> None:
        monkeypatch.setattr(growth, "WATCH_SECONDS", 0.0)
        self.begun: list[str] = []
        self.said: list[str] = []
        self.failed: dict[str, str] = {}
        self.pool: Any = SimpleNamespace(failed=self.failed, begin=self.begin)
        self._views = list(views)
        self._placed: set[str] = set()
        self._seen = asyncio.Event()
        self._fixed = fixed
        self._elsewhere = elsewhere
        """Whether Ray places further engines on other nodes."""

    def begin(self, name: str) -> None:
        self.failed.pop(name, None)
        self.begun.append(name)

    def further(self, node: str) -> str:
        self._placed.add("another" if self._elsewhere else node)
        return f"on {node}"

    async def look(self) -> View:
        if not self._views:
            self._seen.set()
            await asyncio.sleep(60)
        found = self._views.pop(0)
        return View(found.able, found.used | self._placed, found.unplaced)

    def run(self, a_node: int = 1) -> list[str]:
        """The names of the engines that were begun."""

        async def watch() -> None:
            further = None if self._fixed else self.further
            watched = Growth(self.pool, FIRST, self.look, further, self.said.append, a_node)
            task = asyncio.create_task(watched.watch())
            await self._seen.wait()
            task.cancel()

        asyncio.run(watch())
        return self.begun


def test_each_node_that_joins_gets_an_engine_once_also_while_another_one_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = ("head", "rollout")
    grown = Grown(monkeypatch, view(*nodes), view(*nodes, "new"), view(*nodes, "new"), view(*nodes, "new", "newer"))
    assert grown.run() == ["on new", "on newer"]
    assert grown.said[0] == "node new has joined, and gets on new"


def test_a_node_whose_engine_was_placed_elsewhere_gets_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(monkeypatch, *[view("rollout", "new")] * 5, elsewhere=True)
    assert grown.run() == ["on new"]


def test_a_node_that_joins_gets_as_many_engines_as_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = Grown(monkeypatch, view("head", "rollout", "new"), view("head", "rollout", "new"))
    assert grown.run(a_node=2) == ["on new", "on new"]
    assert grown.said == ["node new has joined, and gets on new and on new"]


def test_nodes_of_the_plan_get_none_whether_they_hold_an_engine_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Grown(monkeypatch, view("head", "rollout"), view("head", "rollout", used=())).run() == []


def test_a_node_that_joined_before_the_first_look_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Grown(monkeypatch, view("head", "rollout", "new")).run() == ["on new"]


def test_a_new_node_is_left_to_an_engine_without_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = view("head", "new", "newer", used=("new",))
    grown = Grown(monkeypatch, view("head", used=(), unplaced=1), view("head", "new", used=(), unplaced=1), moved)
    assert grown.run() == ["on newer"]


@pytest.mark.parametrize("fixed", [False, True])
def test_engines_that_could_not_be_started_are_tried_again_when_the_nodes_are_others(
    monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    same = view("head", "rollout")
    grown = Grown(monkeypatch, same, same, view("head", "rollout", "new", used=("rollout", "new")), same, fixed=fixed)
    grown.failed["engine-0"] = "it had no place"
    assert grown.run() == ["engine-0"]


def test_no_engine_is_added_where_their_number_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Grown(monkeypatch, view("head", "rollout", "new"), fixed=True).run() == []
