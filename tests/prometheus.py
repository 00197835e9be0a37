"""Prometheus's programs, and a Prometheus that a test has started."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.dashboard.__main__ import VARIABLE, command, configuration, end, wait_until_ready
from tests.free_ports import free_ports

FOR_SECONDS = 10
"""How long an alert's condition has to hold in a test, at most."""


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`, which packages put beside each other.

    Where neither is installed the test is skipped, but not where AURICLE_PROMETHEUS says that they are.
    """
    named = os.environ.get(VARIABLE)
    found = shutil.which(name, path=str(Path(named).parent) if named else None)
    if found is None and not named:
        pytest.skip(f"{name} is not here: install Debian's package prometheus, or set {VARIABLE} to its program")
    assert found is not None, f"{name} is not beside {VARIABLE}={named}"
    return found


class Prometheus:
    """One that answers."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **parameters: str) -> Any:
        """What its HTTP interface answers."""
        with urllib.request.urlopen(f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        return list(self.ask("query", query=expression)["result"])

    def page(self, name: str) -> str:
        """A console page."""
        with urllib.request.urlopen(f"{self.address}/consoles/{name}") as answer:
            return str(answer.read().decode())

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes."""
        return list(self.ask("targets", state="active")["activeTargets"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


def shortened(folder: Path, runs: Path, seconds: int) -> Path:
    """The shipped configuration and rules, written to `folder`, which scrape often and wait for a short time.

    Args:
        folder: where they are written.
        runs: directory of the runs.
        seconds: between two scrapes, evaluations of the rules and looks at the files.
    """
    config: dict[str, Any] = yaml.safe_load(configuration(runs))
    config["global"] = {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"}
    for job in config["scrape_configs"]:
        for discovery in job["file_sd_configs"]:
            discovery["refresh_interval"] = f"{seconds}s"
    files = [Path(name) for name in config["rule_files"]]
    for file in files:
        text = re.sub(r"^( +for: ).*$", rf"\g<1>{FOR_SECONDS}s", file.read_text(), flags=re.MULTILINE)
        (folder / file.name).write_text(text)
    config["rule_files"] = [str(folder / file.name) for file in files]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def prometheus(config: Path, data: Path) -> Iterator[Prometheus]:
    """Start Prometheus with a configuration on a free port, and end it."""
    tool("prometheus")
    [port] = free_ports(1)
    process = subprocess.Popen(command(config, data, port), start_new_session=True)
    try:
        started = Prometheus(f"http://127.0.0.1:{port}")
        wait_until_ready(process, started.address)
        yield started
    finally:
        end(process)
