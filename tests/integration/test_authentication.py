"""An embedded cluster answers nobody without its token, and no listener of ours is open to other machines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from cluster.placement import Node
from tests.integration.commands import CHECKOUT, command
from tests.integration.recordings import Questions
from tests.integration.runs import Finished, write_config

REFUSED_SECONDS = 120.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("token", [{}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7" * 64}], ids=["none", "another"])
def test_a_client_without_the_token_is_refused_and_told_what_is_missing(
    token: dict[str, str], tmp_path: Path, model: Path, questions: Questions, nodes: list[Node]
) -> None:
    config = write_config(tmp_path / "stranger.yaml", model, questions.train)
    without = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    env = without | token | {
        "HOME": str(tmp_path),  # where Ray looks for a token of the user's
        "PYTHONPATH": str(CHECKOUT),
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
    }  # fmt: skip
    with command("cluster.launch", "--config", config.name, cwd=tmp_path, env=env) as stranger:
        assert stranger.wait(REFUSED_SECONDS) == 2, stranger.output
    assert "asks for a token" in stranger.lines[-1]
    assert "RAY_AUTH_TOKEN" in stranger.lines[-1]
    assert not (tmp_path / "runs").exists()


def test_of_a_runs_processes_only_rays_own_port_is_open_to_other_machines(recorded: Finished) -> None:
    ours = {name: open_ports for name, open_ports in recorded.open_ports.items() if not name.startswith("ray/")}
    assert any("LearnerActor" in name for name in ours)
    assert any("RolloutActor" in name for name in ours)
    assert {name: ports for name, ports in ours.items() if len(ports) > 1} == {}  # a worker of Ray's has one
