"""The image and the composition in deploy/docker: what they name is there, and the parts know each other."""

from __future__ import annotations

import shlex
import socket
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from actors.exporter import Endpoint
from cluster.targets import listed
from tests.deploy_files import CHECKOUT, DEPLOY, discovered, instructions, launched

FILE = DEPLOY / "docker" / "compose.yaml"
COMPOSITION: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSITION["services"]
PROVISIONING = DEPLOY / "grafana" / "provisioning"


def mounts(service: str) -> dict[str, str]:
    """What a service mounts, by the path inside: the name of a volume, or a path beside compose.yaml."""
    return {
        inside: outside for outside, inside, *_ in (entry.split(":") for entry in SERVICES[service].get("volumes", []))
    }


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_mounts_exists_or_is_a_declared_volume(service: str) -> None:
    for outside in mounts(service).values():
        assert outside in COMPOSITION["volumes"] or (FILE.parent / outside).exists(), outside


def test_the_training_service_is_built_from_this_checkout_and_launches_a_run() -> None:
    built = SERVICES["train"]["build"]
    context = (FILE.parent / built["context"]).resolve()
    assert context == CHECKOUT
    assert (context / built["dockerfile"]).is_file()
    config, _ = launched(SERVICES["train"]["command"])
    assert config.cluster.object_store_bytes < int(SERVICES["train"]["shm_size"].removesuffix("gb")) * 2**30
    assert config.run.dir in mounts("train")


def test_the_image_takes_the_arguments_that_it_is_built_with() -> None:
    arguments = {text.partition("=")[0] for name, text in instructions() if name == "ARG"}
    assert SERVICES["train"]["build"]["args"].keys() <= arguments


def test_the_image_has_the_python_of_the_project_and_a_user_without_rights() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    found = dict(instructions())
    assert found["FROM"].startswith(f"python:{project['requires-python'].removeprefix('==').removesuffix('.*')}-")
    assert int(found["USER"]) > 0
    assert found["WORKDIR"] == "/auricle"


def test_volumes_of_the_training_service_are_made_for_the_images_user() -> None:
    [made] = [
        shlex.split(command)[1:]
        for name, text in instructions()
        if name == "RUN"
        for command in text.split("&&")
        if command.split()[0] == "install"
    ]
    assert set(mounts("train")) == {path for path in made if path.startswith("/")}


def test_what_git_ignores_stays_out_of_the_image() -> None:
    ignored = [line.rstrip("/") for line in (CHECKOUT / ".gitignore").read_text().splitlines()]
    left_out = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert [pattern for pattern in ignored if f"**/{pattern}" not in left_out] == []


def test_prometheus_finds_the_run_by_the_file_that_it_keeps(tmp_path: Path) -> None:
    config, _ = launched(SERVICES["train"]["command"])
    assert mounts("prometheus")["/etc/prometheus"] == "../prometheus"
    assert mounts("prometheus")[config.run.dir] == mounts("train")[config.run.dir]
    with listed(tmp_path / config.run.name, Endpoint("127.0.0.1", 9464, socket.gethostname())):
        [kept] = tmp_path.iterdir()
    assert discovered(config.run.name) == {Path(config.run.dir, kept.name)}
    assert config.metrics.host == "0.0.0.0"
    assert str(config.metrics.port) in SERVICES["train"]["expose"]


def test_grafana_asks_prometheus_and_shows_the_dashboard() -> None:
    [source] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    address = urlsplit(source["url"])
    assert address.hostname in SERVICES
    assert [port.split(":")[-1] for port in SERVICES["prometheus"]["ports"]] == [str(address.port)]
    assert mounts("grafana")["/etc/grafana/provisioning"] == "../grafana/provisioning"
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "auricle.yaml").read_text())["providers"]
    shown = [PurePosixPath(path) for path in mounts("grafana") if path.endswith(".json")]
    assert [str(path.parent) for path in shown] == [provider["options"]["path"]]
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(shown[0])


@pytest.mark.parametrize("service", ["prometheus", "grafana"])
def test_what_asks_for_no_password_is_open_to_this_machine_alone(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service]["ports"])
    assert "ports" not in SERVICES["train"]


def test_provisioning_holds_yaml_alone() -> None:
    files = [file for file in PROVISIONING.rglob("*") if file.is_file()]
    assert files
    assert all(Path(file).suffix == ".yaml" for file in files)
