"""Which actor needs what, and whether it fits: plain values, so that a dry run can print the plan."""

from __future__ import annotations

import os
from dataclasses import dataclass

from configs.schema import Config

SMALL_MACHINE_CPUS = 2
"""A machine with no more cores than this gets at most as many engines, whatever the number of its Ray nodes."""


ASKING = ("engine", "audio")
"""What a session needs that trains nothing."""

SAMPLING = ("reward", "rollout log")
"""What supervised fine-tuning does without."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Ray node's logical resources."""

    name: str
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Role:
    """A kind of actor: how many, what each reserves, and how Ray spreads them."""

    name: str
    count: int
    cpus: float
    gpus: float
    strategy: str
    """PACK keeps them together, SPREAD apart, HOME with the control loop where there is room: losing another node then
    loses none of them."""
    note: str


class PlacementError(ValueError):
    """The plan needs more than the cluster has."""


def plan(config: Config, nodes: list[Node]) -> tuple[Role, ...]:
    """The actors of a run on these nodes.

    Raises:
        PlacementError: with what is missing.
    """
    learner_nodes = config.cluster.learner_nodes
    fewer = "lower rollout.engines, rollout.tensor_parallel, learner.ranks"
    cpus = f"raise cluster.cpus_per_node or --nodes, or {fewer} or data.encoders"
    gpus = f"add nodes with GPUs, or {fewer}"
    roles = _roles(config, nodes, learner_nodes)
    if config.algorithm.name == "sft":
        evaluated = config.data.test is not None or (config.data.validation is not None and config.evaluate.every_steps)
        idle = SAMPLING if evaluated else ("engine", *SAMPLING)
        roles = tuple(role for role in roles if role.name not in idle)
    return _fitting(roles, nodes, cpus, gpus)


def plan_asking(config: Config, nodes: list[Node]) -> tuple[Role, ...]:
    """The actors of a session that trains nothing, with an engine on every node; raises as `plan`."""
    roles = tuple(role for role in _roles(config, nodes, learner_nodes=0) if role.name in ASKING)
    return _fitting(roles, nodes, "add nodes or lower --engines", "add nodes with GPUs or lower --engines")


def _roles(config: Config, nodes: list[Node], learner_nodes: int) -> tuple[Role, ...]:
    use_gpus = config.cluster.device == "gpu" or (config.cluster.device == "auto" and any(node.gpus for node in nodes))
    gpu = 1.0 if use_gpus else 0.0
    shared = config.rollout.tensor_parallel
    engines = config.rollout.engines or _default_engines(nodes, shared, use_gpus, learner_nodes)
    beta = config.algorithm.beta
    return (
        Role("learner", config.learner.ranks, 1.0, gpu, "PACK", f"DeepSpeed ZeRO {config.learner.zero_stage}"
             + (f", reference for beta {beta}" if beta else ", no reference")),
        Role("engine", engines, shared * 1.0, shared * gpu, "SPREAD",
             f"vLLM, {config.algorithm.group_size} completions a request"),
        Role("audio", config.data.encoders, 0.5, 0.0, "HOME" if config.data.encoders == 1 else "SPREAD",
             f"{config.model.audio_tower} tower"),
        Role("reward", 1, 0.25, 0.0, "HOME", " + ".join(f"{r.weight:g} {r.name or r.use}" for r in config.rewards)),
        Role("rollout log", 1, 0.25, 0.0, "HOME", "Parquet"),
    )  # fmt: skip


def refuse_nccl_without_gpus(config: Config, roles: tuple[Role, ...]) -> None:
    """Raise PlacementError where weights are to be broadcast from GPU to GPU and there is none."""
    if config.rollout.weight_transfer == "nccl" and not all(role.gpus for role in roles if role.name == "engine"):
        raise PlacementError(
            "rollout.weight_transfer: nccl needs engines and learner on GPUs, and the plan has none: use object_store"
        )


def _fitting(roles: tuple[Role, ...], nodes: list[Node], more_cpus: str, more_gpus: str) -> tuple[Role, ...]:
    need_cpus, have_cpus = sum(role.count * role.cpus for role in roles), sum(node.cpus for node in nodes)
    need_gpus, have_gpus = sum(role.count * role.gpus for role in roles), sum(node.gpus for node in nodes)
    if need_cpus > have_cpus:
        raise PlacementError(
            f"{need_cpus:g} logical CPUs are needed and the {len(nodes)} node(s) have {have_cpus:g}: {more_cpus}"
        )
    if need_gpus > have_gpus:
        raise PlacementError(
            f"{need_gpus:g} GPUs are needed and the {len(nodes)} node(s) have {have_gpus:g}: {more_gpus}"
        )
    for role in roles:
        places = sum(_places(node, role.cpus, role.gpus) for node in nodes)
        if places < role.count:
            raise PlacementError(
                f"{role.count} x {role.name} need {role.cpus:g} CPU and {role.gpus:g} GPU each on one node, and the "
                f"{len(nodes)} node(s) have room for {places}: lower rollout.tensor_parallel or their number, or add "
                "larger nodes"
            )
    return roles


def _places(node: Node, cpus: float, gpus: float) -> int:
    """How many actors of these needs fit on an empty node."""
    return int(min(have // need for have, need in ((node.cpus, cpus), (node.gpus, gpus)) if need))


def _default_engines(nodes: list[Node], processes: int, use_gpus: bool, learner_nodes: int) -> int:
    """One on each node that can hold one and is not the learner's; on a small machine at most two in all."""
    able = sum(_places(node, processes, processes * use_gpus) > 0 for node in nodes)
    engines = max(able - learner_nodes, 1)
    return min(engines, SMALL_MACHINE_CPUS) if (os.cpu_count() or 1) <= SMALL_MACHINE_CPUS else engines
