"""Which actor needs what, and whether it fits: plain values, so that a dry run can print the plan."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    labels: Mapping[str, str] | None = None
    """None where they are not known; the node then counts as having those that are asked for."""

    def has(self, labels: Mapping[str, str]) -> bool:
        """Whether it has all of these."""
        return self.labels is None or labels.items() <= self.labels.items()


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
    labels: Mapping[str, str] = field(default_factory=dict)
    """What a node has to have to hold one."""

    @property
    def where(self) -> str:
        """Its strategy and labels."""
        return " ".join([self.strategy, *(f"{key}={value}" for key, value in self.labels.items())])


class PlacementError(ValueError):
    """The plan needs more than the cluster has."""


def plan(config: Config, nodes: Sequence[Node]) -> tuple[Role, ...]:
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


def plan_asking(config: Config, nodes: Sequence[Node]) -> tuple[Role, ...]:
    """The actors of a session that trains nothing, with an engine on every node; raises as `plan`."""
    roles = tuple(role for role in _roles(config, nodes, learner_nodes=0) if role.name in ASKING)
    return _fitting(roles, nodes, "add nodes or lower --engines", "add nodes with GPUs or lower --engines")


def _roles(config: Config, nodes: Sequence[Node], learner_nodes: int) -> tuple[Role, ...]:
    use_gpus = config.cluster.device == "gpu" or (config.cluster.device == "auto" and any(node.gpus for node in nodes))
    gpu = 1.0 if use_gpus else 0.0
    shared = config.rollout.tensor_parallel
    engines = config.rollout.engines or _default_engines(config, nodes, use_gpus, learner_nodes)
    beta = config.algorithm.beta
    learner_labels, engine_labels = config.cluster.learner_labels, config.cluster.engine_labels
    return (
        Role("learner", config.learner.ranks, 1.0, gpu, "PACK", f"DeepSpeed ZeRO {config.learner.zero_stage}"
             + (f", reference for beta {beta}" if beta else ", no reference"), learner_labels),
        Role("engine", engines, shared * 1.0, shared * gpu, "SPREAD",
             f"vLLM, {config.algorithm.group_size} completions a request", engine_labels),
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


def _fitting(roles: tuple[Role, ...], nodes: Sequence[Node], more_cpus: str, more_gpus: str) -> tuple[Role, ...]:
    """The roles, unless it is certain that they do not fit."""
    _fit_together(roles, nodes, "", more_cpus, more_gpus)
    for labels in {tuple(role.labels.items()): role.labels for role in roles if role.labels}.values():
        able = [node for node in nodes if node.has(labels)]
        told = ", ".join(f"{key}={value}" for key, value in labels.items())
        if not able:
            raise PlacementError(f"none of the {len(nodes)} node(s) has the labels {told}: `ray start --labels {told}`")
        bound = [role for role in roles if labels.items() <= role.labels.items()]
        _fit_together(bound, able, f" with {told}", more_cpus, more_gpus)
    for role in roles:
        places = sum(room(node, role) for node in nodes)
        if places < role.count:
            raise PlacementError(
                f"{role.count} x {role.name} need {role.cpus:g} CPU and {role.gpus:g} GPU each on one node, and the "
                f"{len(nodes)} node(s) have room for {places}: lower rollout.tensor_parallel or their number, or add "
                "larger nodes"
            )
    return roles


def _fit_together(roles: Sequence[Role], nodes: Sequence[Node], which: str, more_cpus: str, more_gpus: str) -> None:
    """Raise unless the nodes have in all what the roles need in all."""
    need_cpus, have_cpus = sum(role.count * role.cpus for role in roles), sum(node.cpus for node in nodes)
    need_gpus, have_gpus = sum(role.count * role.gpus for role in roles), sum(node.gpus for node in nodes)
    if need_cpus > have_cpus:
        raise PlacementError(
            f"{need_cpus:g} logical CPUs are needed and the {len(nodes)} node(s){which} have {have_cpus:g}: {more_cpus}"
        )
    if need_gpus > have_gpus:
        raise PlacementError(
            f"{need_gpus:g} GPUs are needed and the {len(nodes)} node(s){which} have {have_gpus:g}: {more_gpus}"
        )


def room(node: Node, role: Role) -> int:
    """How many of a role's actors fit on an empty node."""
    return _places(node, role.cpus, role.gpus) if node.has(role.labels) else 0


def _places(node: Node, cpus: float, gpus: float) -> int:
    """How many actors of these needs fit on an empty node."""
    return int(min(have // need for have, need in ((node.cpus, cpus), (node.gpus, gpus)) if need))


def _default_engines(config: Config, nodes: Sequence[Node], use_gpus: bool, learner_nodes: int) -> int:
    """`rollout.engines_per_node` on each node that can hold them and is not left to the learner; on a small machine at
    most two in all."""
    settings, count = config.cluster, config.rollout.engines_per_node
    processes = count * config.rollout.tensor_parallel
    able = [
        node
        for node in nodes
        if node.has(settings.engine_labels) and _places(node, processes, processes * use_gpus) > 0
    ]
    wanted_by_both = sum(node.has(settings.learner_labels) for node in able)
    engines = max(len(able) - min(learner_nodes, wanted_by_both), 1) * count
    return min(engines, SMALL_MACHINE_CPUS) if (os.cpu_count() or 1) <= SMALL_MACHINE_CPUS else engines
