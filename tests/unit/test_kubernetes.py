"""The manifests in deploy/kubernetes: what Kubernetes and KubeRay take, and what they say of Auricle."""

from __future__ import annotations

import os
import shlex
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, validate

from cluster.forecast.estimate import store
from cluster.forecast.forecast import forecast, lengths_of
from cluster.forecast.hardware import hardware
from cluster.placement import plan
from configs.schema import Config
from learner.figure import total
from learner.sizes import find_sizes
from tests.custom_resources import KEEPS_UNKNOWN, closed, misspelt, problems, schema
from tests.deploy_files import CHECKOUT, DEPLOY, container, groups, launched, manifests, nodes, quantity

CUSTOM = {"RayCluster/auricle": "ray.io_rayclusters.yaml.xz", "RayJob/auricle": "ray.io_rayjobs.yaml.xz"}
DEFINITIONS = Path(os.environ.get("AURICLE_KUBERAY") or CHECKOUT.parent / "shared" / "data" / "kuberay")
OLDEST, NEWEST = "1.29", "1.37"
FREE = ("labels", "matchLabels", "rayStartParams", "requests", "limits")
"""Maps whose keys are anybody's."""

FOUND = manifests()
BUILT_IN = [name for name in FOUND if name not in CUSTOM]
CLUSTER: dict[str, Any] = FOUND["RayCluster/auricle"]["spec"]
JOB: dict[str, Any] = FOUND["RayJob/auricle"]["spec"]
CLAIM, POLICY = FOUND["PersistentVolumeClaim/auricle"], FOUND["NetworkPolicy/auricle"]["spec"]
METRICS: dict[str, Any] = FOUND["Service/auricle-metrics"]["spec"]
SUBMITTER: dict[str, Any] = JOB["submitterPodTemplate"]
TEMPLATES = {**{name: group["template"] for name, group in groups(CLUSTER).items()}, "submitter": SUBMITTER}
LOOKING = {name: FOUND[f"Deployment/{name}"]["spec"]["template"] for name in ("prometheus", "grafana")}

needs_definitions = pytest.mark.skipif(
    not DEFINITIONS.is_dir() and "AURICLE_KUBERAY" not in os.environ,
    reason=f"no definitions of KubeRay in {DEFINITIONS}: AURICLE_KUBERAY names their folder",
)


@cache
def definition(kind: str) -> dict[str, Any]:
    return schema(DEFINITIONS / CUSTOM[kind], "v1")


def trained() -> Config:
    """What the job trains with."""
    return launched(shlex.split(JOB["entrypoint"]))[0]


@pytest.mark.heavy
@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", BUILT_IN)
def test_kubernetes_takes_its_own_kinds(name: str, kubernetes: str) -> None:
    validate(FOUND[name], kubernetes, strict=True)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["PersistentVolumeClaim/auricle", "NetworkPolicy/auricle"])
def test_each_misspelt_field_of_kubernetes_own_kinds_is_refused(name: str) -> None:
    fields = [
        (place, changed)
        for place, changed in misspelt(FOUND[name])
        if place[0] not in ("apiVersion", "kind") and not (len(place) > 1 and place[-2] in FREE)
    ]
    assert len(fields) > 5
    for _, changed in fields:
        with pytest.raises(ValidationError):
            validate(changed, NEWEST, strict=True)


@pytest.mark.heavy
@needs_definitions
@pytest.mark.parametrize("kind", CUSTOM)
def test_kuberay_takes_its_kinds(kind: str) -> None:
    assert problems(FOUND[kind], definition(kind)) == []
    stand_in = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": FOUND[kind]["metadata"]}
    validate(stand_in, NEWEST, strict=True)


@pytest.mark.heavy
@needs_definitions
@pytest.mark.parametrize("kind", CUSTOM)
def test_each_misspelt_field_of_kuberays_kinds_is_refused(kind: str) -> None:
    fields = [
        (place, changed)
        for place, changed in misspelt(FOUND[kind])
        if place[0] != "metadata" and not (len(place) > 1 and place[-2] in FREE)
    ]
    accepted = [place for place, changed in fields if not problems(changed, definition(kind))]
    assert len(fields) > 100
    assert accepted == []


