"""On nodes of the sizes in deploy/kubernetes, Ray places a run as the manifest's groups are meant."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.deploy_files import groups, manifests, nodes
from tests.integration.commands import CHECKOUT

pytestmark = pytest.mark.slow

JOB = manifests()["RayJob/auricle"]["spec"]
BYTES = 100_000_000

SCRIPT = """
import asyncio, json, sys
import ray
from ray.util.placement_group import placement_group_table
from cluster.nodes import alive_nodes
from cluster.placement import Node, plan
from cluster.places import Places
from tests.deploy_files import launched

ray.init(sys.argv[1], log_to_driver=False)
alive = {node["NodeID"]: node["Resources"] for node in alive_nodes()}
there = [Node(node["NodeID"], node["Resources"]["CPU"], node["Resources"].get("GPU", 0.0), node["Labels"])
         for node in alive_nodes()]
roles = {role.name: role for role in plan(launched(sys.argv[2:])[0], there)}

def group(node):
    return next(name.removeprefix("group-") for name in alive[node] if name.startswith("group-")) + "/" + node

async def placed():
    places = Places(60.0)
    await places.reserve_engines(roles["engine"])
    given = {name: await places.reserve(role) for name, role in roles.items() if name != "engine"}
    bundles = {name: placement_group_table(options[0]["scheduling_strategy"].placement_group)["bundles_to_node_id"]
               for name, options in given.items()}
    found = {name: [group(node) for node in nodes.values()] for name, nodes in bundles.items()}
    engines = [placement_group_table(place.group)["bundles_to_node_id"] for place in places.engines]
    found["engine"] = [group(node) for nodes in engines for node in nodes.values()]
    places.give_back()
    return found

print(json.dumps(asyncio.run(placed())))
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A logical node for each of the manifest's, which knows its group."""
    started = Cluster()
    try:
        for node in nodes(JOB["rayClusterSpec"]):
            started.add_node(
                num_cpus=int(node.cpus),
                num_gpus=int(node.gpus),
                labels=dict(node.labels or {}),
                resources={f"group-{node.name.rpartition('-')[0]}": 1},
                object_store_memory=BYTES,
                include_dashboard=False,
            )
        yield started
    finally:
        started.shutdown()


def test_the_ranks_share_the_learners_node_and_every_engine_has_a_node_of_its_own(cluster: Cluster) -> None:
    command = [sys.executable, "-c", SCRIPT, cluster.address, *shlex.split(JOB["entrypoint"])]
    told = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=200)
    assert told.returncode == 0, told.stderr
    found: dict[str, list[str]] = json.loads(told.stdout.splitlines()[-1])

    of_group = {name: Counter(place.split("/")[0] for place in places) for name, places in found.items()}
    replicas = groups(JOB["rayClusterSpec"])["engines"]["replicas"]
    assert len(set(found["learner"])) == 1
    assert set(of_group["learner"]) == {"learner"}
    assert of_group["engine"] == {"engines": replicas}
    assert len(set(found["engine"])) == replicas
    assert set(of_group["reward"]) == set(of_group["rollout log"]) == {"head"}
