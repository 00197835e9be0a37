import pytest

from cluster.placement import Node, PlacementError, plan
from configs.schema import Config


def config(**changes: object) -> Config:
    return Config.model_validate({"model": {"path": "m"}, "data": {"train": "t"}, **changes})


def counts(settings: Config, nodes: list[Node]) -> dict[str, int]:
    return {role.name: role.count for role in plan(settings, nodes)}


def test_one_node_gets_one_engine_and_one_learner() -> None:
    assert counts(config(), [Node("a", 4)]) == {"learner": 1, "engine": 1, "audio": 1, "reward": 1, "rollout log": 1}


def test_every_rollout_node_gets_an_engine_on_a_machine_with_cores_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert counts(config(), [Node(str(n), 4) for n in range(4)])["engine"] == 3


def test_a_small_machine_gets_two_engines_however_many_nodes_it_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert counts(config(), [Node(str(n), 4) for n in range(4)])["engine"] == 2


def test_too_few_cpus_are_named_with_the_mend() -> None:
    with pytest.raises(PlacementError, match=r"needs 10 logical CPUs.*have 4.*cluster\.cpus_per_node"):
        plan(config(rollout={"engines": 8}), [Node("a", 4)])


def test_gpus_are_asked_for_where_ray_knows_of_any() -> None:
    roles = {role.name: role.gpus for role in plan(config(), [Node("a", 16, gpus=2)])}
    assert (roles["learner"], roles["engine"], roles["audio"]) == (1, 1, 0)
    with pytest.raises(PlacementError, match="needs 2 GPUs"):
        plan(config(), [Node("a", 16, gpus=1)])
