"""Where Ray puts the place of an engine that was lost, on a cluster of nodes with room for one engine each."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from cluster import places
from cluster.placement import Role
from cluster.places import Place
from tests.integration.commands import CHECKOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROLE = Role("engine", 1, 1.0, 0.0, "SPREAD", "")
MEMORY_BYTES = 80_000_000
PATIENCE_SECONDS, SOON_SECONDS = 3.0, 30.0


def moves() -> dict[str, Any]:
    """Have a place renewed on a cluster of this process's own; gives where it was, by what was to be avoided."""
    places.PATIENCE_SECONDS = PATIENCE_SECONDS
    settings = {"object_store_memory": MEMORY_BYTES}
    cluster = Cluster(True, True, {"num_cpus": 0, **settings})
    try:
        first, second = (cluster.add_node(num_cpus=1, **settings).node_id for _ in range(2))
        place = Place(ROLE, first)
        found = {"first": first, "second": second, "at first": where(place)}
        asyncio.run(place.renew())
        found["nothing to avoid"] = where(place)
        asyncio.run(place.renew({first}))
        found["the first to avoid"] = where(place)
        other = Place(ROLE, first)
        where(other)
        asyncio.run(place.renew({second}))
        found["no other room"] = where(place)
        return found
    finally:
        ray.shutdown()
        cluster.shutdown()


def where(place: Place) -> str:
    """The node of a place."""
    assert place.group.wait(SOON_SECONDS)
    [node] = placement_group_table(place.group)["bundles_to_node_id"].values()
    return str(node)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """`moves`, in a process of its own: this one may be a driver of another cluster."""
    script = "import json; from tests.integration.test_places import moves; print(json.dumps(moves()))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=CHECKOUT)
    assert told.returncode == 0, told.stderr
    result: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return result


def test_a_place_stays_where_it_is_while_its_node_lives(found: dict[str, Any]) -> None:
    assert found["at first"] == found["nothing to avoid"] == found["first"]


def test_a_place_goes_to_another_node_than_the_one_to_be_avoided(found: dict[str, Any]) -> None:
    assert found["the first to avoid"] == found["second"]


def test_where_no_other_node_has_room_the_place_is_on_the_one_to_be_avoided(found: dict[str, Any]) -> None:
    assert found["no other room"] == found["second"]
