import pytest

from cluster.placement import Node, PlacementError, plan, plan_asking, refuse_nccl_without_gpus
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
    with pytest.raises(PlacementError, match=r"10 logical CPUs are needed.*have 4: .*cluster\.cpus_per_node"):
        plan(config(rollout={"engines": 8}), [Node("a", 4)])


def test_gpus_are_asked_for_where_ray_knows_of_any() -> None:
    roles = {role.name: role.gpus for role in plan(config(), [Node("a", 16, gpus=2)])}
    assert (roles["learner"], roles["engine"], roles["audio"]) == (1, 1, 0)
    with pytest.raises(
        PlacementError, match=r"2 GPUs are needed and the 1 node\(s\) have 1: add nodes with GPUs, or lower"
    ):
        plan(config(), [Node("a", 16, gpus=1)])


def test_asking_takes_no_gpu_for_a_learner_and_an_engine_on_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    roles = plan_asking(config(), [Node("head", 4), *(Node(str(n), 1.5, gpus=1) for n in range(3))])
    assert [(role.name, role.count, role.gpus) for role in roles] == [("engine", 3, 1), ("audio", 1, 0)]


def test_too_many_engines_for_asking_are_named_with_the_option_that_mends_it() -> None:
    with pytest.raises(PlacementError, match=r"2 GPUs are needed .* have 1: add nodes with GPUs or lower --engines$"):
        plan_asking(config(rollout={"engines": 2}), [Node("a", 16, gpus=1)])


def test_an_engine_of_several_processes_needs_them_on_one_node() -> None:
    settings = config(rollout={"tensor_parallel": 8, "engines": 1})
    nodes = [Node("a", 16, gpus=8), Node("b", 16, gpus=4)]
    assert counts(settings, nodes)["engine"] == 1
    with pytest.raises(PlacementError, match=r"1 x engine need 8 CPU and 8 GPU each on one node.* room for 0: lower"):
        plan(settings, [Node("a", 16, gpus=6), Node("b", 16, gpus=6)])


def test_only_nodes_that_can_hold_an_engine_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    nodes = [Node("learner", 8, gpus=2), Node("a", 8, gpus=2), Node("small", 8, gpus=1), Node("b", 8, gpus=2)]
    assert counts(config(rollout={"tensor_parallel": 2}), nodes)["engine"] == 2


def test_a_node_may_be_given_several_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    nodes = [Node("learner", 8, gpus=8), Node("a", 8, gpus=8), Node("small", 8, gpus=2)]
    assert counts(config(rollout={"engines_per_node": 4}), nodes)["engine"] == 4


def test_labels_say_which_nodes_are_the_learners_and_which_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    large, small = {"kind": "large", "zone": "a"}, {"kind": "small"}
    nodes = [Node("head", 8, 0, {}), Node("a", 8, 8, large), Node("b", 8, 2, small), Node("c", 8, 2, small)]
    settings = config(cluster={"learner_labels": {"kind": "large"}, "engine_labels": small}, learner={"ranks": 8})
    roles = {role.name: role for role in plan(settings, nodes)}
    assert (roles["learner"].where, roles["engine"].count) == ("PACK kind=large", 2)  # no node is taken from engines
    with pytest.raises(PlacementError, match=r"8 GPUs are needed and the 2 node\(s\) with kind=small have 4"):
        plan(config(cluster={"learner_labels": small}, learner={"ranks": 8}, rollout={"engines": 1}), nodes)
    with pytest.raises(PlacementError, match=r"none of the 4 node\(s\) has the labels kind=huge: `ray start --labels"):
        plan(config(cluster={"engine_labels": {"kind": "huge"}}), nodes)


def test_labels_that_are_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cluster\.engine_labels: '!small' is no label.* compared for equality"):
        config(cluster={"engine_labels": {"kind": "!small"}})


def test_a_broadcast_between_gpus_is_refused_where_there_are_none() -> None:
    settings = config(rollout={"weight_transfer": "nccl", "audio": "waveform"})
    refuse_nccl_without_gpus(settings, plan(settings, [Node("a", 16, gpus=2)]))
    with pytest.raises(PlacementError, match=r"nccl needs engines and learner on GPUs.*use object_store"):
        refuse_nccl_without_gpus(settings, plan(settings, [Node("a", 16)]))