@needs_definitions
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("authOptions", "mode"), "tokens"),
        (("workerGroupSpecs", 0, "replicas"), "1"),
        (("headGroupSpec", "rayStartParams", "num-gpus"), 0),
        (("headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "24 GB"),
    ],
)
def test_a_value_of_another_kind_is_refused(path: tuple[str | int, ...], value: object) -> None:
    def changed(node: Any, rest: tuple[str | int, ...]) -> Any:
        if not rest:
            return value
        copy: Any = dict(node) if isinstance(node, dict) else list(node)
        copy[rest[0]] = changed(node[rest[0]], rest[1:])
        return copy

    found = problems({**FOUND["RayCluster/auricle"], "spec": changed(CLUSTER, path)}, definition("RayCluster/auricle"))
    assert any(problem.startswith(".".join(map(str, ("spec", *path)))) for problem in found), found


def test_an_object_that_keeps_unknown_fields_stays_open_and_others_are_closed() -> None:
    free = {"type": "object", "properties": {"a": {"type": "string"}}, KEEPS_UNKNOWN: True}
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    bare = {"type": "object"}
    whole = closed({"type": "object", "properties": {"free": free, "texts": texts, "bare": bare}})
    assert problems({"free": {"b": 1}, "texts": {"c": "d"}, "bare": {}}, whole) == []
    assert len(problems({"free": {"a": 1}, "texts": {"c": 1}, "bare": {"d": 1}, "e": 1}, whole)) == 4


def test_a_list_of_a_field_called_items_or_properties_is_closed_too() -> None:
    inner = {"type": "object", "properties": {"key": {"type": "string"}}}
    whole = closed({"type": "object", "properties": {"items": {"type": "array", "items": inner}, "properties": inner}})
    assert problems({"items": [{"key": "a"}], "properties": {"key": "b"}}, whole) == []
    assert len(problems({"items": [{"kex": "a"}], "properties": {"kex": "b"}}, whole)) == 2


def test_the_job_starts_the_nodes_of_the_cluster() -> None:
    assert JOB["rayClusterSpec"] == CLUSTER


def test_the_version_of_ray_is_the_installed_one() -> None:
    assert CLUSTER["rayVersion"] == version("ray")


def test_the_job_runs_auricle_on_every_node_of_its_cluster() -> None:
    config, count = launched(shlex.split(JOB["entrypoint"]))
    there = nodes(CLUSTER)
    assert count == len(there)
    roles = {role.name: role for role in plan(config, there)}
    assert roles["learner"].gpus * roles["learner"].count == nodes_of("learner")[0].gpus
    assert roles["engine"].count == len(nodes_of("engines"))
    assert all(node.gpus == 0 for node in nodes_of("head"))
    assert all(node.has(roles["learner"].labels) == node.name.startswith("learner") for node in there)
    assert all(node.has(roles["engine"].labels) == node.name.startswith("engines") for node in there)


def nodes_of(group: str) -> list[Any]:
    return [node for node in nodes(CLUSTER) if node.name.startswith(group)]


def test_every_node_has_the_memory_that_the_forecast_asks_for() -> None:
    config = trained()
    sizes = find_sizes("Qwen/Qwen2-Audio-7B-Instruct")
    asked = forecast(config, sizes, hardware("h100", True), lengths_of(config, None), plan(config, nodes(CLUSTER)))
    stored = total(store(config, asked.parts))
    limits = {name: container(group["template"])["resources"]["limits"] for name, group in groups(CLUSTER).items()}
    assert quantity(limits["learner"]["memory"]) > asked.host
    for name in ("learner", "engines"):
        assert int(groups(CLUSTER)[name]["rayStartParams"]["object-store-memory"]) > stored


@pytest.mark.parametrize("name", groups(CLUSTER))
def test_the_object_store_fits_shared_memory_and_that_fits_the_node(name: str) -> None:
    group = groups(CLUSTER)[name]
    [shared_memory] = [volume for volume in group["template"]["spec"]["volumes"] if volume["name"] == "shm"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container(group["template"])["volumeMounts"]}
    assert mounted["/dev/shm"] == "shm"
    assert shared_memory["emptyDir"]["medium"] == "Memory"
    room = quantity(shared_memory["emptyDir"]["sizeLimit"])
    assert int(group["rayStartParams"]["object-store-memory"]) < room
    assert room < quantity(container(group["template"])["resources"]["limits"]["memory"])


