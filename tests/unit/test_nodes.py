"""What the nodes of an embedded cluster have, on a machine with GPUs."""

from __future__ import annotations

import pytest

from cluster import nodes
from cluster.inference import heard_by_engines
from cluster.nodes import embedded_nodes, gpus_of
from cluster.placement import plan_asking
from configs.schema import Cluster, Config


@pytest.fixture(autouse=True)
def five_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "gpu_count", lambda: 5)
    monkeypatch.delenv(nodes.VISIBLE_GPUS, raising=False)


def config() -> Config:
    model = {"path": "", "audio_tower": "frozen", "projector": "frozen"}
    return Config.model_validate({"model": model, "data": {"train": ""}, "rollout": {"engines": 5}})


def test_every_node_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    two = embedded_nodes(Cluster(nodes=2))
    assert [node.gpus for node in two] == [2, 2]
    assert gpus_of(two) == ["0,1", "2,3"]
    monkeypatch.setenv(nodes.VISIBLE_GPUS, "7,6,GPU-a,GPU-b,1")
    assert gpus_of(two) == ["7,6", "GPU-a,GPU-b"]
    monkeypatch.setenv(nodes.VISIBLE_GPUS, "")
    assert gpus_of(embedded_nodes(Cluster(nodes=6))) == [""] * 6


def test_nodes_without_gpus_see_none() -> None:
    assert gpus_of(embedded_nodes(Cluster(nodes=6))) == [""] * 6


def test_a_node_has_a_logical_cpu_for_every_gpu_and_for_what_takes_none() -> None:
    found = embedded_nodes(Cluster(cpus_per_node=4))
    assert found[0].cpus == 7
    assert [role.count for role in plan_asking(config(), found)] == [5, 1]
    assert embedded_nodes(Cluster(cpus_per_node=16))[0].cpus == 16


def test_clips_are_encoded_by_engines_that_have_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    model = heard_by_engines(config(), plan_asking(config(), embedded_nodes(Cluster()))).model
    assert (model.audio_tower, model.projector) == ("trained", "trained")
    monkeypatch.setattr(nodes, "gpu_count", lambda: 0)
    found = embedded_nodes(Cluster(cpus_per_node=8))
    assert heard_by_engines(config(), plan_asking(config(), found)) == config()
