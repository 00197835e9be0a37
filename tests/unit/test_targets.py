"""Whom Prometheus is told to scrape of a run."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from actors.exporter import Endpoint
from cluster.targets import listed

HERE = socket.gethostname()
CONTROLLER = Endpoint("127.0.0.1", 9464, HERE)


def read(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Address and labels of every target that Prometheus finds."""
    entries = json.loads((folder / "my run.targets.json").read_text())
    return [(address, entry["labels"]) for entry in entries for address in entry["targets"]]


def node(name: str, port: int) -> dict[str, Any]:
    """A Ray node, as `ray.nodes` tells of it."""
    return {"NodeID": name * 56, "NodeManagerAddress": "10.0.0.7", "MetricsExportPort": port, "Alive": True}


def test_every_process_of_a_run_is_listed_with_its_role_while_the_run_goes_on(tmp_path: Path) -> None:
    with listed(tmp_path / "my run", CONTROLLER) as targets:
        targets.add("engine", "engine-1", Endpoint("127.0.0.1", 5001, HERE))
        targets.add("learner", "0", Endpoint("10.0.0.7", 5002, "another machine"))
        targets.set_nodes([node("a", 5003)])
        assert read(tmp_path) == [
            ("127.0.0.1:9464", {"run": "my run", "role": "controller"}),
            ("127.0.0.1:5001", {"run": "my run", "role": "engine", "engine": "engine-1"}),
            ("10.0.0.7:5002", {"run": "my run", "role": "learner", "rank": "0"}),
            ("10.0.0.7:5003", {"run": "my run", "role": "ray", "node": "aaaaaaaa"}),
        ]
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_engine_takes_the_entry_of_the_lost_one(tmp_path: Path) -> None:
    with listed(tmp_path / "my run", CONTROLLER) as targets:
        targets.add("engine", "engine-0", Endpoint("127.0.0.1", 5001, HERE))
        targets.remove("engine", "engine-0")
        assert [labels["role"] for _, labels in read(tmp_path)] == ["controller"]
        targets.add("engine", "engine-0", Endpoint("127.0.0.1", 6001, HERE))
        assert [address for address, _ in read(tmp_path)] == ["127.0.0.1:9464", "127.0.0.1:6001"]


def test_what_no_other_machine_reaches_is_not_listed_by_one(tmp_path: Path) -> None:
    with listed(tmp_path / "my run", CONTROLLER) as targets:
        targets.add("engine", "engine-0", Endpoint("127.0.0.1", 5001, "another machine"))
        targets.add("engine", "engine-1", Endpoint("localhost", 5001, "another machine"))
        assert [labels["role"] for _, labels in read(tmp_path)] == ["controller"]


def test_a_ray_node_that_exports_nothing_is_not_listed(tmp_path: Path) -> None:
    with listed(tmp_path / "my run", CONTROLLER) as targets:
        targets.set_nodes([node("a", -1), node("b", 5003)])
        assert [labels.get("node") for _, labels in read(tmp_path)] == [None, "bbbbbbbb"]


def test_the_list_of_a_killed_run_is_gone_when_it_goes_on_without_metrics(tmp_path: Path) -> None:
    (tmp_path / "my run.targets.json").write_text("[]")
    with listed(tmp_path / "my run", None) as targets:
        targets.add("engine", "engine-0", None)
        targets.set_nodes([node("b", 5003)])
        assert list(tmp_path.iterdir()) == []


def test_the_list_is_taken_back_when_the_run_fails(tmp_path: Path) -> None:
    try:
        with listed(tmp_path / "my run", CONTROLLER):
            raise RuntimeError
    except RuntimeError:
        pass
    assert list(tmp_path.iterdir()) == []
