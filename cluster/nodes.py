"""The Ray cluster of a run: joined where there is one, else started on this machine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

import ray
from ray.cluster_utils import Cluster as LocalCluster

from cluster import interrupt
from cluster.authentication import MEND, refused, require_token
from cluster.environment import gpu_count
from cluster.placement import Node
from cluster.waiting import ended
from configs.schema import Cluster

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray inside `ray job submit`."""

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""Names the GPUs that a process may use; Ray sets it for actors that reserve some."""

CPUS_BESIDE_GPUS = 2
"""Logical CPUs of an embedded node for what takes no GPU, beside one for each process that does."""


class ClusterError(RuntimeError):
    """The cluster could not be joined, or has too few nodes."""


def existing_address() -> str | None:
    """The cluster that the environment names, or None."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    return "auto" if JOB_VARIABLE in os.environ else None


def embedded_nodes(settings: Cluster) -> list[Node]:
    """The nodes that an embedded cluster will have."""
    count = settings.nodes or 1
    each = gpu_count() // count
    cpus = max(settings.cpus_per_node, each + CPUS_BESIDE_GPUS if each else 0)
    return [Node(f"embedded-{number}", cpus, each, {}) for number in range(count)]


def gpus_of(nodes: Sequence[Node]) -> list[str]:
    """The GPUs that each embedded node has to itself, as `VISIBLE_GPUS` names them."""
    told = os.environ.get(VISIBLE_GPUS)
    names = told.split(",") if told else [str(number) for number in range(gpu_count())]
    ends = list(accumulate(int(node.gpus) for node in nodes))
    return [",".join(names[start:end]) for start, end in pairwise([0, *ends])]


@contextmanager
def connected(settings: Cluster, say: Callable[[str], None]) -> Iterator[list[Node]]:
    """Join or start a cluster for the length of the block; gives its nodes.

    Args:
        settings: number of nodes, CPUs of an embedded node, longest wait.
        say: takes a progress line.
    """
    address = existing_address()
    if address is not None:
        say(f"joining the Ray cluster at {address}")
        _join(address)
        try:
            yield _wait_for_nodes(settings, say)
        finally:
            ended(ray.shutdown)
        return
    nodes = embedded_nodes(settings)
    say(f"starting an embedded Ray cluster of {len(nodes)} node(s) on this machine")
    logging.getLogger("ray").setLevel(logging.ERROR)  # its notes on addresses are about clusters of its own
    require_token()
    local = LocalCluster()
    try:
        _start(local, nodes, settings.object_store_bytes)
        yield _wait_for_nodes(settings, say)
    finally:
        ended(ray.shutdown)
        local.shutdown()


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=True)
        interrupt.listen()
    except Exception as error:
        if not refused(error):
            raise
        raise ClusterError(f"the Ray cluster at {address} asks for a token, and this is not it: {MEND}") from error


def _start(local: LocalCluster, nodes: Sequence[Node], object_store_bytes: int) -> None:
    try:
        for node, gpus in zip(nodes, gpus_of(nodes), strict=True):
            local.add_node(
                num_cpus=int(node.cpus),
                num_gpus=int(node.gpus),
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                env_vars={VISIBLE_GPUS: gpus},  # every node counts its GPUs from the first of these
            )
        ray.init(address=local.address, log_to_driver=False, logging_level=logging.ERROR)
        interrupt.listen()
    except Exception as error:
        raise ClusterError(
            f"Ray could not start {len(nodes)} node(s) on this machine, which may be too busy ({error}); try again"
        ) from error


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster that are not lost, as `ray.nodes` tells of them."""
    return [node for node in ray.nodes() if node["Alive"]]


def planned_on(node: Mapping[str, Any]) -> Node:
    """A node of `alive_nodes` as the plan sees it."""
    resources = node["Resources"]
    return Node(node["NodeID"], resources.get("CPU", 0.0), resources.get("GPU", 0.0), node["Labels"])


def _wait_for_nodes(settings: Cluster, say: Callable[[str], None]) -> list[Node]:
    wanted = settings.nodes or 1
    deadline = time.monotonic() + settings.wait_seconds
    said = -1
    while True:
        alive = alive_nodes()
        if len(alive) >= wanted:
            return [planned_on(node) for node in alive]
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{len(alive)} of {wanted} Ray nodes after {settings.wait_seconds:g} s: start more, lower --nodes, or "
                f"raise cluster.wait_seconds"
            )
        if len(alive) != said:
            say(f"{len(alive)} of {wanted} Ray nodes are there, waiting up to {settings.wait_seconds:g} s for more")
            said = len(alive)
        time.sleep(0.5)