@pytest.mark.parametrize("name", groups(CLUSTER))
def test_every_path_of_the_run_lies_on_the_claim_that_every_node_mounts(name: str) -> None:
    template = groups(CLUSTER)[name]["template"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container(template)["volumeMounts"]}
    assert mounts["/shared"]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    config = trained()
    paths = (config.run.dir, config.model.path, config.data.train, config.data.audio_dir)
    assert all(PurePosixPath(path or "").is_relative_to("/shared") for path in paths), paths
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_port_of_the_run_is_the_one_that_is_opened_served_and_let_through() -> None:
    metrics = trained().metrics
    assert metrics.host == "0.0.0.0"
    opened = {port["name"]: port["containerPort"] for port in container(TEMPLATES["head"])["ports"]}
    served = {port["name"]: port["port"] for port in METRICS["ports"]}
    of_nodes, of_operator, of_prometheus = POLICY["ingress"]
    assert opened["auricle"] == served["auricle"] == metrics.port
    assert opened["metrics"] == served["ray"]
    named, free = of_prometheus["ports"][:-1], of_prometheus["ports"][-1]
    assert [port["port"] for port in named] == [metrics.port, opened["metrics"]]
    assert [free["port"], free["endPort"]] == [32768, 60999]  # Linux takes free ports from these
    assert [port["port"] for port in of_operator["ports"]] == [opened["dashboard"]]
    assert "ports" not in of_nodes


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_fence_stands_around_every_pod_and_lets_them_reach_each_other(name: str) -> None:
    labels = TEMPLATES[name]["metadata"]["labels"].items()
    policy = POLICY
    [among] = policy["ingress"][0]["from"]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert among["podSelector"]["matchLabels"].items() <= labels
    assert "namespaceSelector" not in among
    assert (METRICS["selector"].items() <= labels) == (name == "head")


@pytest.mark.parametrize("name", [*TEMPLATES, *LOOKING])
def test_no_pod_has_rights_that_it_does_not_need(name: str) -> None:
    template = (TEMPLATES | LOOKING)[name]
    assert template["spec"]["securityContext"]["runAsNonRoot"]
    assert container(template)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_every_pod_runs_one_image() -> None:
    assert len({container(template)["image"] for template in TEMPLATES.values()}) == 1


def test_nodes_know_each_other_by_a_token() -> None:
    assert CLUSTER["authOptions"]["mode"] == "token"
    assert CLUSTER["authOptions"]["secretName"]


def test_prometheus_sees_the_directory_that_the_run_writes_and_is_let_through() -> None:
    pod = FOUND["Deployment/prometheus"]["spec"]["template"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container(pod)["volumeMounts"]}
    runs = mounts["/runs"]
    assert volumes[runs["name"]]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    assert PurePosixPath("/shared", runs["subPath"]) == PurePosixPath(trained().run.dir)
    [scraper] = POLICY["ingress"][2]["from"]
    assert "namespaceSelector" not in scraper
    assert scraper["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_prometheus_and_grafana_are_those_of_the_composition(name: str) -> None:
    composed = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"][name]
    deployed = FOUND[f"Deployment/{name}"]["spec"]
    pod = container(deployed["template"])
    assert pod["image"] == composed["image"]
    assert {entry["name"]: entry["value"] for entry in pod.get("env", [])} == composed.get("environment", {})
    service = FOUND[f"Service/{name}"]["spec"]
    assert service["selector"] == deployed["selector"]["matchLabels"] == deployed["template"]["metadata"]["labels"]
    [opened], [served], [published] = pod["ports"], service["ports"], composed["ports"]
    assert opened["name"] == served["targetPort"]
    assert str(opened["containerPort"]) == str(served["port"]) == published.split(":")[-1]


def test_whoever_reaches_grafana_may_look_and_nobody_may_change_anything() -> None:
    told = {entry["name"]: entry["value"] for entry in container(LOOKING["grafana"])["env"]}
    assert told["GF_AUTH_ANONYMOUS_ENABLED"] == told["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert told["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert told["GF_AUTH_BASIC_ENABLED"] == "false"
    assert "GF_AUTH_ANONYMOUS_ORG_ROLE" not in told  # a viewer, unless it is said


@pytest.mark.parametrize(("name", "let_in"), [("prometheus", ["grafana"]), ("grafana", [])])
def test_what_asks_for_no_password_is_fenced(name: str, let_in: list[str]) -> None:
    fence = FOUND[f"NetworkPolicy/{name}"]["spec"]
    assert fence["podSelector"]["matchLabels"] == LOOKING[name]["metadata"]["labels"]
    assert fence["policyTypes"] == ["Ingress"]
    sources = [source for rule in fence.get("ingress", []) for source in rule["from"]]
    assert [source["podSelector"]["matchLabels"] for source in sources] == [
        LOOKING[other]["metadata"]["labels"] for other in let_in
    ]


def test_grafana_asks_the_service_of_prometheus() -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    [source] = provisioned["datasources"]
    [port] = FOUND["Service/prometheus"]["spec"]["ports"]
    assert source["url"] == f"http://{FOUND['Service/prometheus']['metadata']['name']}:{port['port']}"
