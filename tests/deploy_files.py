"""The files under deploy/, read for tests: manifests, the compositions of containers, and the commands in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from cluster.launch import parser
from cluster.placement import Node
from configs.load import load_config
from configs.schema import Config

CHECKOUT = Path(__file__).resolve().parent.parent
DEPLOY = CHECKOUT / "deploy"
SCALES = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def manifests() -> dict[str, dict[str, Any]]:
    """Every Kubernetes object, by kind and name: `Service/grafana`."""
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    found = [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in found}


def quantity(text: str | int) -> float:
    """What `500m`, `4` or `320Gi` comes to."""
    match = re.fullmatch(r"([\d.]+)(m|[KMGT]i)?", str(text))
    assert match is not None, text
    return float(match[1]) * SCALES[match[2] or ""]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their texts."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def groups(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The groups of pods of a cluster's spec, by name; the head's is `head`."""
    return {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}


def container(template: dict[str, Any]) -> dict[str, Any]:
    """The one container of a pod."""
    [found] = template["spec"]["containers"]
    return dict(found)


def nodes(cluster: dict[str, Any]) -> list[Node]:
    """The Ray nodes that KubeRay starts: one a pod, with the CPUs and GPUs of its limits and its group's labels."""
    found = []
    for name, group in groups(cluster).items():
        limits = container(group["template"])["resources"]["limits"]
        cpus, gpus = quantity(limits["cpu"]), quantity(limits.get("nvidia.com/gpu", 0))
        labels = group.get("labels", {})
        found += [Node(f"{name}-{number}", cpus, gpus, labels) for number in range(group.get("replicas", 1))]
    return found


def launched(words: list[str]) -> tuple[Config, int | None]:
    """The configuration that a command trains with, and its --nodes; it goes on with a run that is there."""
    *start, module = words[:3]
    assert (start, module) == (["python", "-m"], "cluster.launch")
    options = parser().parse_intermixed_args(words[3:])
    assert options.auto_resume
    return load_config(options.config, options.overrides), options.nodes


def discovered(run_name: str) -> set[Path]:
    """The files by which the Prometheus of a container, which has deploy/prometheus at /etc/prometheus, finds a run."""
    read = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    [job] = [job for job in read["scrape_configs"] if job["job_name"] == "auricle"]
    patterns = [pattern for found in job["file_sd_configs"] for pattern in found["files"]]
    return {Path(os.path.normpath(Path("/etc/prometheus", pattern.replace("*", run_name)))) for pattern in patterns}
